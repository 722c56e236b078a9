"""Kernel Inception distance (arXiv 1801.01401): unbiased by size, so that small sets can be judged by it."""

from __future__ import annotations

import numpy as np
from scipy import stats

from balancer.quality.resampling import disjoint_pairs


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(a, b) = (a·b/d + 1)³ for all pairs of rows: float64 m×n."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return (x @ y.T / x.shape[1] + 1) ** 3


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """KID, the unbiased MMD² of features m×d and n×d (m, n >= 2, sizes may differ). It can be negative.

    Σ_{i≠j} k(xi, xj) / (m(m−1)) + Σ_{i≠j} k(yi, yj) / (n(n−1)) − 2 mean k(xi, yj).
    """
    return _mmd2(kernel(x, x), kernel(y, y), kernel(x, y))


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of KID from kernel sums, without resampling; None below four rows on a side.

    The delete-one jackknife of both samples, in closed form, gives the variance; it counts the part that
    comes from pairs (the whole of it where the distributions are equal) twice, so that part is estimated by
    itself, from doubly centred kernels, and taken off once (Efron and Stein 1981, Ann. Stat. 9:586). Quantiles
    are Student's with Welch's degrees of freedom.
    """
    if min(len(x), len(y)) < 4:
        return None
    return _interval(kernel(x, x), kernel(y, y), kernel(x, y), confidence)


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """KID of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    k = kernel(real, real)
    return np.array(
        [
            _mmd2(k[np.ix_(i, i)], k[np.ix_(j, j)], k[np.ix_(i, j)])
            for i, j in disjoint_pairs(len(real), m, n, draws, seed)
        ]
    )


def _mmd2(kxx: np.ndarray, kyy: np.ndarray, kxy: np.ndarray) -> float:
    m, n = kxy.shape
    within_x = (kxx.sum() - np.trace(kxx)) / (m * (m - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within_x + within_y - 2 * kxy.mean())


def _interval(kxx: np.ndarray, kyy: np.ndarray, kxy: np.ndarray, confidence: float) -> tuple[float, float]:
    m, n = kxy.shape
    value = _mmd2(kxx, kyy, kxy)
    of_x = _jackknife_variance(kxx, kxy)
    of_y = _jackknife_variance(kyy, kxy.T)
    centred = kxy - kxy.mean(axis=0) - kxy.mean(axis=1, keepdims=True) + kxy.mean()
    of_pairs = (
        2 * _pair_variance(kxx) / (m * (m - 1))
        + 2 * _pair_variance(kyy) / (n * (n - 1))
        + 4 * (centred**2).sum() / ((m - 1) * (n - 1)) / (m * n)
    )
    variance = max(of_x + of_y - of_pairs, of_pairs)
    # Welch and Satterthwaite; rows that are all alike have no variance and one degree of freedom fewer.
    freedom = (of_x + of_y) ** 2 / max(of_x**2 / (m - 1) + of_y**2 / (n - 1), np.finfo(float).tiny)
    half = stats.t.ppf(0.5 + confidence / 2, max(freedom, min(m, n) - 1)) * np.sqrt(variance)
    return float(value - half), float(value + half)


def _jackknife_variance(kxx: np.ndarray, kxy: np.ndarray) -> float:
    """The part of the delete-one variance that comes from leaving out the rows of x."""
    m, n = kxy.shape
    row = kxx.sum(axis=1) - np.diag(kxx)
    cross = kxy.sum(axis=1)
    without = (row.sum() - 2 * row) / ((m - 1) * (m - 2)) - 2 * (cross.sum() - cross) / ((m - 1) * n)
    return float((m - 1) * without.var())


def _pair_variance(k: np.ndarray) -> float:
    """Unbiased estimate of E[h(x, x')²], h the kernel centred in both arguments (U-centring, Székely and Rizzo
    2014, Ann. Stat. 42:2382); at least four rows."""
    n = len(k)
    k = k - np.diag(np.diag(k))
    row = k.sum(axis=1) / (n - 2)
    centred = k - row - row[:, None] + k.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return float((centred**2).sum() / (n * (n - 3)))
