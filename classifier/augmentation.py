"""Augmentations of prepared images in batches, by name.

Each takes uint8 B×R×R×C and a generator of the same device, and gives the same shape and type. Geometric changes move
all channels; those of colour touch the first three, and leave a mask beyond them as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as vision
from torch import Tensor

from balancer.imaging import stain

_SHIFT = 1 / 16  # of the side, each way
_LEUKOCYTE = 0.2  # brightness, contrast and shear vary by up to this, each way
_STRENGTHS = 31  # of TrivialAugment, from nothing to the most
_FAR = 1 / 7  # of the side: TrivialAugment's 32 px of the 224 of its images


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
    flipped = flips(pixels, generator)
    varied = stain.vary(flipped[..., :3].cpu().numpy(), 1 + stretch, shift)
    return torch.cat([torch.from_numpy(varied).to(device), flipped[..., 3:]], dim=3)


def leukocyte(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """`flips`, a shear along one axis, then brightness and contrast, each by up to a fifth and for each image anew.

    What the leukocyte study (BMC Medical Imaging 2024) varies; the amounts are ours. What is black, as a background that
    was removed, stays black, and the contrast is about the mean of the rest.
    """
    n, device = len(pixels), pixels.device
    drawn = torch.rand(3, n, 1, 1, generator=generator, device=device) * 2 - 1
    brightness, contrast, shear = _LEUKOCYTE * drawn
    along_x = torch.rand(n, 1, 1, generator=generator, device=device) < 0.5
    unit = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]], device=device)
    matrix = torch.eye(2, device=device) + shear * torch.where(along_x, unit[0], unit[1])
    moved = _affine(flips(pixels, generator), matrix, torch.zeros(n, 2, device=device))
    colour = moved[..., :3].float() * (1 + brightness[..., None])
    seen = (moved[..., :3] > 0).any(dim=3, keepdim=True)
    mean = (colour * seen).mean(dim=(1, 2, 3), keepdim=True) / seen.float().mean(
        dim=(1, 2, 3), keepdim=True
    ).clamp(min=1e-6)
    colour = torch.where(seen, mean + (colour - mean) * (1 + contrast[..., None]), 0.0)
    return torch.cat([_to_uint8(colour), moved[..., 3:]], dim=3)


# Of TrivialAugment (its "wide" ranges): strength in [0, 1], and with the sign of a coin in [−1, 1] → matrix and shift.
_GEOMETRIC: tuple[Callable[[float], tuple[list[list[float]], list[float]]], ...] = (
    lambda m: ([[1, 0.99 * m], [0, 1]], [0, 0]),
    lambda m: ([[1, 0], [0.99 * m, 1]], [0, 0]),
    lambda m: ([[1, 0], [0, 1]], [_FAR * m, 0]),
    lambda m: ([[1, 0], [0, 1]], [0, _FAR * m]),
    lambda m: (_rotation(0.75 * math.pi * m), [0, 0]),
)
# One image uint8 3×R×R, strength, and strength with a sign → the same.
_COLOUR: tuple[Callable[[Tensor, float, float], Tensor], ...] = (
    lambda x, m, signed: vision.adjust_brightness(x, 1 + 0.99 * signed),
    lambda x, m, signed: vision.adjust_saturation(x, 1 + 0.99 * signed),
    lambda x, m, signed: vision.adjust_contrast(x, 1 + 0.99 * signed),
    lambda x, m, signed: vision.adjust_sharpness(x, 1 + 0.99 * signed),
    lambda x, m, signed: vision.posterize(x, 8 - round(6 * m)),
    lambda x, m, signed: vision.solarize(x, 255 * (1 - m)),
    lambda x, m, signed: vision.autocontrast(x),
    lambda x, m, signed: vision.equalize(x),
)


def trivial_augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """`flips`, then one operation of fourteen at one strength of 31, drawn for each image (arXiv 2103.10158).

    Identity, shears, translations, rotation, brightness, saturation, contrast, sharpness, posterise, solarise,
    autocontrast, equalise, in the ranges of torchvision's TrivialAugmentWide; a translation goes up to a seventh of the
    side. torchvision's own draws from the global generator and knows no mask.
    """
    n, device = len(pixels), pixels.device
    pixels = flips(pixels, generator)

    def draw(high: int) -> list[int]:
        return torch.randint(high, (n,), generator=generator, device=device).tolist()

    operation, strength, coin = draw(1 + len(_GEOMETRIC) + len(_COLOUR)), draw(_STRENGTHS), draw(2)
    first_colour = 1 + len(_GEOMETRIC)
    matrix, shift = torch.eye(2, device=device).repeat(n, 1, 1), torch.zeros(n, 2, device=device)
    for i, k in enumerate(operation):
        m = strength[i] / (_STRENGTHS - 1)
        signed = m if coin[i] else -m
        if 1 <= k < first_colour:
            turned, moved = _GEOMETRIC[k - 1](signed)
            matrix[i], shift[i] = torch.tensor(turned, device=device), torch.tensor(moved, device=device)
        elif k >= first_colour:
            colour = pixels[i, ..., :3].permute(2, 0, 1)
            pixels[i, ..., :3] = _COLOUR[k - first_colour](colour, m, signed).permute(1, 2, 0)
    moving = torch.tensor([1 <= k < first_colour for k in operation], device=device)
    if moving.any():
        pixels[moving] = _affine(pixels[moving], matrix[moving], shift[moving])
    return pixels


def _rotation(angle: float) -> list[list[float]]:
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


def _affine(pixels: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Show at x what was at A·x + b, x from the centre in sides: matrices A float B×2×2, shifts b float B×2.

    Colours are interpolated, a mask takes the nearest pixel; beyond the border the image is mirrored.
    """
    theta = torch.cat([matrix, 2 * shift[..., None]], dim=2)  # grid_sample counts in half sides
    grid = F.affine_grid(theta, [len(pixels), 1, *pixels.shape[1:3]], align_corners=False)
    x = pixels.permute(0, 3, 1, 2).float()
    parts = [
        F.grid_sample(part, grid, mode, padding_mode="reflection", align_corners=False)
        for part, mode in ((x[:, :3], "bilinear"), (x[:, 3:], "nearest"))
        if part.shape[1]
    ]
    return _to_uint8(torch.cat(parts, dim=1).permute(0, 2, 3, 1))


def _to_uint8(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "flips": flips,
    "stain": varied_stain,
    "leukocyte": leukocyte,
    "trivial-augment": trivial_augment,
}
