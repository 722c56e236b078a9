"""Fréchet Inception distance (arXiv 1706.08500), reported beside real-vs-real only: it is biased by size."""

from __future__ import annotations

import numpy as np

from balancer.quality.resampling import disjoint_pairs


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """FID = |μx − μy|² + tr(Σx + Σy − 2(ΣxΣy)^½) of features m×d and n×d, in float64; at least two rows each.

    With Σx = AᵀA and Σy = BᵀB, tr (ΣxΣy)^½ is the sum of the singular values of ABᵀ: exact also where the
    covariances are singular (m or n <= d), and quick there.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = _root(x), _root(y)
    difference = x.mean(axis=0) - y.mean(axis=0)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(difference @ difference + (a**2).sum() + (b**2).sum() - 2 * overlap)


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """None: FID's bias, about c/n with a c that depends on the data, is far larger than its spread.

    Two real halves of one class score 20 to 30 at 150 images each, so no interval about the value holds the
    distance between the distributions; what helps is real-vs-real at the same sizes.
    """
    return None


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """FID of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    return np.array([compute(real[i], real[j]) for i, j in disjoint_pairs(len(real), m, n, draws, seed)])


def _root(features: np.ndarray) -> np.ndarray:
    """A with AᵀA the covariance, of at most d rows."""
    a = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a
