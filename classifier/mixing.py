"""Mixing of each image with a partner; the partners are drawn class-balanced, every class equally often.

A batch and its partners share one λ: what is minimised is λ·loss of the labels + (1 − λ)·loss of the partners' labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

Mixing = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, float]]


def mixup(pixels: Tensor, partners: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """λ·x + (1 − λ)·x', λ ~ Beta(0.2, 0.2) (Zhang et al. 2018, arXiv 1710.09412).

    Both uint8 B×R×R×C; returns float32 B×R×R×C in [0, 255], and λ.
    """
    share = rng.beta(0.2, 0.2)
    return pixels.float().lerp(partners.float(), 1 - share), share


def cutmix(pixels: Tensor, partners: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A rectangle of the partner pasted in, of a share 1 − λ, λ ~ Beta(1, 1) (Yun et al. 2019, arXiv 1905.04899).

    Its sides are √(1 − λ) of the image's and its centre is anywhere; what reaches beyond the border is cut off, and λ
    made the share that is left of the image. Both uint8 B×R×R×C; returns the same, and λ.
    """
    side = pixels.shape[1]
    half = side * np.sqrt(1 - rng.uniform()) / 2
    row, column = rng.uniform(0, side, 2)
    top, bottom, left, right = (
        int(np.clip(round(edge), 0, side)) for edge in (row - half, row + half, column - half, column + half)
    )
    mixed = pixels.clone()
    mixed[:, top:bottom, left:right] = partners[:, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / side**2


MIXINGS: dict[str, Mixing | None] = {"none": None, "mixup": mixup, "cutmix": cutmix}
