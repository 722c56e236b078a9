from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from classifier.imbalance import (
    LDAM,
    LOSSES,
    SAMPLINGS,
    CrossEntropy,
    Focal,
    batches,
    class_weights,
    effective_number_weights,
)

COUNTS = np.array([70, 20, 10])
LABELS = np.repeat([0, 1, 2], COUNTS)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = rng.integers(0, 3, 16)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), p[np.arange(16), labels]


def test_class_weights_are_scikit_learns_and_average_to_one() -> None:
    weights = class_weights(COUNTS)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=LABELS))
    assert weights[LABELS].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(np.array([30, 0, 10])), [40 / 60, 0, 2])


def test_effective_number_weights_are_cuis() -> None:
    weights = effective_number_weights(np.array([1000, 50, 0, 5]), beta=0.999)
    # E_n = (1 − β^n) / (1 − β), the sum of the geometric series 1 + β + … + β^(n−1)
    effective = np.array([np.sum(0.999 ** np.arange(n)) for n in (1000, 50, 5)])
    np.testing.assert_allclose(weights[[0, 1, 3]], 3 / effective / (1 / effective).sum())
    assert weights[2] == 0
    np.testing.assert_allclose(effective_number_weights(COUNTS, beta=0), [1, 1, 1])
    inverse = class_weights(COUNTS)
    np.testing.assert_allclose(
        effective_number_weights(COUNTS, 1 - 1e-9), 3 * inverse / inverse.sum(), rtol=1e-6
    )


def weighted_mean(
    loss: CrossEntropy, logits: torch.Tensor, labels: torch.Tensor, progress: float = 0.0
) -> float:
    w = loss.weights(labels, progress)
    return ((w * loss(logits, labels)).sum() / w.sum()).item()


def test_losses_equal_their_formulas(batch: tuple[torch.Tensor, torch.Tensor, np.ndarray]) -> None:
    logits, labels, p = batch
    z, y = logits.double().numpy(), labels.numpy()
    w, e = class_weights(COUNTS)[y], ((1 - 0.999) / (1 - 0.999**COUNTS))[y]
    # balanced softmax: n_y e^{z_y} / Σ n_k e^{z_k}
    q = COUNTS[y] * np.exp(z[np.arange(16), y]) / (COUNTS * np.exp(z)).sum(1)
    # LDAM: e^{s(cos − Δ_y)} / (e^{s(cos − Δ_y)} + Σ_{k≠y} e^{s cos}), with z = s cos; Δ of 10 images is ½
    own = np.exp(z[np.arange(16), y] - 30 * 0.5 * (10 / COUNTS[y]) ** 0.25)
    m = own / (own + np.exp(z).sum(1) - np.exp(z[np.arange(16), y]))
    late = ((1 - 0.9999) / (1 - 0.9999**COUNTS))[y]
    expected = {
        "cross-entropy": -np.log(p).mean(),
        "class-weights": -(w * np.log(p)).sum() / w.sum(),
        "effective-number": -(e * np.log(p)).sum() / e.sum(),
        "focal": -((1 - p) ** 2 * np.log(p)).mean(),
        "balanced-softmax": -np.log(q).mean(),
        "logit-adjustment": -np.log(p).mean(),
        "ldam": -np.log(m).mean(),
    }
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        assert weighted_mean(LOSSES[name](COUNTS), logits, labels) == pytest.approx(value, rel=1e-5), name
    assert weighted_mean(Focal(COUNTS, gamma=0), logits, labels) == pytest.approx(-np.log(p).mean(), rel=1e-5)
    for progress, value in ((0.79, -np.log(m).mean()), (0.8, -(late * np.log(m)).sum() / late.sum())):
        assert weighted_mean(LDAM(COUNTS), logits, labels, progress) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_bear_empty_classes_and_sure_errors(name: str) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    loss, labels = LOSSES[name](np.array([5, 5, 0])), torch.tensor([1])
    value = (loss.weights(labels, 1.0) * loss(logits, labels)).sum()
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_natural_sampling_is_epochs() -> None:
    drawn = np.concatenate(list(islice(batches(LABELS, 25, "natural", seed=1), 8)))
    for epoch in (drawn[:100], drawn[100:]):
        assert sorted(epoch) == list(range(100))
    assert drawn[:100].tolist() != drawn[100:].tolist()


def test_balanced_sampling_gives_every_class_and_every_image_its_share() -> None:
    drawn = np.concatenate(list(islice(batches(LABELS, 30, "balanced", seed=1), 14)))
    np.testing.assert_array_equal(np.bincount(LABELS[drawn]), [140, 140, 140])
    times = np.bincount(drawn, minlength=100)
    assert set(times[LABELS == 0]) == {2}
    assert set(times[LABELS == 2]) == {14}


def test_square_root_sampling_draws_classes_by_the_root_of_their_size() -> None:
    labels = np.repeat([0, 2, 3], [900, 100, 25])
    drawn = np.concatenate(list(islice(batches(labels, 100, "square-root", seed=1), 90)))
    # of 9000: 30 / 45, 10 / 45 and 5 / 45; five standard deviations
    assert np.bincount(labels[drawn])[[0, 2, 3]] == pytest.approx([6000, 2000, 1000], abs=5 * 45)
    times = np.bincount(drawn)
    assert np.ptp(times[labels == 0]) <= 1 and np.ptp(times[labels == 3]) <= 1


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling_repeats_with_the_seed(name: str) -> None:
    once, again, other = (
        np.concatenate(list(islice(batches(LABELS, 7, name, seed=seed), 9))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.int64
    assert once.tolist() != other.tolist()


def test_batches_larger_than_the_split_and_absent_classes() -> None:
    first = next(batches(np.array([0, 0, 2]), 64, "balanced", seed=0))
    assert len(first) == 64
    assert np.count_nonzero(first == 2) == 32
