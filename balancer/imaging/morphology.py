"""What a haematologist sees in a cell, as numbers: size, nucleus, chromatin, granules, vacuoles, colour, surroundings.

All is measured from an image and its mask. Densities are optical densities (absorbances) over the image's own background,
OD = −log10(I / I0) in each colour channel (Beer and Lambert's law), so that they do not depend on the lamp; colours
are CIE 1976 L*a*b* (D65) after white balance by that background. Shapes and texture are measured on the cell's own
grid: a flip or a quarter turn changes nothing.

Lengths are taken in pixels and told in µm where `um_per_pixel` is known; a column's name ends in its unit (`_um`,
`_um2`, `_per_um`, or `_px` … where the scale is unknown) unless it is a ratio, a count, a density or a colour.
How wide a filter has to be is written in µm: where the scale is unknown, the cell is taken to measure 12 µm across, the
usual leucocyte on a smear, for this and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.measure import label, perimeter_crofton, regionprops
from skimage.morphology import disk, local_maxima, reconstruction

from balancer.errors import InputError
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.imaging.scale import check_scale

LEUCOCYTE_UM = 12.0
_NECK = 0.9  # of the smaller lobe's width: where the nucleus is narrower, one lobe ends and another begins
# Pixels per µm that are measured at most, an image of more being shrunk: light resolves 0.2 µm (Abbe 1873), three of them.
_FINEST = 16.0
_EIGHT = np.ones((3, 3), bool)  # neighbourhood of connected parts

Array = np.ndarray
Value = float | None


class Spots(NamedTuple):
    """Round spots that differ from what surrounds them, K of them."""

    marks: Array  # bool h×w, their peaks
    radius: Array  # float K, in pixels
    contrast: Array  # float K, of a disc of that radius, in the units of the plane


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell and what lies around it: image uint8 H×W×3, mask uint8 H×W, and the scale where it is known.

    Of several cells in a mask the largest is this one; the rest of the mask belongs to its surroundings.
    """

    image: Array
    mask: Array
    um_per_pixel: float | None

    # Regions of the whole image, bool H×W

    @cached_property
    def body(self) -> Array:
        """The cell: nucleus and cytoplasm, the largest connected region of the mask."""
        parts = label(self.mask > 0, connectivity=2)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        return parts == sizes.argmax() if sizes.any() else np.zeros(self.mask.shape, bool)

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """The part of the image that holds the cell and 2 µm around it."""
        margin = int(np.ceil(2 * self.um))
        spans = []
        for axis in (1, 0):
            (at,) = np.nonzero(self.body.any(axis))
            spans.append(slice(max(at[0] - margin, 0), at[-1] + margin + 1) if len(at) else slice(0, 0))
        return spans[0], spans[1]

    @cached_property
    def um(self) -> float:
        """A micrometre in pixels, for the width of filters: see the module's head."""
        diameter = float(np.sqrt(4 / np.pi * self.body.sum()))
        if self.um_per_pixel is None:
            return diameter / LEUCOCYTE_UM
        # No filter is wider than the cell, whatever the scale says.
        return min(1 / self.um_per_pixel, diameter / 3)

    @property
    def resolved(self) -> bool:
        """Whether structures of 1 µm can be seen at all: a µm spans two pixels (Nyquist)."""
        return self.um >= 2

    @cached_property
    def light(self) -> Array:
        """Colour of the empty background, float 3 in grey levels: median of the outside's brightest class in green.

        White where nothing but the cell is in the image.
        """
        outside = self.image[self.mask == 0]
        if not len(outside):
            return np.full(3, 255.0)
        # Otsu twice: the dark class outside may be a neighbour's nucleus first, red cells next. A lamp's gradient is no class.
        for _ in range(2):
            green = outside[:, 1]
            upper = green > threshold_otsu(green)
            if not upper.any() or np.median(green[upper]) < 1.12 * np.median(green[~upper]):
                break
            outside = outside[upper]
        return np.maximum(np.median(outside, 0), 1.0)

    @cached_property
    def density(self) -> Array:
        """Optical density over the background, float H×W×3; the darkest grey level counts as 1."""
        levels = -np.log10(np.maximum(np.arange(256), 1))[self.image]
        return levels + np.log10(self.light)

    # The cell alone: planes cut to `box`

    @cached_property
    def nucleus(self) -> Array:
        """bool h×w."""
        return ((self.mask == NUCLEUS) & self.body)[self.box]

    @cached_property
    def cytoplasm(self) -> Array:
        """bool h×w."""
        return ((self.mask == CYTOPLASM) & self.body)[self.box]

    @cached_property
    def red(self) -> Array:
        """Density in red light, h×w: azure and blue absorb it, eosin and haemoglobin hardly."""
        return self.density[self.box][..., 0]

    @cached_property
    def green(self) -> Array:
        """Density in green light, h×w: every dye of the stain absorbs it."""
        return self.density[self.box][..., 1]

    @cached_property
    def nuclear_shape(self) -> Any:
        """Its `regionprops`, its parts together; None without a nucleus."""
        return _shape(self.nucleus)

    @cached_property
    def cell_shape(self) -> Any:
        """Its `regionprops`; None without a cell."""
        return _shape(self.body[self.box])

    @cached_property
    def nuclear_parts(self) -> tuple[Array, int]:
        """Connected parts of the nucleus numbered from 1, int h×w, and how many; specks below 1 µm² are left out."""
        parts = label(self.nucleus, connectivity=2)
        sizes = np.bincount(parts.ravel())[1:]
        kept = np.flatnonzero(sizes >= min(self.um**2, sizes.max(initial=0)))
        number = np.zeros(len(sizes) + 1, int)
        number[kept + 1] = np.arange(1, len(kept) + 1)
        return number[parts], len(kept)

    @cached_property
    def lobe_count(self) -> int:
        """Number of lobes: see `lobes`."""
        depth = _depth(self.nuclear_parts[0] > 0)
        if not depth.any():
            return 0
        # Maxima of log depth that stand log(1/0.9) above their saddle have a neck below 0.9 of them (h-maxima); the pixel
        # that is added keeps the steps of a thin outline from being necks.
        height = np.log(depth + 1)
        peaks = local_maxima(reconstruction(height - np.log(1 / _NECK), height))
        marks, count = ndimage.label(peaks, _EIGHT)
        return int((ndimage.maximum(depth, marks, range(1, count + 1)) >= 0.3 * depth.max()).sum())

    @cached_property
    def chromatin(self) -> tuple[Array, Array]:
        """The nucleus without its outer 0.4 µm, bool h×w, and its density relative to its mean there, h×w, 1 on average."""
        inner = _depth(self.nucleus) > 0.4 * self.um
        mean = self.red[inner].mean() if inner.any() else 0.0
        return (inner, self.red / mean) if mean > 0 else (np.zeros_like(inner), self.red)

    @cached_property
    def membrane_profiles(self) -> tuple[Array, Array, float] | None:
        """The nucleus's outline: its K pixels (row, column) in `box`, int 2×K; red density across each, float K×9; its step.

        From 0.8 µm outside to 0.8 µm inside along the normal, so that a mask may be off by as much; the step in pixels.
        """
        outline = self.nucleus & ~ndimage.binary_erosion(self.nucleus, _EIGHT, border_value=1)
        smooth = ndimage.gaussian_filter(self.nucleus.astype(float), max(0.3 * self.um, 1.0), mode="nearest")
        normal = np.stack(np.gradient(smooth))[:, outline] if min(outline.shape) > 1 else np.zeros((2, 0))
        length = np.hypot(*normal)
        if not (length > 0).any():
            return None
        normal = (normal / np.maximum(length, 1e-12))[:, length > 0]
        at = np.argwhere(outline)[length > 0].T
        steps = np.linspace(-0.8, 0.8, 9) * self.um
        points = at[:, :, None] + normal[:, :, None] * steps
        profile = ndimage.map_coordinates(self.red, points, order=1, mode="nearest")
        return at, profile, float(steps[1] - steps[0])

    @cached_property
    def membrane(self) -> Array | None:
        """Steepest rise of red density across each pixel of the nucleus's outline, float K, in OD per pixel."""
        if self.membrane_profiles is None:
            return None
        _, profile, step = self.membrane_profiles
        return ((profile[:, 2:] - profile[:, :-2]) / (2 * step)).max(1)

    @cached_property
    def nuclear_contrast(self) -> float:
        """Red density of the nucleus above that of the cell within 1 µm around it, or of the background there."""
        ring = (ndimage.distance_transform_edt(~self.nucleus) <= self.um) & ~self.nucleus
        around = float(np.median(self.red[ring])) if ring.any() else 0.0
        return float(np.median(self.red[self.nucleus])) - around

    @cached_property
    def nucleolus_spots(self) -> Spots:
        """Pale round spots in the nucleus: see `nucleoli`."""
        inner, plane = self.chromatin
        gaps = 2 * float(plane[inner].std()) if inner.any() else 0.0  # between clumps
        return _spots(-plane, inner, np.array([0.6, 0.85, 1.1]) * self.um, max(0.15, gaps))

    @cached_property
    def inner_cytoplasm(self) -> Array:
        """The cytoplasm without 0.4 µm along its outlines, where pixels are half nucleus or half background, bool h×w."""
        return _depth(self.cytoplasm) > 0.4 * self.um

    @cached_property
    def granule_spots(self) -> Spots:
        """Dense round spots in the cytoplasm: see `granules`."""
        radii = np.array([0.15, 0.22, 0.33, 0.5]) * self.um
        return _spots(self.green, self.inner_cytoplasm, radii, 0.06)

    @cached_property
    def vacuole_spots(self) -> Spots:
        """Pale round spots in the cytoplasm: see `vacuoles`."""
        region = self.inner_cytoplasm
        # Between granules it is paler than on average: what counts is the ground, so density is cut off at that.
        ground = max(float(np.quantile(self.green[region], 0.2)), 0.02) if region.any() else 1.0
        radii = np.array([0.4, 0.65, 1.0]) * self.um
        return _spots(-np.minimum(self.green, ground) / ground, region, radii, 0.4)


def _depth(region: Array) -> Array:
    """Distance of each pixel of a region to the nearest pixel outside, beyond the plane's edge too; 0 outside."""
    return ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]


def _shape(region: Array) -> Any:
    """The `regionprops` of a region that may lie in several parts; None where it is empty."""
    return regionprops(region.astype(np.uint8))[0] if region.any() else None


def _blur(plane: Array, region: Array, sigma: float) -> Array:
    """Gaussian average over the region alone (normalised convolution, Knutsson and Westin 1993), 0 outside.

    What lies outside the region weighs nothing, so that only the rectangle around it is gone through.
    """
    (box,) = ndimage.find_objects(region.astype(np.uint8))
    inside = region[box]
    weight = ndimage.gaussian_filter(inside.astype(float), sigma, mode="constant")
    total = ndimage.gaussian_filter(plane[box] * inside, sigma, mode="constant")
    result = np.zeros(region.shape)
    result[box] = np.where(inside, total / np.maximum(weight, 1e-6), 0)
    return result


def _local_deviation(plane: Array, region: Array, sigma: float) -> float:
    """Root of the mean variance under a Gaussian window within a region."""
    variance = _blur(plane**2, region, sigma) - _blur(plane, region, sigma) ** 2
    return float(np.sqrt(max(variance[region].mean(), 0)))


def _spots(plane: Array, region: Array, radii: Array, contrast: float) -> Spots:
    """Find bright round spots of `radii` pixels in a region that stand out by `contrast` or more.

    Differences of Gaussians, σ and 1.6 σ with σ = r / 1.77, within the region alone, scaled such that a disc on an even
    ground answers with its contrast (blob detection after Lindeberg 1998, DOI 10.1023/A:1008045108935).
    """
    if not region.any():
        return Spots(region, np.zeros(0), np.zeros(0))
    answers = []
    for radius in radii:
        sigma = max(radius / 1.77, 0.5)
        answers.append((_blur(plane, region, sigma) - _blur(plane, region, 1.6 * sigma)) / 0.334)
    answer = np.max(answers, 0)
    peak = (ndimage.maximum_filter(answer, footprint=_EIGHT) == answer) & (answer >= contrast) & region
    parts, count = ndimage.label(peak, _EIGHT)  # a plateau is one spot
    spots = range(1, count + 1)
    size = radii[np.argmax(answers, 0)]
    return Spots(
        peak, np.asarray(ndimage.mean(size, parts, spots)), np.asarray(ndimage.mean(answer, parts, spots))
    )


# The features


class Feature(NamedTuple):
    """How a feature is measured, in pixels; the power of the length in its unit; the names of its parts, if it has several."""

    measure: Callable[[Cell], Any]  # a Value, or with parts an array of as many or None
    length: int
    parts: tuple[str, ...]


FEATURES: dict[str, Feature] = {}
"""Feature name → how it is measured. The functions' docstrings give definition, unit and source."""

_UNITS = {0: "", 1: "_um", 2: "_um2", -1: "_per_um", -2: "_per_um2"}
_LAB = ("lightness", "a", "b")


def _feature(length: int = 0, parts: tuple[str, ...] = ()) -> Callable[..., Callable[[Cell], Any]]:
    def register(function: Callable[[Cell], Any]) -> Callable[[Cell], Any]:
        FEATURES[function.__name__] = Feature(function, length, parts)
        return function

    return register


def measure(image: Array, mask: Array, um_per_pixel: float | None = None) -> dict[str, Value]:
    """Measure one cell: column name → value, None where it is not defined (no nucleus, no granule to have a colour …).

    `image` is uint8 H×W×3 (RGB), `mask` uint8 H×W with 255 nucleus, 128 cytoplasm and 0 elsewhere, `um_per_pixel` the
    width of a pixel. The columns are the same for every cell; they are those of `FEATURES`, in its order, with the
    parts of a feature and the unit appended (`nucleus_area_um2`, `nucleus_area_px2` without a scale). Raises InputError for
    arrays of another kind or size, a mask with other grey levels, and a scale that is no positive number.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(
            f"The image is {image.dtype} of shape {image.shape}; morphology is measured on 8-bit RGB, H×W×3."
        )
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise InputError(
            f"The mask is {mask.dtype} of shape {mask.shape} and the image {image.shape[0]}×{image.shape[1]}; "
            "give an 8-bit grey mask of the image's size."
        )
    strange = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    strange = strange[~np.isin(strange, (0, CYTOPLASM, NUCLEUS))]
    if len(strange):
        raise InputError(
            f"The mask has the grey level {strange[0]}; only 255 (nucleus), 128 (cytoplasm) and 0 (elsewhere) "
            "mean something. Save it without lossy compression or smoothing."
        )
    check_scale("um_per_pixel", um_per_pixel)

    cell = Cell(image, mask, um_per_pixel)
    scale, unit = (um_per_pixel, "um") if um_per_pixel is not None else (1.0, "px")
    if cell.um > _FINEST:
        shrink = _FINEST / cell.um
        cell = _shrunk(image, mask, shrink, um_per_pixel)
        scale /= shrink
    row: dict[str, Value] = {}
    for name, feature in FEATURES.items():
        suffix = _UNITS[feature.length].replace("um", unit)
        columns = [f"{name}_{part}{suffix}" for part in feature.parts] or [name + suffix]
        value = feature.measure(cell)
        values = value if feature.parts and value is not None else [value] * len(columns)
        for column, each in zip(columns, values, strict=True):
            row[column] = None if each is None else float(each) * scale**feature.length
    return row


def _shrunk(image: Array, mask: Array, shrink: float, um_per_pixel: float | None) -> Cell:
    """The same cell in larger pixels: each side times `shrink`, which is below 1."""
    height, width = (max(1, round(side * shrink)) for side in mask.shape)

    def resized(pixels: Array, resampling: Image.Resampling) -> Array:
        return np.asarray(Image.fromarray(pixels).resize((width, height), resampling))

    return Cell(
        resized(np.ascontiguousarray(image), Image.Resampling.BOX),
        resized(np.ascontiguousarray(mask), Image.Resampling.NEAREST),
        um_per_pixel and um_per_pixel / shrink,
    )


# Size and shape


@_feature(length=2)
def cell_area(cell: Cell) -> Value:
    """Area of the cell, nucleus included, as a number of pixels (µm² or px²)."""
    return float(cell.body.sum()) or None


@_feature(length=2)
def nucleus_area(cell: Cell) -> Value:
    """Area of the nucleus, all its parts together, as a number of pixels (µm² or px²)."""
    return float(cell.nucleus.sum()) or None


@_feature()
def nc_ratio(cell: Cell) -> Value:
    """N:C ratio as the nucleus's share of the cell's area, 0 to 1: 0.5 is what textbooks write as 1:1 (nucleus : cytoplasm)."""
    return float(cell.nucleus.sum() / cell.body.sum()) if cell.nucleus.any() else None


def _circularity(shape: Any) -> Value:
    """4 π area / perimeter², 1 for a disc, at most 1 (Cox 1927); perimeter by Crofton's formula in four directions."""
    if shape is None:
        return None
    perimeter = perimeter_crofton(np.pad(shape.image, 1), 4)
    return min(4 * np.pi * shape.area / perimeter**2, 1.0) if perimeter > 0 else None


def _solidity(shape: Any) -> Value:
    """Area / area of the convex hull."""
    # A hull needs three corners: what is narrower than that has no indentation.
    return None if shape is None else 1.0 if min(shape.image.shape) < 3 else float(shape.solidity)


@_feature()
def cell_eccentricity(cell: Cell) -> Value:
    """Eccentricity of the ellipse with the cell's second moments, 0 circle to 1 line (Hu 1962)."""
    return None if cell.cell_shape is None else cell.cell_shape.eccentricity


@_feature()
def cell_circularity(cell: Cell) -> Value:
    """4 π area / perimeter² of the cell, 1 for a disc (Cox 1927)."""
    return _circularity(cell.cell_shape)


@_feature()
def cell_solidity(cell: Cell) -> Value:
    """The cell's share of its convex hull, 1 without any indentation."""
    return _solidity(cell.cell_shape)


@_feature()
def nucleus_eccentricity(cell: Cell) -> Value:
    """Eccentricity of the ellipse with the nucleus's second moments, its parts together, 0 circle to 1 line (Hu 1962)."""
    return None if cell.nuclear_shape is None else cell.nuclear_shape.eccentricity


@_feature()
def nucleus_circularity(cell: Cell) -> Value:
    """4 π area / perimeter² of the nucleus, its parts together, 1 for a disc (Cox 1927)."""
    return _circularity(cell.nuclear_shape)


@_feature()
def nucleus_solidity(cell: Cell) -> Value:
    """The nucleus's share of its convex hull, its parts together: 1 when round, lower for kidney, band and lobes."""
    return _solidity(cell.nuclear_shape)


# Nuclei and lobes


@_feature()
def nuclei(cell: Cell) -> Value:
    """Number of connected parts of the nucleus of 1 µm² or more; 0 without a nucleus."""
    return float(cell.nuclear_parts[1])


@_feature()
def lobes(cell: Cell) -> Value:
    """Number of lobes: maxima of the distance to the outline between which the nucleus narrows to less than 0.9.

    The width of the neck is compared with that of the smaller lobe (relative dynamics, Grimaud 1992, on the distance
    map); maxima below 0.3 of the largest are bumps. A round, kidney or band nucleus of even width has one.
    """
    return float(cell.lobe_count) or None


@_feature()
def lobes_joined(cell: Cell) -> Value:
    """1 when all lobes hang together in the mask, 0 when some lie apart; None with fewer than two lobes.

    Filaments finer than a pixel are lost in a mask: lobes of a normal neutrophil may lie apart here.
    """
    return float(cell.nuclear_parts[1] == 1) if cell.lobe_count > 1 else None


# Nuclear membrane


@_feature(length=-1)
def membrane_sharpness(cell: Cell) -> Value:
    """Median over the nucleus's outline of the steepest rise of red density across it, in OD per µm (or per pixel)."""
    return None if cell.membrane is None else float(np.median(cell.membrane))


@_feature()
def membrane_closedness(cell: Cell) -> Value:
    """Share of the nucleus's outline with an edge, 0 to 1.

    An edge is where red density rises at half or more of the nucleus's contrast to its surroundings per µm.
    """
    if cell.membrane is None:
        return None
    contrast = cell.nuclear_contrast
    return float((cell.membrane * cell.um >= 0.5 * contrast).mean()) if contrast > 0.02 else 0.0


# Chromatin


@_feature()
def chromatin_density(cell: Cell) -> Value:
    """Mean optical density of the nucleus but for 0.4 µm at its outline, in red light.

    Red, since a nucleus absorbs nearly all green light, and what is left of that is noise.
    """
    inner = cell.chromatin[0]
    return float(cell.red[inner].mean()) if inner.any() else None


@_feature(parts=("fine", "medium", "coarse"))
def chromatin_clumping(cell: Cell) -> tuple[float, ...] | None:
    """Local standard deviation of the chromatin's density relative to its mean: multi-scale local variance.

    Standard deviations under Gaussian windows of σ 0.25 µm (fine), 0.5 µm and 1 µm (coarse) within the nucleus; root
    of the mean variance. None where 1 µm spans fewer than two pixels.
    """
    inner, plane = cell.chromatin
    if not inner.any() or not cell.resolved:
        return None
    return tuple(_local_deviation(plane, inner, width * cell.um) for width in (0.25, 0.5, 1.0))


@_feature(length=-1)
def chromatin_frequency(cell: Cell) -> Value:
    """Mean spatial frequency of the chromatin, in cycles per µm (or per pixel): the centroid of its power spectrum.

    Of the relative density within the nucleus, tapered at its outline, between 0.2 and 1.2 cycles per µm: low for clumps,
    high for fine grains. None where 1 µm spans fewer than two pixels.
    """
    inner, plane = cell.chromatin
    if not inner.any() or not cell.resolved:
        return None
    taper = ndimage.gaussian_filter(inner.astype(float), 0.4 * cell.um, mode="constant") * inner
    wave = (plane - (plane * taper).sum() / taper.sum()) * taper
    size = 2 ** int(np.ceil(np.log2(max(wave.shape))))
    power = np.abs(np.fft.fft2(wave, (size, size))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    band = (frequency >= 0.2 / cell.um) & (frequency <= min(1.2 / cell.um, 0.5))
    total = power[band].sum()
    return float((frequency * power)[band].sum() / total) if total > 1e-9 else None


@_feature()
def nucleoli(cell: Cell) -> Value:
    """Number of nucleoli: pale round spots of 0.6 to 1.1 µm radius inside the nucleus.

    They miss 0.15 or more of its mean density, and twice the standard deviation of its texture: between coarse clumps a
    nucleolus cannot be told from a gap. None without a nucleus and where 1 µm spans fewer than two pixels.
    """
    return _count(cell, cell.chromatin[0], cell.nucleolus_spots)


@_feature()
def nucleolus_contrast(cell: Cell) -> Value:
    """Share of the nucleus's mean density that the most prominent nucleolus misses; None without a nucleolus."""
    return float(cell.nucleolus_spots.contrast.max()) if nucleoli(cell) else None


# Cytoplasm


@_feature(parts=_LAB)
def cytoplasm_colour(cell: Cell) -> Array | None:
    """Median colour of the cytoplasm, CIE L*a*b* against the background's white: b* falls with basophilia, a* rises with eosin."""
    return _colour(cell.density[cell.box][cell.cytoplasm])


@_feature()
def cytoplasm_texture(cell: Cell) -> Value:
    """Local standard deviation of the cytoplasm's red density relative to its mean, under a Gaussian window of σ 0.5 µm.

    Red, since ground glass is blue; granules add to it. None where `granules` is.
    """
    region = cell.inner_cytoplasm
    if not region.any() or not cell.resolved:
        return None
    mean = cell.red[region].mean()
    return _local_deviation(cell.red, region, 0.5 * cell.um) / float(mean) if mean > 0 else None


@_feature()
def granules(cell: Cell) -> Value:
    """Number of granules: dense round spots of 0.15 to 0.5 µm radius in the cytoplasm, 0.06 OD above their surroundings in green.

    0.4 µm along the cytoplasm's outlines are left out. None without cytoplasm deeper than that, and where 1 µm spans
    fewer than two pixels. Granules that overlap count once.
    """
    return _count(cell, cell.inner_cytoplasm, cell.granule_spots)


@_feature(length=-2)
def granule_density(cell: Cell) -> Value:
    """Granules per area of the cytoplasm where they are counted (1/µm² or 1/px²)."""
    count = granules(cell)
    return None if count is None else count / float(cell.inner_cytoplasm.sum())


@_feature(length=1)
def granule_radius(cell: Cell) -> Value:
    """Mean radius of the granules (µm or pixels); None without a granule."""
    return float(cell.granule_spots.radius.mean()) if granules(cell) else None


@_feature()
def granule_contrast(cell: Cell) -> Value:
    """Mean density of the granules above their surroundings in green light, in OD; None without a granule."""
    return float(cell.granule_spots.contrast.mean()) if granules(cell) else None


@_feature(parts=_LAB)
def granule_colour(cell: Cell) -> Array | None:
    """Median colour of the granules' centres, CIE L*a*b* against the background's white; None without a granule."""
    return _colour(cell.density[cell.box][cell.granule_spots.marks]) if granules(cell) else None


@_feature()
def vacuoles(cell: Cell) -> Value:
    """Number of vacuoles: pale round spots of 0.4 to 1 µm radius in the cytoplasm.

    They miss 0.4 or more of the density of its ground, the paler fifth of the cytoplasm, in green. 0.4 µm along its
    outlines are left out. None without cytoplasm deeper than that, and where 1 µm spans fewer than two pixels.
    """
    return _count(cell, cell.inner_cytoplasm, cell.vacuole_spots)


@_feature()
def vacuole_share(cell: Cell) -> Value:
    """Share of the cytoplasm that vacuoles take, as discs of their radii, 0 to 1."""
    if vacuoles(cell) is None:
        return None
    return min(np.pi * float((cell.vacuole_spots.radius**2).sum()) / float(cell.inner_cytoplasm.sum()), 1.0)


# Around the cell


@_feature()
def cell_on_edge(cell: Cell) -> Value:
    """Share of the cell's outline that lies on the image's edge, 0 to 1; above 0 the cell is cut off or touches it."""
    if not cell.body.any():
        return None
    outline = cell.body & ~ndimage.binary_erosion(cell.body)
    return float(1 - outline[1:-1, 1:-1].sum() / outline.sum())


@_feature()
def other_nuclei(cell: Cell) -> Value:
    """Number of nuclei outside this cell, of 15 µm² or more within the image: above 0 there is a second cell.

    Nuclei of the mask's other regions, and what the image shows outside the mask with at least half of the nucleus's red
    density (red cells have little there, platelets are smaller). None without a nucleus to compare with.
    """
    if not cell.nucleus.any():
        return None
    level = float(np.median(cell.red[cell.nucleus])) / 2
    if level <= 0.05:
        return 0.0
    clear = ndimage.binary_dilation(cell.body, disk(int(np.ceil(0.5 * cell.um))))
    dark = ((cell.density[..., 0] >= level) & (cell.mask == 0)) | (cell.mask == NUCLEUS)
    parts = label(ndimage.binary_opening(dark & ~clear, disk(max(int(cell.um / 2), 1))), connectivity=2)
    return float((np.bincount(parts.ravel())[1:] >= 15 * cell.um**2).sum())


@_feature(parts=("red", "green", "blue"))
def background_colour(cell: Cell) -> Array | None:
    """Colour of the empty background, in grey levels 0 to 255; None where nothing but the cell is in the image."""
    return cell.light if (cell.mask == 0).any() else None


@_feature(parts=_LAB)
def red_cell_colour(cell: Cell) -> Array | None:
    """Median colour of the red cells, CIE L*a*b* against the background's white; None where they cover less than 1 %.

    Red cells are what absorbs 0.08 OD or more of green light outside the mask, and no more than 0.3 OD of red: platelets
    and nuclei absorb more.
    """
    outside = cell.density[cell.mask == 0]
    red, green = outside[:, 0], outside[:, 1]
    found = (green >= 0.08) & (red <= 0.3)
    return _colour(outside[found]) if found.sum() >= 0.01 * cell.mask.size else None


def _count(cell: Cell, region: Array, spots: Spots) -> Value:
    """Number of spots in a region; None where there is no region, or a pixel is too wide to see them."""
    return float(len(spots.radius)) if region.any() and cell.resolved else None


def _colour(density: Array) -> Array | None:
    """CIE L*a*b* (D65) of the median density of K×3 pixels; None for no pixel."""
    if not len(density):
        return None
    return rgb2lab(np.clip(10.0 ** -np.median(density, 0), 0, 1)[None, None])[0, 0]
