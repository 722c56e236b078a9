"""The entries of `metrics` in gate.json: set statistics beside what real samples of the same sizes score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

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
from balancer.quality.probe import Probe
from balancer.quality.reference import RealClass, Rules
from balancer.quality.resampling import comparable_sizes

SIZE_DEPENDENT = {
    "fid": fid,
    "mind": mind,
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "vendi": vendi,
}

# value, before (the value before the checks image by image), ci, real_vs_real, real_vs_real_ci, note; None where it
# cannot be estimated.
Metric = dict[str, Any]
Interval = tuple[float, float]


def entry(
    value: float | None,
    note: str,
    *,
    before: float | None = None,
    ci: Interval | None = None,
    real_vs_real: float | None = None,
    real_vs_real_ci: Interval | None = None,
) -> Metric:
    """One metric as gate.json has it."""
    return {
        "value": value,
        "before": before,
        "ci": list(ci) if ci else None,
        "real_vs_real": real_vs_real,
        "real_vs_real_ci": list(real_vs_real_ci) if real_vs_real_ci else None,
        "note": note,
    }


def share_interval(count: int, total: int, confidence: float) -> Interval:
    """Exact (Clopper-Pearson) interval of `count` in `total` (at least 1)."""
    found = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def spread(draws: np.ndarray, confidence: float) -> Interval:
    """The middle `confidence` of the draws."""
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def acceptance(rejected: Sequence[str | None], of_real: Sequence[str | None] | None, rules: Rules) -> Metric:
    """The share that the checks image by image let through: of the candidates, and of real images where there are any
    that the checks were not fitted on; each with a reason or None per image."""
    confidence = rules["sizes"]["confidence"]
    count, total = rejected.count(None), len(rejected)
    found = entry(
        count / total,
        "Share of candidates that the checks image by image let through.",
        before=1.0,
        ci=share_interval(count, total, confidence),
    )
    if of_real is not None:
        real_count, real_total = of_real.count(None), len(of_real)
        found["real_vs_real"] = real_count / real_total
        found["real_vs_real_ci"] = list(share_interval(real_count, real_total, confidence))
        found["note"] += f" Beside it {real_total} held-out real images."
    return found


def distance(y: np.ndarray, before: np.ndarray, real: RealClass, rules: Rules, seed: int) -> Metric:
    """KID of the features y that are left and of all, `before`; its real-vs-real has an expectation of exactly 0."""
    confidence = rules["kid"]["confidence"]
    x = real.reference.features
    m, n = comparable_sizes(len(real.pool), len(x), len(y))
    draws = kid.real_vs_real(real.pool.features, m, n, rules["sizes"]["draws"], seed)
    return entry(
        kid.compute(x, y),
        f"Of {len(x)} real and {len(y)} synthetic images; real-vs-real of {m} and {n}. {real.note}",
        before=kid.compute(x, before),
        ci=kid.interval(x, y, confidence),
        real_vs_real=float(draws.mean()),
        real_vs_real_ci=spread(draws, confidence),
    )


def size_dependent(
    y: np.ndarray, before: np.ndarray, real: RealClass, rules: Rules, seed: int
) -> dict[str, Metric]:
    """Metrics that change with the sample sizes: means over draws of the sizes that real-vs-real can have."""
    draws, confidence = rules["sizes"]["draws"], rules["sizes"]["confidence"]
    m, n = comparable_sizes(len(real.pool), len(real.reference), len(y))
    # In an orthonormal basis of the rows' span these metrics are the same (MIND in expectation), and faster.
    rows = np.concatenate([real.pool.features, before, y]).astype(np.float64)
    if len(rows) < rows.shape[1]:
        rows = np.asarray(np.linalg.qr(rows.T, mode="r")).T
    pool, before, y = np.split(rows, np.cumsum([len(real.pool), len(before)]))
    x = pool[: len(real.reference)]
    pairs = [_pairs(m, n, x, sample, draws, seed) for sample in _different(y, before)]
    drawn = f"Mean over {draws} draws of" if len(pairs[0]) > 1 else "Of"
    metrics = {}
    for name, module in SIZE_DEPENDENT.items():
        if min(m, n) <= getattr(module, "K", 1):
            metrics[name] = entry(None, f"{m} real images are too few for it.")
            continue
        values = [float(np.mean([module.compute(a, b) for a, b in pair])) for pair in pairs]
        among_real = module.real_vs_real(pool, m, n, draws, seed)
        metrics[name] = entry(
            values[0],
            f"{drawn} {m} real and {n} synthetic images, the sizes of real-vs-real; no interval, since the value depends on "
            "these sizes.",
            before=values[-1],
            real_vs_real=float(among_real.mean()),
            real_vs_real_ci=spread(among_real, confidence),
        )
    return metrics


def repeated(pixels: np.ndarray, before: np.ndarray, real: RealClass, rules: Rules, seed: int) -> Metric:
    """Share of near-duplicates within the set (uint8 N×R×R×3 that are left, and all).

    It grows with the set, so that `at_size` has the share in draws of a size that real images have, `size`.
    """
    draws, confidence = rules["sizes"]["draws"], rules["sizes"]["confidence"]
    n = min(len(pixels), len(real.pool) // 2)
    sets = [repeats.kinds(images) for images in _different(pixels, before)]
    value = repeats.compute(sets[0])
    drawn = float(repeats.at_size(sets[0], n, draws, seed).mean())
    among_real = repeats.at_size(repeats.kinds(real.pool.pixels), n, draws, seed)
    found = entry(
        value,
        f"Share of images that another one of the set nearly copies; real images in draws of {n}, where of these it is "
        f"{drawn:.0%}.",
        before=repeats.compute(sets[-1]),
        ci=share_interval(round(value * len(pixels)), len(pixels), confidence),
        real_vs_real=float(among_real.mean()),
        real_vs_real_ci=spread(among_real, confidence),
    )
    return found | {
        "size": n,
        "at_size": drawn,
        "at_size_ci": list(share_interval(round(drawn * n), n, confidence)),
    }


def authentic(y: np.ndarray, before: np.ndarray, real: RealClass, rules: Rules) -> Metric:
    """AuthPct against the images that the generator was trained on; features y that are left, and all."""
    confidence = rules["sizes"]["confidence"]
    x = real.trained_on.features
    if len(x) < 2:
        return entry(None, f"{len(x)} train images are too few for it.")
    note = f"Share farther from the nearest of {len(x)} train images than that is from its own nearest"
    value = authenticity.compute(x, y)
    found = entry(
        value,
        f"{note}; nothing to compare with, since too few real images were held out.",
        before=authenticity.compute(x, before),
        ci=share_interval(round(value * len(y)), len(y), confidence),
    )
    if real.held_out:
        total = len(real.reference)
        share = authenticity.compute(x, real.reference.features)
        found["real_vs_real"] = share
        found["real_vs_real_ci"] = list(share_interval(round(share * total), total, confidence))
        found["note"] = f"{note}; beside it {total} held-out real images."
    return found


def label_agreement(
    y: np.ndarray, before: np.ndarray, label: str, linear: Probe | None, rules: Rules
) -> Metric:
    """Share taken for its class by a linear probe, of the features y that are left and of all; beside it real images."""
    confidence = rules["label_agreement"]["confidence"]
    if linear is None or label not in linear.recognised:
        return entry(None, "No linear probe could be fitted: it takes two classes with two real images each.")
    share = linear.agreement(y, label)
    count, total = linear.recognised[label]
    return entry(
        share,
        f"Share that a cross-fitted linear probe on real features takes for {label}; beside it {total} real images.",
        before=linear.agreement(before, label),
        ci=share_interval(round(share * len(y)), len(y), confidence),
        real_vs_real=count / total,
        real_vs_real_ci=share_interval(count, total, confidence),
    )


def _different(left: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, ...]:
    """Both samples, or one where nothing was rejected: what is left is a part of what was there before."""
    return (left,) if len(left) == len(before) else (left, before)


def _pairs(
    m: int, n: int, x: np.ndarray, y: np.ndarray, draws: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws of m rows of x and n rows of y without replacement; a single one where that is all of both."""
    if (m, n) == (len(x), len(y)):
        return [(x, y)]
    rng = np.random.default_rng(seed)
    return [(x[rng.permutation(len(x))[:m]], y[rng.permutation(len(y))[:n]]) for _ in range(draws)]
