"""Repeats: the share of a set's images that another image of the set nearly copies, flips and quarter turns included.

By the birthday problem a generator with N equally likely modes shows a share of 1 − exp(−n/N) of n images more than
once, so that the share bounds how many it has (Arora, Risteski and Zhang 2018, arXiv 1706.08224).
"""

from __future__ import annotations

import numpy as np

from balancer.imaging.duplicates import clusters, near_duplicate_pairs
from balancer.quality.resampling import subsamples


def kinds(images: np.ndarray) -> np.ndarray:
    """Number the pictures of a set (uint8 N×R×R×3): int64 N, near-duplicates have the same number."""
    return clusters(len(images), near_duplicate_pairs(images))


def compute(kind: np.ndarray) -> float:
    """Share of images whose `kind` another image of the set has, in [0, 1]; at least one image."""
    _, which, count = np.unique(kind, return_inverse=True, return_counts=True)
    return float((count[which] > 1).mean())


def at_size(kind: np.ndarray, n: int, draws: int, seed: int) -> np.ndarray:
    """The share in `draws` subsamples of n images, without replacement, since it grows with the set: float64."""
    return np.array([compute(kind[i]) for i in subsamples(len(kind), n, draws, seed)])
