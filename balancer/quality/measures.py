"""What an image of a cell shows, one number each: nucleus, lobes, membrane, chromatin, granules, place, neighbours, colours.

Nothing here knows of classes; what is usual in one, `defects` learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.morphology import disk

from balancer.imaging import artefacts
from balancer.imaging.masks import NUCLEUS
from balancer.imaging.morphology import Cell
from balancer.imaging.segmentation import segment

Array = np.ndarray

COLOURS = [
    f"{part}_{channel}"
    for part in ("background", "nucleus", "cytoplasm")
    for channel in ("red", "green", "blue")
]
COLUMNS = (
    *("nuclear_density", "nuclear_area", "second_body", "fourth_lobe", "seventh_lobe", "lobes"),
    *("membrane_gap", "membrane", "chromatin", "granularity", "smoothness"),
    *("off_centre", "nucleus_on_edge", "nuclear_length", "other_nuclei"),
    *("seam", "checkerboard", "sharpness", "noise"),
    *COLOURS,
)


def measures(images: Array | Sequence[Array]) -> pd.DataFrame:
    """What each image shows, a row each; NaN where a measure is not defined (no nucleus, hardly any cytoplasm).

    `images`: uint8 N×H×W×3 RGB in [0, 255] or a list of H×W×3. Lengths and areas are shares of the image's longer side and
    area, so that images of one scale are to be compared. Raises InputError for another dtype or shape.
    """
    images = list(images)
    rows = [_measured(image, found.mask) for image, found in zip(images, segment(images), strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=float)


def _measured(image: Array, mask: Array) -> dict[str, float]:
    cell = Cell(image, mask, None)
    row = {
        "seam": artefacts.seam(image),
        "checkerboard": artefacts.checkerboard(image),
        "sharpness": artefacts.sharpness(image),
        "noise": artefacts.noise(image),
        "nuclear_density": 0.0,
    }
    background = np.log10(cell.light / 255)
    row |= dict(zip(COLOURS, background, strict=False))
    if cell.nucleus.any():
        row |= dict(zip(COLOURS[3:], np.median(cell.density[cell.box][cell.nucleus], 0), strict=False))
        row |= _nuclear_map(cell) | _membrane(cell)
        inner = cell.chromatin[0]
        if inner.any():
            row["chromatin"] = float(np.log(np.sqrt((ndimage.laplace(cell.red)[inner] ** 2).mean()) + 1e-4))
    if cell.cytoplasm.any():
        row |= dict(zip(COLOURS[6:], np.median(cell.density[cell.box][cell.cytoplasm], 0), strict=False))
    if cell.inner_cytoplasm.any():
        row["granularity"] = row["smoothness"] = _granularity(cell)
    return row


def _nuclear_map(cell: Cell) -> dict[str, float]:
    """Nuclei of the whole image, whatever the mask takes for cells: their size, bodies, place and neighbours.

    Nuclear is what has at least the red density midway between the nucleus and its cytoplasm. The cell's own are the
    parts within its outline and those next to them.
    """
    side = max(cell.mask.shape)
    red = ndimage.gaussian_filter(cell.density[..., 0], 0.01 * side)
    density = float(np.median(red[cell.box][cell.nucleus]))
    around = float(np.median(red[cell.box][cell.cytoplasm])) if cell.cytoplasm.any() else 0.0
    dark = red >= max(density / 2, (density + around) / 2)
    dark = ndimage.binary_opening(dark, disk(max(1, round(0.015 * side))))
    holes, _ = ndimage.label(~dark)
    small = np.bincount(holes.ravel()) < (0.04 * side) ** 2
    dark |= small[holes]

    parts, count = ndimage.label(dark, np.ones((3, 3)))
    areas = np.bincount(parts.ravel())
    held = np.bincount(parts[cell.mask == NUCLEUS], minlength=count + 1)
    own = np.bincount(parts[ndimage.binary_dilation(cell.body)], minlength=count + 1) > 0.6 * areas
    own[np.argmax(held[1:]) + 1 if count else 0] = True
    own[0] = False
    reach = max(1, round(0.03 * side))
    for _ in range(2):
        own[parts[ndimage.binary_dilation(own[parts], iterations=reach)]] = True
        own[0] = False
    nucleus = own[parts]
    row = {"nuclear_density": density}
    if not nucleus.any():
        return row
    rows, columns = np.nonzero(nucleus)
    centre = (np.array(nucleus.shape) - 1) / 2
    radii = _discs(nucleus[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 7)
    edge = np.concatenate([nucleus[0], nucleus[-1], nucleus[:, 0], nucleus[:, -1]])
    spread = np.linalg.eigvalsh(np.atleast_2d(np.cov(np.stack([rows, columns])))) if len(rows) > 1 else [0.0]
    return row | {
        "nuclear_area": float(nucleus.mean()),
        "second_body": radii[1] / side,
        "fourth_lobe": radii[3] / radii[0],
        "seventh_lobe": radii[6] / side,
        "lobes": float((radii >= 0.6 * radii[0]).sum()),
        "off_centre": float(np.hypot(rows.mean() - centre[0], columns.mean() - centre[1])) / side,
        "nucleus_on_edge": float(edge.mean()),
        "nuclear_length": 4 * float(np.sqrt(spread[-1])) / side,
        "other_nuclei": float(areas[1:][~own[1:]].max(initial=0)) / nucleus.size,
    }


def _discs(region: Array, count: int) -> Array:
    """Radii in pixels of the largest disc in a region, of the largest in what that leaves, and so on: float `count`.

    Two nuclei have two alike, lobes as many as there are of them, a round nucleus one.
    """
    rest = np.pad(region, 1)
    rows, columns = np.indices(rest.shape)
    radii = np.zeros(count)
    for i in range(count):
        depth = ndimage.distance_transform_edt(rest)
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        radii[i] = depth[row, column]
        rest &= np.hypot(rows - row, columns - column) > radii[i]
    return radii


def _membrane(cell: Cell) -> dict[str, float]:
    """How steep the nucleus's outline is, per µm and relative to the step that it makes there; and in its weakest quarter.

    Relative, since a nucleus stands out more from background than from cytoplasm, and its outline is as narrow.
    """
    if cell.membrane_profiles is None or cell.membrane is None:
        return {}
    at, profile, _ = cell.membrane_profiles
    steep = cell.membrane * cell.um / (np.ptp(profile, axis=1) + 0.03)
    turn = np.arctan2(at[0] - at[0].mean(), at[1] - at[1].mean())
    windows = [
        np.abs((turn - angle + np.pi) % (2 * np.pi) - np.pi) < np.pi / 4
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ]
    medians = [float(np.median(steep[window])) for window in windows if window.sum() >= 4]
    overall = float(np.median(steep))
    return {"membrane": overall} | (
        {"membrane_gap": min(medians) / overall} if medians and overall > 0 else {}
    )


def _granularity(cell: Cell) -> float:
    """How far the darkest tenth of the cytoplasm stands out of its surroundings of 0.7 µm, in red density.

    Against the median, so that granules count and the shade of the cytoplasm does not.
    """
    region = cell.inner_cytoplasm
    width = 0.7 * cell.um
    weight = ndimage.gaussian_filter(region.astype(float), width, mode="constant")
    around = ndimage.gaussian_filter(cell.red * region, width, mode="constant")
    middle, high = np.quantile((cell.red - around / np.maximum(weight, 1e-6))[region], [0.5, 0.9])
    return float(high - middle)
