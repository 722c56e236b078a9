"""Distances between features and to the k-th neighbour, for the metrics that are made of balls."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import euclidean_distances


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances of all rows, float64 m×n."""
    x = np.asarray(x, dtype=np.float64)
    return euclidean_distances(x, x if y is x else np.asarray(y, dtype=np.float64))


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row, float64 of length m; k < m."""
    return np.partition(distances(x, x), k, axis=1)[:, k]  # position 0 is the row itself
