"""What an answer rests on: attributions of the pixels, and pictures of them beside the image and its segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import torch
from captum.attr import IntegratedGradients
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.segmentation import find_boundaries
from torch import Tensor

from balancer.imaging.masks import NUCLEUS
from balancer.imaging.scale import edge_colour
from balancer.imaging.segmentation import segment
from classifier.models.classifier import Classifier

_STEPS = 32  # points of the path at which gradients are taken
_BATCH = 16  # images at a time
_PANEL = 256  # px, the side of each of a picture's three panels at least
_TILE, _COLUMNS, _LINE = 192, 4, 16  # of a sheet: px of a tile at least, tiles in a row, px of a line of text
_LEGEND = "red: for it, blue: against it; full colour where a map is strongest"
_SMOOTH = 1 / 48  # of the side: deviation of the Gaussian
_STRONGEST = 99.5  # percentile of the smoothed attributions that gets the full colour
_CELL, _NUCLEUS = (255, 210, 0), (0, 220, 255)  # colours of the outlines


def attributions(
    model: Classifier,
    pixels: np.ndarray,
    targets: np.ndarray,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """What each pixel adds to the logit of an image's target class, float32 B×R×R, against an image of background alone.

    `pixels`: prepared uint8 B×R×R×C; `targets`: class indices, int B. `logits` of normalised images float B×C×R×R, by default
    those of the classes, calibrated. Integrated gradients (Sundararajan et al. 2017,
    arXiv 1703.01365) from an image of the median colour of the edge, and of an empty mask, in a straight line of
    normalised pixels; the sum over the channels. By their completeness axiom they sum up to the difference of
    both logits, but for the error of 32 points. They need nothing of the network but its gradient, so that they are the
    same method for every network.
    """
    baselines = np.zeros_like(pixels)
    for image, baseline in zip(pixels, baselines, strict=True):
        baseline[..., :3] = edge_colour(image[..., :3])
    device = next(model.parameters()).device
    explain = IntegratedGradients(
        logits or (lambda images: model.network(images).float() / model.temperature)
    )
    found = []
    for start in range(0, len(pixels), _BATCH):
        part = slice(start, start + _BATCH)
        inputs, origins = (
            model.transform.normalise(torch.from_numpy(x[part]).to(device)) for x in (pixels, baselines)
        )
        values = explain.attribute(
            inputs,
            origins,
            target=torch.from_numpy(targets[part]).to(device),
            n_steps=_STEPS,
            internal_batch_size=max(_BATCH * 4, len(inputs)),
        )
        found.append(values.sum(dim=1).detach().float().cpu().numpy())
    return np.concatenate(found)


def smoothed(attribution: np.ndarray) -> np.ndarray:
    """The map of one image, float R×R, as pictures show it: a Gaussian makes regions of single pixels."""
    return ndimage.gaussian_filter(attribution, _SMOOTH * len(attribution))


def picture(image: np.ndarray, prepared: np.ndarray, attribution: np.ndarray) -> np.ndarray:
    """Three panels side by side: uint8 S×3S×3, S a multiple of R, at least 256.

    The image (uint8 R×R×3) with the outlines of cell (yellow) and nucleus (blue) as segmented; what the network
    sees of it (prepared, uint8 R×R×C); and that in grey below what speaks for the answer (red) and against it (blue).
    """
    scale = max(1, -(-_PANEL // len(image)))
    seen = _enlarged(prepared[..., :3], scale)
    return np.concatenate([_outlined(image, scale), seen, _overlay(seen, attribution, scale)], axis=1)


def sheet(
    image: np.ndarray, prepared: np.ndarray, maps: Sequence[np.ndarray], titles: Sequence[str]
) -> np.ndarray:
    """The image with its outlines, then what each of several answers rests on, under its title: uint8 H×W×3.

    Image and prepared image as for `picture`, `maps` float B×R×R, a title of one or two lines for each. Each map has the full
    colour where it is strongest, as a line below says; without maps there is none.
    """
    scale = max(1, -(-_TILE // len(image)))
    seen = _enlarged(prepared[..., :3], scale)
    tiles = [_outlined(image, scale), *(_overlay(seen, values, scale) for values in maps)]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    side = len(tiles[0])
    height = side + 2 * _LINE
    canvas = Image.new("RGB", (columns * side, rows * height + (_LINE if titles else 0)), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (tile, title) in enumerate(zip(tiles, ["cell yellow\nnucleus cyan", *titles], strict=True)):
        x, y = i % columns * side, i // columns * height
        _write(pen, (x, y), title, side)
        canvas.paste(Image.fromarray(tile), (x, y + 2 * _LINE))
    if titles:
        _write(pen, (0, rows * height), _LEGEND, columns * side)
    return np.asarray(canvas)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int) -> None:
    """Write lines in the largest letters with which they are no wider."""
    fonts = [ImageFont.load_default(size) for size in range(11, 5, -1)]
    font = next((font for font in fonts if pen.textbbox((0, 0), text, font)[2] <= width - 4), fonts[-1])
    pen.text((at[0] + 2, at[1] + 1), text, fill="black", font=font)


def _outlined(image: np.ndarray, scale: int) -> np.ndarray:
    mask = _enlarged(segment([image])[0].mask, scale, Image.Resampling.NEAREST)
    outlined = _enlarged(image, scale).copy()
    outlined[find_boundaries(mask > 0, mode="inner")] = _CELL
    outlined[find_boundaries(mask == NUCLEUS, mode="inner")] = _NUCLEUS
    return outlined


def _overlay(image: np.ndarray, attribution: np.ndarray, scale: int) -> np.ndarray:
    smooth = smoothed(attribution)
    strongest = max(float(np.percentile(np.abs(smooth), _STRONGEST)), np.finfo(np.float32).tiny)
    level = ndimage.zoom(np.clip(smooth / strongest, -1, 1), scale, order=1, grid_mode=True, mode="nearest")
    colours = 255 * matplotlib.colormaps["bwr"](0.5 + level / 2)[..., :3]
    grey = image.mean(axis=2, keepdims=True)
    opacity = 0.8 * np.abs(level)[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def _enlarged(
    pixels: np.ndarray, scale: int, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    side = len(pixels) * scale
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), resampling))
