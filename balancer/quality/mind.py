"""Monge inception distance (MIND, arXiv 2605.06797): a sliced optimal-transport distance between features."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from balancer.quality.resampling import disjoint_pairs

DIRECTIONS = 1000
SEED = 0  # of the directions, so that equal features have equal distances


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """MIND = 3d/(M n) Σ_u Σ_j (sort(u·x)_j − sort(u·y)_j)² of features m×d and n×d, over M unit directions u.

    Sizes may differ: the sum over j is the squared difference of the two quantile functions, which are steps, and is
    taken exactly over all of their steps; at m = n that is the sum above. Not negative, and biased upwards by size.
    """
    u = _directions(x.shape[1])
    return _distance(u @ _columns(x), u @ _columns(y), x.shape[1])


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """None: two samples of one distribution are not at distance 0 but at one that depends on their sizes."""
    return None


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """MIND of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    projected = _directions(real.shape[1]) @ _columns(real)
    return np.array(
        [
            _distance(projected[:, i], projected[:, j], real.shape[1])
            for i, j in disjoint_pairs(len(real), m, n, draws, seed)
        ]
    )


@lru_cache(maxsize=2)
def _directions(d: int) -> np.ndarray:
    u = np.random.default_rng(SEED).standard_normal((DIRECTIONS, d))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def _columns(features: np.ndarray) -> np.ndarray:
    return np.asarray(features, dtype=np.float64).T


def _distance(of_x: np.ndarray, of_y: np.ndarray, d: int) -> float:
    """3d times the mean over directions of the squared Wasserstein-2 distance between projections M×m and M×n."""
    m, n = of_x.shape[1], of_y.shape[1]
    # Steps of both quantile functions in units of 1/(m n), so that equal ones are equal.
    steps = np.union1d(np.arange(m + 1) * n, np.arange(n + 1) * m)
    start, width = steps[:-1], np.diff(steps) / (m * n)
    gap = np.sort(of_x, axis=1)[:, start // n] - np.sort(of_y, axis=1)[:, start // m]
    return float(3 * d * (gap**2 @ width).mean())
