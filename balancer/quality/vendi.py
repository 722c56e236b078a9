"""Vendi score (arXiv 2210.02410): the effective number of modes of a sample, from 1 to its size."""

from __future__ import annotations

import numpy as np

from balancer.quality.resampling import disjoint_pairs


def compute(x: np.ndarray, y: np.ndarray) -> float:
    """exp(−Σ λ log λ) over the eigenvalues λ of K/n, K the cosines of the rows of y (n×d) about the mean of x (m×d).

    About the real mean, since nearly all of two cells' features is what all cells share: from the origin, 30 real
    neutrophils score 2.5 and 15 versions of two of them 2.2; from the mean, 18.8 and 5.8 (Inception, 64 px).
    """
    y = np.asarray(y, dtype=np.float64) - np.mean(x, axis=0, dtype=np.float64)
    y /= np.linalg.norm(y, axis=1, keepdims=True).clip(np.finfo(float).tiny)
    eigenvalues = np.linalg.eigvalsh(y @ y.T / len(y))
    positive = eigenvalues[eigenvalues > np.finfo(float).eps]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def interval(x: np.ndarray, y: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """None: the score grows with the sample, so that the value is one of its size."""
    return None


def real_vs_real(real: np.ndarray, m: int, n: int, draws: int, seed: int) -> np.ndarray:
    """Vendi score of `draws` pairs of disjoint subsamples (m and n rows) of `real`: float64, length `draws`."""
    return np.array([compute(real[i], real[j]) for i, j in disjoint_pairs(len(real), m, n, draws, seed)])
