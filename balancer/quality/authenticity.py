"""Authenticity (AuthPct, arXiv 2102.08921): the share of images that are no closer to a real image than its kin."""

from __future__ import annotations

import numpy as np

from balancer.quality.neighbours import distances, radii
from balancer.quality.resampling import disjoint_pairs


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """Share of rows of y that are farther from their nearest row of x than that is from its own nearest in x."""
    to_real = distances(x, y)
    nearest = to_real.argmin(axis=0)
    return float((to_real.min(axis=0) > radii(x, 1)[nearest]).mean())


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """None: distances to nearest neighbours shrink as the sample grows, so that the value is one of its size."""
    return None


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """Authenticity of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    return np.array([compute(real[i], real[j]) for i, j in disjoint_pairs(len(real), m, n, draws, seed)])
