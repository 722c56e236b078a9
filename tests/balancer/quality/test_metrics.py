"""Every set metric has the same three functions; each is compared with an independent reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torch_fidelity.metric_prc import calculate_precision_recall_full

from balancer.quality import (
    authenticity,
    coverage,
    density,
    fid,
    kid,
    mind,
    precision,
    recall,
    repeats,
    vendi,
)
from balancer.quality.resampling import comparable_sizes, disjoint_pairs, subsamples

METRICS = [fid, kid, mind, precision, recall, density, coverage, authenticity, vendi]


def features(m: int, d: int = 16, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 0.4, (m, d)).astype(np.float32) + np.float32(shift)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__.rpartition(".")[2])
def test_common_shape(metric: ModuleType) -> None:
    real = features(40)
    value = metric.compute(real[:15], real[15:])
    assert isinstance(value, float) and np.isfinite(value)
    ci = metric.interval(real[:15], real[15:])
    assert ci is None or ci[0] < value < ci[1]
    draws = metric.real_vs_real(real, 12, 20, draws=5, seed=3)
    assert draws.shape == (5,) and draws.dtype == np.float64
    np.testing.assert_array_equal(draws, metric.real_vs_real(real, 12, 20, draws=5, seed=3))
    pairs = disjoint_pairs(40, 12, 20, 5, seed=3)
    np.testing.assert_allclose(draws, [metric.compute(real[i], real[j]) for i, j in pairs], atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(10, 30), (30, 10), (60, 50)])
def test_fid_is_the_textbook_formula_and_torch_fidelitys(m: int, n: int) -> None:
    x, y = features(m).astype(np.float64), features(n, shift=0.2, seed=1).astype(np.float64)
    found = fid.compute(x, y)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(side)) for side in (x, y)), verbose=False
    )["frechet_inception_distance"]
    assert found == pytest.approx(theirs, rel=1e-5)
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(16)).real
    textbook = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert found == pytest.approx(textbook, rel=1e-3)


def test_kid_equals_torch_fidelity_at_equal_sizes() -> None:
    x, y = features(30), features(30, shift=0.1, seed=1)
    theirs = kernel_mmd(
        x.astype(np.float64),
        y.astype(np.float64),
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
    )
    assert kid.compute(x, y) == pytest.approx(theirs, rel=1e-10)


def test_kid_of_unequal_sizes_is_the_sum_over_pairs() -> None:
    x, y = features(7), features(5, shift=0.1, seed=1)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a.astype(float) @ b.astype(float)) / 16 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kid.compute(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=1e-10)


def test_kid_is_unbiased_among_real_images() -> None:
    """Over all random splits its mean is exactly 0, whatever the sizes: no real-vs-real needs taking off."""
    draws = kid.real_vs_real(features(60), 10, 40, draws=2000, seed=0)
    assert abs(draws.mean()) < 4 * draws.std() / np.sqrt(len(draws))


def test_kid_jackknife_in_closed_form_equals_leaving_rows_out() -> None:
    x, y = features(9), features(6, shift=0.1, seed=1)
    kernels = kid.kernel(x, x), kid.kernel(y, y), kid.kernel(x, y)
    for rows, found in (
        (
            [kid.compute(np.delete(x, i, 0), y) for i in range(9)],
            kid._jackknife_variance(kid._sums(kernels[0], kernels[2]), 6),
        ),
        (
            [kid.compute(x, np.delete(y, i, 0)) for i in range(6)],
            kid._jackknife_variance(kid._sums(kernels[1], kernels[2].T), 9),
        ),
    ):
        assert found == pytest.approx((len(rows) - 1) * np.var(rows), rel=1e-8)


@pytest.mark.parametrize("shift", [0.0, 0.05])
@pytest.mark.parametrize(("m", "n"), [(8, 8), (12, 60), (40, 40)])
def test_kid_interval_covers(m: int, n: int, shift: float) -> None:
    population = kid.compute(features(4000), features(4000, shift=shift, seed=1)) if shift else 0.0
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        x = rng.gamma(1.0, 0.4, (m, 16))
        y = rng.gamma(1.0, 0.4, (n, 16)) + shift
        ci = kid.interval(x, y)
        assert ci is not None
        held += ci[0] <= population <= ci[1]
    assert held >= 0.9 * 200


def test_kid_interval_needs_four_rows() -> None:
    assert kid.interval(features(3), features(9)) is None
    assert kid.interval(np.ones((5, 4)), np.ones((5, 4))) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_precision_and_recall_equal_torch_fidelity() -> None:
    real, synthetic = features(80, d=4), features(60, d=4, shift=0.3, seed=1)
    theirs = calculate_precision_recall_full(
        torch.from_numpy(synthetic), torch.from_numpy(real), neighborhood=3
    )
    assert precision.compute(real, synthetic) == pytest.approx(theirs[0], abs=1e-6)
    assert recall.compute(real, synthetic) == pytest.approx(theirs[1], abs=1e-6)
    assert 0.05 < theirs[0] < 0.95 and 0.05 < theirs[1] < 0.95


def test_density_coverage_authenticity_are_their_definitions() -> None:
    x, y = features(40, d=4), features(30, d=4, shift=0.2, seed=1)
    radius = [sorted(np.linalg.norm(x - a, axis=1))[5] for a in x]
    inside = np.array([[np.linalg.norm(a - b) <= r for b in y] for a, r in zip(x, radius, strict=True)])
    assert density.compute(x, y) == pytest.approx(inside.sum() / (5 * 30))
    assert coverage.compute(x, y) == pytest.approx(inside.any(axis=1).mean())
    to_real, own = cdist(y, x), cdist(x, x) + 1e9 * np.eye(40)
    authentic = [to_real[j].min() > own[to_real[j].argmin()].min() for j in range(30)]
    assert authenticity.compute(x, y) == pytest.approx(np.mean(authentic))
    assert authenticity.compute(x, x) == 0  # copies are never authentic


def test_mind_is_the_published_formula() -> None:
    x, y = features(30), features(30, shift=0.1, seed=1)
    u = np.random.default_rng(mind.SEED).standard_normal((mind.DIRECTIONS, 16))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    gaps = [((np.sort(x @ direction) - np.sort(y @ direction)) ** 2).sum() for direction in u]
    assert mind.compute(x, y) == pytest.approx(3 * 16 / (mind.DIRECTIONS * 30) * np.sum(gaps), rel=1e-5)
    assert mind.compute(x, x) == 0


def test_mind_of_unequal_sizes_is_that_of_the_samples_repeated_to_one_size() -> None:
    """Repeating every row as often changes no quantile function."""
    x, y = features(12), features(20, shift=0.1, seed=1)
    assert mind.compute(x, y) == pytest.approx(mind.compute(np.repeat(x, 5, 0), np.repeat(y, 3, 0)), rel=1e-9)
    assert mind.compute(x, y) == pytest.approx(mind.compute(y, x), rel=1e-9)


def test_mind_of_a_shift_is_three_times_its_square() -> None:
    """E (u·s)² = |s|²/d for unit directions u."""
    x = features(50)
    assert mind.compute(x, x + np.float32(0.5)) == pytest.approx(3 * 16 * 0.25, rel=0.1)


def test_vendi_counts_modes() -> None:
    origin = np.zeros((3, 8))
    assert vendi.compute(origin, np.eye(8)) == pytest.approx(8)
    assert vendi.compute(origin, np.ones((8, 8))) == pytest.approx(1)
    assert vendi.compute(origin, np.repeat(np.eye(8)[:2], 10, axis=0)) == pytest.approx(2)


def test_vendi_is_the_published_formula_about_the_real_mean() -> None:
    x, y = features(30), features(20, shift=0.2, seed=1)
    centred = y.astype(float) - x.mean(0)
    cosines = 1 - cdist(centred, centred, "cosine")
    eigenvalues = linalg.eigvalsh(cosines / 20)
    entropy = -sum(value * np.log(value) for value in eigenvalues if value > 1e-15)
    assert vendi.compute(x, y) == pytest.approx(np.exp(entropy), rel=1e-4)


def test_repeats_are_images_with_a_twin() -> None:
    assert repeats.compute(np.array([0, 1, 1, 2, 2, 2])) == pytest.approx(5 / 6)
    assert repeats.compute(np.arange(4)) == 0
    kind = np.repeat(np.arange(20), 2)
    draws = repeats.at_size(kind, 10, 2000, seed=0)  # a twin is among 9 of the 39 others
    assert draws.mean() == pytest.approx(9 / 39, abs=0.02)


def test_repeats_are_found_flipped() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    kind = repeats.kinds(np.concatenate([images, images[:2, ::-1], images[:1].swapaxes(1, 2)]))
    assert kind[0] == kind[6] == kind[8] and kind[1] == kind[7] and len(set(kind)) == 6


def test_subsamples_are_without_replacement() -> None:
    for rows in subsamples(10, 6, 20, seed=0):
        assert len(set(rows)) == 6 and set(rows) <= set(range(10))


def test_disjoint_pairs() -> None:
    for i, j in disjoint_pairs(10, 4, 6, 20, seed=0):
        assert sorted([*i, *j]) == list(range(10))
    with pytest.raises(ValueError, match="cannot be drawn"):
        next(disjoint_pairs(10, 5, 6, 1, seed=0))


@pytest.mark.parametrize(
    ("total", "m", "n"), [(10, 4, 6), (10, 9, 9), (100, 15, 1000), (31, 300, 20), (3, 2, 2)]
)
def test_comparable_sizes_fit_and_waste_nothing(total: int, m: int, n: int) -> None:
    a, b = comparable_sizes(total, m, n)
    assert a <= m and b <= n and a + b <= total
    assert a + b >= min(total, m + n) - 1
