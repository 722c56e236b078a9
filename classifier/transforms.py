"""Augmentation and normalisation of images in batches, saved with the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from balancer.errors import unknown_name
from balancer.imaging import stain

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_SHIFT = 1 / 16  # of the side, each way


@dataclass(frozen=True)
class Transform:
    """What happens to pixels before a network sees them; `augmentation` applies to training alone."""

    augmentation: str = "flips"
    clahe: bool = (
        False  # equalise local contrast (`balancer.imaging.stain.clahe`), in training and ever after
    )
    mean: tuple[float, ...] = _IMAGENET_MEAN  # of intensities in [0, 1], red, green, blue
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.augmentation, AUGMENTATIONS)

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Vary a batch uint8 B×R×R×3; same shape and type. `generator` is of the pixels' device."""
        return AUGMENTATIONS[self.augmentation](pixels, generator)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 B×R×R×3 in [0, 255] → float32 B×3×R×R (channels_last in memory), (x / 255 − mean) / std."""
        if self.clahe:
            pixels = torch.from_numpy(np.stack([stain.clahe(x) for x in pixels.cpu().numpy()])).to(
                pixels.device
            )
        scale = torch.tensor(self.std, device=pixels.device) * 255
        offset = torch.tensor(self.mean, device=pixels.device) * 255
        return ((pixels.float() - offset) / scale).permute(0, 3, 1, 2)


def unchanged(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The batch as it is."""
    return pixels


def flips(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight flips and quarter turns for each image, then a shift by up to 1/16 of the side.

    Cells have no up. Pixels shifted in are mirrored from inside. One gather does all of it.
    """
    n, side = pixels.shape[:2]
    device = pixels.device

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (n, 1), generator=generator, device=device)

    reach = round(side * _SHIFT)
    grid = torch.arange(side, device=device)
    rows = _mirror(grid + draw(-reach, reach + 1), side)
    columns = _mirror(grid + draw(-reach, reach + 1), side)
    rows = torch.where(draw(0, 2).bool(), side - 1 - rows, rows)
    columns = torch.where(draw(0, 2).bool(), side - 1 - columns, columns)
    turned = draw(0, 2).bool()[:, :, None]  # a transposition: with the two flips, all eight
    row = torch.where(turned, columns[:, None, :], rows[:, :, None])
    column = torch.where(turned, rows[:, :, None], columns[:, None, :])
    return pixels[torch.arange(n, device=device)[:, None, None], row, column]


def _mirror(index: Tensor, side: int) -> Tensor:
    """Reflect positions outside [0, side) without repeating the edge."""
    return (side - 1) - (index.abs() - (side - 1)).abs()


def varied_stain(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """`flips`, then the amounts of the stains varied by up to `HED_LIGHT`, for each image and stain anew.

    Tellez et al. 2019, as `balancer.imaging.stain.vary` has it, their setting "light".
    """
    n, device = len(pixels), pixels.device
    drawn = torch.rand(2, n, 3, generator=generator, device=device, dtype=torch.float64).cpu().numpy()
    stretch, shift = stain.HED_LIGHT * (2 * drawn - 1)
    varied = stain.vary(flips(pixels, generator).cpu().numpy(), 1 + stretch, shift)
    return torch.from_numpy(varied).to(device)


AUGMENTATIONS = {"none": unchanged, "flips": flips, "stain": varied_stain}
