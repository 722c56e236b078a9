"""Near-copies of train images, image by image, and the share of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from balancer.imaging.duplicates import find_copies


@dataclass(frozen=True)
class Copies:
    """For each of N images: `index` (int64) of the train image it nearly copies or -1, and the `similarity`
    (float, correlation in [-1, 1]) to the train image that is most like it."""

    index: np.ndarray
    similarity: np.ndarray

    @property
    def share(self) -> float:
        """Share of the images that are near-copies, in [0, 1]; at least one image."""
        return float((self.index >= 0).mean())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Exact (Clopper-Pearson) interval of the share."""
        return share_interval(int((self.index >= 0).sum()), len(self.index), confidence)


def find(images: np.ndarray, train: np.ndarray) -> Copies:
    """Seek each image (uint8 N×R×R×3) among the train images (uint8 M×R×R×3), flips and quarter turns included."""
    return Copies(*find_copies(images, train))


def share_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of `count` in `total` (at least 1)."""
    found = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
