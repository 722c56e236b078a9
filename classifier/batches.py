"""The training batches: drawn by the sampling, augmented, and mixed with partners where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from classifier.config import TrainingConfig
from classifier.imbalance import batches
from classifier.mixing import MIXINGS
from classifier.transforms import Images, Transform


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 (float32 where mixed) B×R×R×C, and for each of what is in them the labels int64 B and their share."""

    pixels: Tensor
    targets: tuple[tuple[Tensor, float], ...]  # the shares add up to 1
    indices: Tensor  # int64 B: which images they are, before any mixing


def training_batches(
    images: Images,
    labels: np.ndarray,
    config: TrainingConfig,
    transform: Transform,
    generator: torch.Generator,
    start: int,
) -> Iterator[Batch]:
    """The batches of a training from step `start` (from 0) on, without end; `generator` draws the augmentation."""

    def fetch(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return transform.augment(torch.from_numpy(images[indices]), generator), torch.from_numpy(
            labels[indices]
        )

    def order(sampling: str, seed: int) -> Iterator[np.ndarray]:
        return islice(batches(labels, config.batch_size, sampling, seed), start, None)

    mix = MIXINGS[config.mixing]
    drawn, balanced = order(config.sampling, config.seed), order("balanced", config.seed + 1)
    for step, indices in enumerate(drawn, start):
        pixels, own = fetch(indices)
        if mix is None:
            yield Batch(pixels, ((own, 1.0),), torch.from_numpy(indices))
        else:
            partners, other = fetch(next(balanced))
            pixels, share = mix(pixels, partners, np.random.default_rng([config.seed, step]))
            yield Batch(pixels, ((own, share), (other, 1 - share)), torch.from_numpy(indices))
