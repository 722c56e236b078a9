"""Kernel Inception distance (arXiv 1801.01401): unbiased by size, so that small sets can be judged by it."""

from __future__ import annotations

import math
from typing import NamedTuple

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
    kxy = kernel(x, y)
    level = kxy.mean()  # taken off, as sums of squares would lose digits to it
    kxx, kyy, kxy = kernel(x, x) - level, kernel(y, y) - level, kxy - level
    _, (low, high) = estimate(_sums(kxx, kxy), _sums(kyy, kxy.T), (kxy**2).sum(), confidence)
    return float(low), float(high)


def decide(ci: tuple[float, float], margin: float) -> str:
    """The verdict on a class whose KID has the interval `ci`, with a margin that was stated before.

    Real-vs-real has an expectation of exactly 0 (KID is unbiased), so that the excess over it is KID itself. `fail`
    where all of the interval lies above the margin, `pass` where all of it lies below; across it `warn`, or
    `insufficient-data` where half the interval is wider than the margin, so that hardly any value could pass.

    >>> decide((-0.01, 0.02), 0.03), decide((0.02, 0.04), 0.03), decide((-0.05, 0.05), 0.03), decide((0.04, 0.2), 0.03)
    ('pass', 'warn', 'insufficient-data', 'fail')
    """
    low, high = ci
    if low > margin:
        return "fail"
    if (high - low) / 2 > margin:
        return "insufficient-data"
    return "pass" if high < margin else "warn"


def decimals(margin: float) -> int:
    """Decimals that tell a KID beside its margin: four, or as many as show two digits of the margin.

    The scale of KID is that of the features, to the sixth power.

    >>> decimals(0.0062), decimals(0.00000123), decimals(-0.1)
    (4, 7, 4)
    """
    return max(4, 1 - math.floor(math.log10(margin))) if margin > 0 else 4


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


class Sums(NamedTuple):
    """Sums over the kernels of one sample, all that KID and its interval need; leading axes are draws."""

    own: np.ndarray  # …×m, Σ_{j≠i} k(xi, xj)
    other: np.ndarray  # …×m, Σ_j k(xi, yj)
    squares: np.ndarray  # …, Σ_{i≠j} k(xi, xj)²


def estimate(
    x: Sums, y: Sums, squares: np.ndarray, confidence: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """KID and its `interval`, each of the leading axes, from sums of kernels; `squares` is Σ k(xi, yj)². m, n >= 4.

    A constant taken off all kernels changes nothing but the rounding.
    """
    m, n = x.own.shape[-1], y.own.shape[-1]
    between = x.other.sum(-1) / (m * n)
    value = x.own.sum(-1) / (m * (m - 1)) + y.own.sum(-1) / (n * (n - 1)) - 2 * between
    of_x, of_y = _jackknife_variance(x, n), _jackknife_variance(y, m)
    centred = squares - (x.other**2).sum(-1) / n - (y.other**2).sum(-1) / m + m * n * between**2
    of_pairs = (
        2 * _pair_variance(x) / (m * (m - 1))
        + 2 * _pair_variance(y) / (n * (n - 1))
        + 4 * centred / ((m - 1) * (n - 1)) / (m * n)
    )
    variance = np.maximum(of_x + of_y - of_pairs, of_pairs)
    # Welch and Satterthwaite; rows that are all alike have no variance and one degree of freedom fewer.
    spread = np.maximum(of_x**2 / (m - 1) + of_y**2 / (n - 1), np.finfo(float).tiny)
    freedom = np.maximum((of_x + of_y) ** 2 / spread, min(m, n) - 1)
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(np.maximum(variance, 0))
    return value, (value - half, value + half)


def _sums(kxx: np.ndarray, kxy: np.ndarray) -> Sums:
    diagonal = np.diag(kxx)
    return Sums(kxx.sum(axis=1) - diagonal, kxy.sum(axis=1), (kxx**2).sum() - (diagonal**2).sum())


def _jackknife_variance(x: Sums, n: int) -> np.ndarray:
    """The part of the delete-one variance that comes from leaving out the rows of x, of m; n rows on the other side."""
    m = x.own.shape[-1]
    own = (x.own.sum(-1, keepdims=True) - 2 * x.own) / ((m - 1) * (m - 2))
    other = (x.other.sum(-1, keepdims=True) - x.other) / ((m - 1) * n)
    return (m - 1) * (own - 2 * other).var(-1)


def _pair_variance(x: Sums) -> np.ndarray:
    """Unbiased estimate of E[h(x, x')²], h the kernel centred in both arguments (U-centring, Székely and Rizzo
    2014, Ann. Stat. 42:2382), from sums; at least four rows."""
    m = x.own.shape[-1]
    centred = x.squares - 2 * (x.own**2).sum(-1) / (m - 2) + x.own.sum(-1) ** 2 / ((m - 1) * (m - 2))
    return centred / (m * (m - 3))
