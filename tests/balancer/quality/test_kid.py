"""KID's interval on real cells, and the verdict that follows from it; the formulas are in test_metrics.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.quality import kid
from balancer.quality.features import inception


@pytest.mark.parametrize(
    ("ci", "verdict"),
    [
        ((-0.01, 0.029), "pass"),
        ((-0.01, 0.031), "warn"),
        ((0.031, 0.04), "fail"),
        ((0.031, 0.2), "fail"),  # however wide
        ((-0.01, 0.06), "insufficient-data"),
        ((-0.06, 0.02), "insufficient-data"),  # below by luck: a set of another class might be so too
    ],
)
def test_decide(ci: tuple[float, float], verdict: str) -> None:
    assert kid.decide(ci, margin=0.03) == verdict


def pbc(real_data: Path, label: str, n: int) -> np.ndarray:
    paths = sorted((real_data / "pbc" / label).rglob("*.jpg"))
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:n]]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths])


@pytest.mark.slow
def test_interval_covers_on_real_cells(real_data: Path) -> None:
    """At least 90 % for a nominal 95 %: drawn without replacement, the pool's own KID is the true value (0 within a
    class), since KID is unbiased. Within each class, between two, and of a class with every fourth image of another."""
    extract = inception()
    size, draws = 700, 400
    pools = [extract(pbc(real_data, label, size)) for label in ("neutrophil", "basophil")]
    k = kid.kernel(np.concatenate(pools), np.concatenate(pools))
    k -= k.mean()
    between = kid.compute(*pools)
    rng = np.random.default_rng(0)
    for m, n in [(15, 15), (30, 30), (100, 100), (300, 300), (15, 300), (30, 300)]:
        for case, truth in {"first": 0.0, "second": 0.0, "mixed": between / 16, "between": between}.items():
            held = 0
            for _ in range(draws):
                order, other = rng.permutation(size), size + rng.permutation(size)
                if case == "second":
                    i, j = other[:m], other[m : m + n]
                else:
                    foreign = {"first": 0, "mixed": rng.binomial(n, 0.25), "between": n}[case]
                    i, j = order[:m], np.concatenate([order[m : m + n - foreign], other[:foreign]])
                kxy = k[np.ix_(i, j)]
                sums = kid._sums(k[np.ix_(i, i)], kxy), kid._sums(k[np.ix_(j, j)], kxy.T)
                _, (low, high) = kid.estimate(*sums, (kxy**2).sum(), 0.95)
                held += low <= truth <= high
            print(f"{m:4} real, {n:4} synthetic, {case}: {held / draws:.1%}")
            assert held >= 0.9 * draws, (m, n, case, held)
