"""The training batches, each a function of its number alone."""

from __future__ import annotations

from itertools import count

import numpy as np
import torch
from torch import Tensor

from balancer.data import ImageStore
from balancer.data.attributes import multi_hot
from balancer.errors import InputError
from balancer.generators.adversaries import Chunk
from balancer.generators.combinations import withhold
from balancer.generators.config import GeneratorConfig
from balancer.generators.seeds import derive


class Batches:
    """The training batches: float N×3×R×R in [−1, 1], and the labels of these and of the images to generate.

    The labels are classes, int64 N. With `attributes`, int64 M×11 of all images, they are attributes, float32 N×31: for a
    generated image those of another image of its class, and of some images a part alone (`withhold`).

    A class of n images is drawn in proportion to n^(1 − balance), for real and for generated images, then an image
    within it; with `symmetries` each is shown in one of the eight orientations of the square.

    `process` of `processes` gets its share of every batch. Raises InputError when a batch does not divide or
    `balance` is outside [0, 1].
    """

    def __init__(
        self,
        images: ImageStore | np.ndarray,
        labels: np.ndarray,
        config: GeneratorConfig,
        process: int = 0,
        processes: int = 1,
        attributes: np.ndarray | None = None,
    ) -> None:
        if not 0 <= config.balance <= 1:
            raise InputError(f"balance must be from 0 (natural) to 1 (even), not {config.balance}.")
        if config.batch_size % (4 * config.accumulate * processes):
            raise InputError(
                f"A batch of {config.batch_size} does not divide over {processes} processes into "
                f"{config.accumulate} parts each that are multiples of 4; choose another --batch-size, --accumulate "
                "or number of processes."
            )
        self.images, self.config, self.attributes = images, config, attributes
        self.known, self.sizes = np.unique(labels, return_counts=True)
        self.by_class = np.argsort(labels, kind="stable")  # indices of the images, class after class
        self.first = np.cumsum(self.sizes) - self.sizes
        weights = self.sizes ** (1 - config.balance)
        self.probabilities = weights / weights.sum()
        share = config.batch_size // processes
        self.share = slice(process * share, (process + 1) * share)
        self.first_chunk = process * config.accumulate

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's share of the batch of that number: images, their labels, labels of the fakes."""
        rng = np.random.default_rng(derive(self.config.seed, "data", step))
        n, mine = self.config.batch_size, self.share
        drawn, fake = rng.choice(len(self.known), (2, n), p=self.probabilities)
        chosen = self.by_class[self.first[drawn] + rng.integers(self.sizes[drawn])]
        orientation = rng.integers(8, size=n)
        pixels = self.images[chosen[mine]]
        if self.config.symmetries:
            pixels = turn(pixels, orientation[mine])
        real = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        labels = [self.known[drawn], self.known[fake]]
        if self.attributes is not None:
            others = self.by_class[self.first[fake] + rng.integers(self.sizes[fake])]
            labels = [multi_hot(withhold(self.attributes[of], rng)) for of in (chosen, others)]
        return real, torch.from_numpy(labels[0][mine]), torch.from_numpy(labels[1][mine])

    def chunks(self, step: int, device: torch.device) -> list[Chunk]:
        """The share, cut into `config.accumulate` chunks with random states of their own.

        The chunks of all processes together depend on their number alone: two processes see what one sees with twice
        the accumulation.
        """
        seeds = (derive(self.config.seed, "step", step, self.first_chunk + k) for k in count())
        parts = (t.to(device).chunk(self.config.accumulate) for t in self[step])
        return [
            Chunk(real, labels, fake_labels, torch.Generator(device).manual_seed(seed))
            for real, labels, fake_labels, seed in zip(*parts, seeds, strict=False)
        ]

    def views(self, label: int, n: int) -> np.ndarray:
        """Up to `n` different images of a class, uint8 N×R×R×3, turned as training shows them."""
        rng = np.random.default_rng(derive(self.config.seed, "diversity", label))
        k = int(np.searchsorted(self.known, label))
        members = self.by_class[self.first[k] : self.first[k] + self.sizes[k]]
        images = self.images[rng.permutation(members)[:n]]
        return turn(images, rng.integers(8, size=len(images))) if self.config.symmetries else images


def turn(images: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """uint8 N×R×R×3 images, each in one of the eight orientations 0 … 7 of the square."""
    turned = np.empty_like(images)
    for k in range(8):
        of_k = np.rot90(images[orientation == k], k % 4, axes=(1, 2))
        turned[orientation == k] = of_k[:, :, ::-1] if k >= 4 else of_k
    return turned
