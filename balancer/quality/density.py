"""Density (arXiv 2002.09797): how many real neighbourhoods hold a synthetic image, in units of K."""

from __future__ import annotations

import numpy as np

from balancer.quality.neighbours import distances, radii
from balancer.quality.resampling import disjoint_pairs

K = 5


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """Mean number of balls of x (more than K rows) that hold a row of y, over K: from 0, about 1 for equals."""
    return float((distances(x, y) <= radii(x, K)[:, None]).sum(axis=0).mean() / K)


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """None: balls of k-th neighbours shrink as the sample grows, so that the value is one of its size."""
    return None


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """Density of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    return np.array([compute(real[i], real[j]) for i, j in disjoint_pairs(len(real), m, n, draws, seed)])
