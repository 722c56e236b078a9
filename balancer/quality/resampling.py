"""Draws that every metric module shares: one or two disjoint samples of given sizes from one sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def disjoint_pairs(
    total: int, m: int, n: int, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `draws` pairs of index arrays (length m and n) into range(total), disjoint, without replacement.

    Without replacement because a bootstrap makes identical pairs, which distances between samples take for
    likeness. Raises ValueError when m + n exceeds `total`.
    """
    if m + n > total:
        raise ValueError(f"Two disjoint samples of {m} and {n} cannot be drawn from {total}.")
    for order in _orders(total, draws, seed):
        yield order[:m], order[m : m + n]


def subsamples(total: int, n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `draws` index arrays of length n into range(total), without replacement; n <= total."""
    for order in _orders(total, draws, seed):
        yield order[:n]


def comparable_sizes(total: int, m: int, n: int) -> tuple[int, int]:
    """The largest sizes (m' <= m, n' <= n) of two disjoint samples out of `total`, the smaller side kept longest.

    >>> comparable_sizes(1000, 100, 300), comparable_sizes(150, 100, 300), comparable_sizes(150, 40, 300)
    ((100, 300), (75, 75), (40, 110))
    """
    if m <= n:
        small = min(m, total // 2)
        return small, min(n, total - small)
    small = min(n, total // 2)
    return min(m, total - small), small


def _orders(total: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield rng.permutation(total)
