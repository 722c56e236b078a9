"""The same cell in two images, shifted, scaled, turned, mirrored, recompressed or of another brightness.

Three steps, each on what the one before leaves:

1. An *anchor* (centre and radius) is laid on each nucleus and on the dark matter as a whole. The neighbourhood of an
   anchor, sampled on rings in units of its radius, is described by what a turn or a mirror does not change: the
   magnitudes of its angular Fourier coefficients and the products of those of neighbouring rings. A k-d tree over the
   leading principal components gives each anchor its nearest neighbours: n log n, not all pairs.
2. Correlation over the angle (FFT) gives the turn of the likeliest of them.
3. Registration in pixels (inverse compositional Gauss-Newton, Baker and Matthews, "Lucas-Kanade 20 years on", IJCV
   2004; similarity transform, gain and offset projected out) brings one cell upon the other. They are the same cell if
   the fine structure, a band-pass without the outline's blob, correlates from there: two different cells share form
   and size, but not chromatin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import center_of_mass, gaussian_filter, label, map_coordinates
from scipy.spatial import cKDTree
from skimage.filters import threshold_multiotsu

from balancer.imaging.duplicates import pairs_of_described
from balancer.progress import track

SIDE = 64  # pixels at which cells are compared
_SMALLEST = 20  # pixels of an anchor's area
_RINGS = np.linspace(0.12, 1.6, 12, dtype=np.float32)  # in units of the anchor's radius
_ANGLES = 32
_ORDERS = 8  # angular Fourier coefficients kept
_COMPONENTS = 12
_NEIGHBOURS = 8
_SAMPLE = 4096  # anchors that the principal components are computed from
_LIKELY = 0.8  # correlation over the angle, of the band-passed rings, from which registering is worth while
_ROUGHLY = 0.85  # correlation of the mid band after a few steps, from which registering goes on
SAME = 0.92  # correlation of the fine band after registration, from which two cells are one
# The same correlation over all that both images show: small round nuclei of different cells fail here. Chosen on PBC,
# where pairs that are the same cell by eye have 0.94 or more and those that are not 0.89 or less.
_AROUND = 0.9
_STEPS = 6  # of registration, on a coarse grid and again on a fine one
_OVERLAP = 0.6  # of the disc, that lies in both images
_SCALES = 1.6  # the same cell is at most so many times as large in one image as in the other
_CHUNK = 256
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TURNS = np.arange(_ANGLES, dtype=np.float32) * np.float32(2 * np.pi / _ANGLES)


def _disc(points: int) -> np.ndarray:
    """float32 P×2: a grid in the unit disc, `points` across."""
    axis = np.linspace(-1, 1, points, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return grid[np.hypot(*grid.T) <= 1]


_COARSE, _FINE = _disc(15), _disc(31)
_PIXELS = np.indices((SIDE, SIDE), dtype=np.float32).reshape(2, -1).T


class Look(NamedTuple):
    """Images and their A anchors, row by row."""

    shown: np.ndarray  # what `pictures` gives, uint8 N×64×64×2
    mid: np.ndarray  # the mid band of the images, float16 N×64×64
    anchor: np.ndarray  # float32 A×4
    rings: np.ndarray  # float32 A×12×32
    bands: np.ndarray  # complex64 A×12×17, angular Fourier coefficients of the band-passed rings
    owner: np.ndarray  # int64 A, the image of each anchor


def pictures(images: np.ndarray) -> np.ndarray:
    """What cells are compared by: uint8 N×R×R×3 in [0, 255] to uint8 N×64×64×2, luminance and red."""
    small = np.empty((len(images), SIDE, SIDE, 2), dtype=np.uint8)
    for k, image in enumerate(images):
        if image.shape[0] != SIDE:
            image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        small[k, ..., 0] = np.rint(image @ _LUMINANCE)
        small[k, ..., 1] = image[..., 0]  # red cells and eosinophil granules are bright in it, nuclei dark
    return small


def anchors(red: np.ndarray) -> np.ndarray:
    """Float32 K×4: row, column, radius in pixels of 64, and kind (0 nucleus, 1 dark matter) in a uint8 64×64 image."""
    smooth = gaussian_filter(red.astype(np.float32), 1).astype(np.uint8)
    found = []
    if len(np.unique(smooth)) >= 3:
        dark = threshold_multiotsu(smooth, 3)[0], threshold_multiotsu(smooth, 2)[0]
        for kind, (threshold, most) in enumerate(zip(dark, (2, 1), strict=True)):
            parts, _ = label(smooth <= threshold)
            areas = np.bincount(parts.ravel())[1:]
            for part in np.argsort(-areas, kind="stable")[:most]:
                if areas[part] >= max(_SMALLEST, 0.3 * areas.max()):
                    found.append((*center_of_mass(parts == part + 1), np.sqrt(areas[part] / np.pi), kind))
    return np.array(found, dtype=np.float32).reshape(-1, 4)


def duplicate_pairs(described: np.ndarray, shown: np.ndarray) -> set[tuple[int, int]]:
    """The pairs (i, j), i < j, of images that show the same picture or the same cell.

    `described` is what `duplicates.describe` gives of the images, `shown` what `pictures` gives.
    """
    return {(i, j) for i, j, _ in pairs_of_described(described)} | set(same_cell_pairs(shown))


def same_cell_pairs(shown: np.ndarray) -> list[tuple[int, int]]:
    """Find the pairs of images that show the same cell, wherever, however large, however turned or mirrored.

    `shown` is what `pictures` gives, uint8 N×64×64×2. Returns (i, j) with i < j, sorted. Images of one colour, and
    those without anything dark, match nothing.
    """
    seen = look(shown)
    if not len(seen.owner):
        return []
    described = _describe(seen.rings)
    first, second = _nearest(described, seen, described, seen)
    pairs = np.sort(np.stack([first, second], axis=1), axis=1)
    pairs = np.unique(pairs[seen.owner[pairs[:, 0]] != seen.owner[pairs[:, 1]]], axis=0)
    a, b, _ = _same(seen, pairs[:, 0], pairs[:, 1])
    found = np.sort(np.stack([seen.owner[a], seen.owner[b]], axis=1), axis=1)
    return sorted({(i, j) for i, j in found.tolist()})


def same_cell_in(candidates: Look, known: Look) -> np.ndarray:
    """Find, for each candidate, the known image that shows the same cell, as `same_cell_pairs` does within a set.

    Of several the one that is most alike round the cell. Returns int64 N, the index of the known image or -1.
    """
    index = np.full(len(candidates.shown), -1, dtype=np.int64)
    if not len(candidates.owner) or not len(known.owner):
        return index
    split = len(known.owner)
    both = Look(
        shown=np.concatenate([known.shown, candidates.shown]),
        mid=np.concatenate([known.mid, candidates.mid]),
        anchor=np.concatenate([known.anchor, candidates.anchor]),
        rings=np.concatenate([known.rings, candidates.rings]),
        bands=np.concatenate([known.bands, candidates.bands]),
        owner=np.concatenate([known.owner, candidates.owner + len(known.shown)]),
    )
    described = _describe(both.rings)
    second, first = _nearest(described[split:], candidates, described[:split], known)
    a, b, likely = _same(both, first, second + split)
    order = np.argsort(likely, kind="stable")  # the likeliest is written last
    index[both.owner[b[order]] - len(known.shown)] = both.owner[a[order]]
    return index


def _same(seen: Look, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pairs of anchors (int64 each) those that show the same cell, and how alike their rings are, float32."""
    kept = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))]
    for start in track(range(0, len(first), _CHUNK * 16), "Comparing cells"):
        a, b = first[start : start + _CHUNK * 16], second[start : start + _CHUNK * 16]
        likely, turn, mirrored = _turns(seen.bands[a], seen.bands[b])
        scale = seen.anchor[b, 2] / seen.anchor[a, 2]
        near = (likely >= _LIKELY) & (np.maximum(scale, 1 / scale) <= _SCALES)
        a, b, likely, turn, mirrored = a[near], b[near], likely[near], turn[near], mirrored[near]
        for part in (slice(k, k + _CHUNK) for k in range(0, len(a), _CHUNK)):
            same = _confirmed(seen, a[part], b[part], turn[part], mirrored[part])
            kept.append((a[part][same], b[part][same], likely[part][same]))
    first, second, likely = (np.concatenate(column) for column in zip(*kept, strict=True))
    return first, second, likely


def look(shown: np.ndarray) -> Look:
    """Lay anchors in all images; `shown` is what `pictures` gives."""
    owner, anchor, rings = [np.empty(0, dtype=np.int64)], [anchors(np.zeros((SIDE, SIDE), np.uint8))], []
    rings.append(np.empty((0, len(_RINGS), _ANGLES), dtype=np.float32))
    bands = [np.empty((0, len(_RINGS), _ANGLES // 2 + 1), dtype=np.complex64)]
    mid = np.empty(shown.shape[:3], dtype=np.float16)
    for start in track(range(0, len(shown), _CHUNK), "Looking for cells"):
        part = shown[start : start + _CHUNK]
        luminance = part[..., 0].astype(np.float32)
        per_image = [anchors(red) for red in part[..., 1]]
        of = np.repeat(np.arange(len(part)), [len(one) for one in per_image])
        here = np.concatenate(per_image)
        band = _band(luminance, 1, 3)
        mid[start : start + _CHUNK] = band
        owner.append(of + start)
        anchor.append(here)
        rings.append(_rings(luminance, of, here))
        bands.append(np.fft.rfft(_rings(band, of, here), axis=-1).astype(np.complex64))
    return Look(shown, mid, *(np.concatenate(column) for column in (anchor, rings, bands, owner)))


def _band(stack: np.ndarray, low: float, high: float) -> np.ndarray:
    """A difference of Gaussians of N×H×W pixels."""
    return gaussian_filter(stack, (0, low, low)) - gaussian_filter(stack, (0, high, high))


def _sample(stack: np.ndarray, of: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values float32 B×P at points (row, column) B×P×2 of the images `of` (B) in a stack N×64×64."""
    which = np.broadcast_to(of[:, None].astype(np.float32), points.shape[:2])
    return map_coordinates(stack, [which, points[..., 0], points[..., 1]], order=1, mode="nearest")


def _rings(stack: np.ndarray, of: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """The rings round each anchor, weighted by the root of their radius, of zero mean and unit length."""
    way = _RINGS[:, None, None] * np.stack([np.sin(_TURNS), np.cos(_TURNS)], -1)
    points = anchor[:, None, :2] + anchor[:, 2, None, None] * way.reshape(-1, 2)
    weight = np.sqrt(_RINGS)[:, None]
    rings = _sample(stack, of, points).reshape(len(anchor), len(_RINGS), _ANGLES)
    rings = weight * (rings - (rings * weight**2).sum((1, 2), keepdims=True) / (weight**2).sum() / _ANGLES)
    return rings / np.sqrt((rings**2).sum((1, 2), keepdims=True) + 1e-6)


def _describe(rings: np.ndarray) -> np.ndarray:
    """float32 A×12 (fewer where there are fewer anchors): what neither a turn nor a mirror changes, in short."""
    turned = np.fft.rfft(rings, axis=-1)[..., : _ORDERS + 1] / _ANGLES
    level, wave = turned[..., 0].real, turned[..., 1:] * np.sqrt(2)
    product = wave[:, :-1] * wave[:, 1:].conj()  # a turn cancels in it, a mirror conjugates it
    product = product.real / np.sqrt(np.abs(product) + 1e-9)
    flat = [part.reshape(len(rings), -1) for part in (level, np.abs(wave), product)]
    described = np.concatenate(flat, axis=1).astype(np.float32)
    described -= described.mean(0)
    step = max(1, len(described) // _SAMPLE)
    axes = np.linalg.svd(described[::step], full_matrices=False)[2][:_COMPONENTS]
    return described @ axes.T


def _nearest(
    sought: np.ndarray, seeking: Look, described: np.ndarray, seen: Look
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (int64 each) of an anchor of `seeking` and one of its nearest neighbours of its kind among those of `seen`."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for kind in np.unique(seen.anchor[:, 3]):
        mine, others = (np.flatnonzero(one.anchor[:, 3] == kind) for one in (seeking, seen))
        count = min(_NEIGHBOURS + 1, len(others))
        near = cKDTree(described[others]).query(sought[mine], k=np.arange(1, count + 1))[1]
        pairs.append(np.stack([np.repeat(mine, count), others[near.ravel()]], axis=1))
    first, second = np.concatenate(pairs).T
    return first, second


def _turns(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best correlation over all turns, that turn in radians, and whether the other has to be mirrored: B each."""
    plain = np.fft.irfft((one * other.conj()).sum(1), _ANGLES)
    mirror = np.fft.irfft((one * other).sum(1), _ANGLES)
    both = np.concatenate([plain, mirror], axis=1)
    best = both.argmax(1)
    return both[np.arange(len(best)), best], _TURNS[best % _ANGLES], best >= _ANGLES


def _confirmed(
    seen: Look, first: np.ndarray, second: np.ndarray, turn: np.ndarray, mirrored: np.ndarray
) -> np.ndarray:
    """Which of the pairs of anchors (int64 B each) show the same cell once registered: bool B."""
    images, of = np.unique(seen.owner[np.concatenate([first, second])], return_inverse=True)
    i, j = of[: len(first)], of[len(first) :]
    anchor = seen.anchor
    stack = seen.mid[images].astype(np.float32)
    centre, reach = anchor[first, :2], np.clip(1.6 * anchor[first, 2], 14, 26)
    sign = np.where(mirrored, -1, 1).astype(np.float32)
    angle = -turn * sign
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.stack([np.stack([sign * cos, sin], -1), np.stack([-sign * sin, cos], -1)], 1)
    matrix = matrix * (anchor[second, 2] / anchor[first, 2])[:, None, None]
    moved = anchor[second, :2]

    kept = np.arange(len(first))
    for disc in (_COARSE, _FINE):
        way = reach[:, None, None] * disc
        matrix, moved = _register(stack, i, j, centre, way, matrix, moved, _STEPS)
        correlation, overlap = _agreement(stack, i, j, centre, way, matrix, moved)
        good = (correlation >= _ROUGHLY) & (overlap >= _OVERLAP)
        kept = kept[good]
        i, j, centre, reach = i[good], j[good], centre[good], reach[good]
        matrix, moved = matrix[good], moved[good]
    if len(kept):
        images, of = np.unique(images[np.concatenate([i, j])], return_inverse=True)
        i, j = of[: len(kept)], of[len(kept) :]
        stack = _band(seen.shown[images][..., 0].astype(np.float32), 0.8, 1.8)
        cell, _ = _agreement(stack, i, j, centre, reach[:, None, None] * _FINE, matrix, moved)
        image, _ = _agreement(stack, i, j, centre, _PIXELS - centre[:, None], matrix, moved)
        kept = kept[(cell >= SAME) & (image >= _AROUND)]
    return np.isin(np.arange(len(first)), kept)


def _seen(points: np.ndarray) -> np.ndarray:
    """Which points (…×2) lie within the image."""
    return np.logical_and.reduce((points >= 0) & (points <= SIDE - 1), axis=-1)


def _normed(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values B×P of zero mean and unit length over the mask, 0 elsewhere, and the lengths B×1 they had."""
    mean = (values * mask).sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1)
    values = (values - mean) * mask
    length = np.sqrt((values**2).sum(1, keepdims=True) + 1e-6)
    return values / length, length


def _agreement(
    stack: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    centre: np.ndarray,
    way: np.ndarray,
    matrix: np.ndarray,
    moved: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation over the part of the disc that both images show, and the share that it is of the disc: B each."""
    here, there = centre[:, None] + way, way @ matrix.transpose(0, 2, 1) + moved[:, None]
    mask = _seen(here) & _seen(there)
    one, _ = _normed(_sample(stack, i, here), mask)
    other, _ = _normed(_sample(stack, j, there), mask)
    return (one * other).sum(1), mask.mean(1)


def _register(
    stack: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    centre: np.ndarray,
    way: np.ndarray,
    matrix: np.ndarray,
    moved: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Improve the maps centre + way → moved + matrix·way from images i to images j of a stack N×64×64.

    `way` is B×P×2, `matrix` B×2×2, `centre` and `moved` B×2. Each step solves for a small similarity (scale, turn,
    two shifts) of the first image under which the second looks like it, but for gain and offset, and undoes it.
    """
    row, column = np.gradient(stack, axis=(1, 2))
    here = centre[:, None] + way
    template, inside = _sample(stack, i, here), _seen(here)
    down, right = _sample(row, i, here), _sample(column, i, here)
    y, x = way[..., 0], way[..., 1]
    slopes = np.stack([down * y + right * x, right * y - down * x, down, right], -1)
    for _ in range(steps):
        there = way @ matrix.transpose(0, 2, 1) + moved[:, None]
        mask = inside & _seen(there)
        target, length = _normed(template, mask)
        value, _ = _normed(_sample(stack, j, there), mask)
        steepest = slopes * mask[..., None]
        mean = steepest.sum(1, keepdims=True) / np.maximum(mask.sum(1), 1)[:, None, None]
        steepest = (steepest - mean) * mask[..., None] / length[..., None]
        steepest -= target[..., None] * (target[:, None] @ steepest)  # the gain
        hessian = steepest.transpose(0, 2, 1) @ steepest
        hessian += 1e-3 * np.eye(4) * hessian.diagonal(axis1=1, axis2=2)[:, None] + 1e-9 * np.eye(4)
        gain = np.maximum((target * value).sum(1), 0.3)[:, None, None]
        change = np.linalg.solve(hessian, steepest.transpose(0, 2, 1) @ value[..., None] / gain)[..., 0]
        change = change.clip([-0.1, -0.2, -3, -3], [0.1, 0.2, 3, 3]).astype(np.float32)
        scale, turn = 1 + change[:, 0], change[:, 1]
        small = np.stack([np.stack([scale, -turn], -1), np.stack([turn, scale], -1)], 1)
        matrix = matrix @ np.linalg.inv(small)
        moved = moved - (matrix @ change[:, 2:, None])[..., 0]
    return matrix, moved
