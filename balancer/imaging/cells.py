"""The white cells of a field, found by their nuclei."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import watershed

from balancer.imaging.crop import Box
from balancer.imaging.segmentation import segment

_LONGEST = 1024  # larger fields are searched at this length: nuclei are large enough there
_NUCLEAR = (
    0.2  # difference of optical densities (natural), of green less blue, by which nuclei at least stand out
)
_SMALL = 0.15  # of the typical nucleus' area, below which what is stained is a platelet or dirt
_WINDOW = 3.0  # nuclear diameters that are looked at around a nucleus: cells are at most twice as wide as it
_SAME = (
    0.5  # overlap of two boxes, over the smaller one, above which they are of one cell, found by two lobes
)


def find_cells(field: np.ndarray) -> list[Box]:
    """Find the white cells of a field, uint8 H×W×3 RGB: a box each, from top to bottom, in pixels of the field.

    Nuclei absorb green far more than blue, red cells both alike: Otsu's threshold on the difference of optical densities
    finds them (as in `balancer.imaging.segmentation`), a watershed of the distance transform parts those that touch. The
    cell around each is what `segment` sees in a window of three nuclear diameters. Lobes of one nucleus give one cell.
    Cells that touch the field's edge are left out, being cut. An image in which nothing is stained like a nucleus has
    none.
    """
    shrink = min(1.0, _LONGEST / max(field.shape[:2]))
    width, height = (max(1, round(side * shrink)) for side in (field.shape[1], field.shape[0]))
    small = (
        np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BOX))
        if shrink < 1
        else field
    )
    nuclei = _nuclei(small)
    boxes: list[Box] = []
    windows = [_window(field, nucleus, shrink) for nucleus in nuclei]
    found = segment([pixels for pixels, _, _ in windows])
    for (_, left, top), one in zip(windows, found, strict=True):
        rows, columns = (np.flatnonzero(one.mask.any(axis)) for axis in (1, 0))
        if one.flag or not len(rows):
            continue
        x, y = left + int(columns[0]), top + int(rows[0])
        box = Box(x, y, int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
        whole = x > 0 and y > 0 and x + box.width < field.shape[1] and y + box.height < field.shape[0]
        if whole and not any(_overlap(box, other) > _SAME for other in boxes):
            boxes.append(box)
    return sorted(boxes, key=lambda box: (box.top, box.left))


def _nuclei(field: np.ndarray) -> list[tuple[float, float, float]]:
    """Centres (y, x) and diameters of the nuclei, the largest first, in pixels of `field`."""
    smooth = ndimage.gaussian_filter(field.astype(np.float32), (1, 1, 0))
    light = np.maximum(np.percentile(smooth.reshape(-1, 3), 90, axis=0), 1)
    density = -np.log(np.minimum((smooth + 8) / (light + 8), 1))  # 8 levels: the camera's dark
    nuclear = density[..., 1] - density[..., 2]
    if np.ptp(nuclear) < _NUCLEAR:
        return []
    stained = ndimage.binary_opening(nuclear > threshold_otsu(nuclear))
    if not stained.any() or nuclear[stained].mean() - nuclear[~stained].mean() < _NUCLEAR:
        return []
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(stained), 1)
    # The typical radius: of the part in which the middle one of all stained pixels lies.
    regions = ndimage.label(stained)[0]
    areas = np.sort(np.bincount(regions.ravel())[1:])
    typical = areas[np.searchsorted(areas.cumsum(), areas.sum() / 2)]
    apart = max(2, round(0.7 * min(float(np.sqrt(typical / np.pi)), 2 * float(depth.max()))))
    peaks = peak_local_max(depth, min_distance=apart, labels=regions, exclude_border=False)
    markers = np.zeros(stained.shape, dtype=int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parts = [part for part in regionprops(watershed(-depth, markers, mask=stained)) if part.area > 4]
    middle = float(np.median([part.area for part in parts if part.area > _SMALL * typical] or [0]))
    kept = [part for part in parts if part.area > _SMALL * middle]
    kept.sort(key=lambda part: -part.area)
    return [(*part.centroid, part.equivalent_diameter_area) for part in kept]


def _window(
    field: np.ndarray, nucleus: tuple[float, float, float], shrink: float
) -> tuple[np.ndarray, int, int]:
    """A square around a nucleus, its edge repeated where it leaves the field, and its left and top edge there."""
    y, x, diameter = (value / shrink for value in nucleus)
    half = max(8, round(_WINDOW * diameter / 2))
    top, left = round(y) - half, round(x) - half
    rows = np.arange(top, top + 2 * half).clip(0, field.shape[0] - 1)
    columns = np.arange(left, left + 2 * half).clip(0, field.shape[1] - 1)
    return field[rows[:, None], columns], left, top


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share, over that of the smaller one."""
    wide = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    high = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(wide, 0) * max(high, 0) / min(a.width * a.height, b.width * b.height)
