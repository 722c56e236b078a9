"""Defects painted into real images, one function each: what a generator gets wrong, made on purpose.

Each takes a `Scene` and a random generator and returns uint8 H×W×3, or None where the image offers no place for it (no
cytoplasm to put granules in). Lengths are in µm of the cell, taken as 12 µm across, so that 64 px and 128 px show the same
defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from balancer.imaging.masks import CYTOPLASM, NUCLEUS

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its mask, and another image of the set as donor: uint8 H×W×3 and H×W each.

    segmented: whether the class has a nucleus of several lobes; granular: whether it has coarse granules, and orange or
    purple ones.
    """

    image: Array
    mask: Array
    donor: Array
    donor_mask: Array
    segmented: bool
    granular: str  # "", "orange", "purple"

    @cached_property
    def pixels(self) -> Array:
        return self.image.astype(np.float64)

    @cached_property
    def nucleus(self) -> Array:
        return self.mask == NUCLEUS

    @cached_property
    def cytoplasm(self) -> Array:
        return self.mask == CYTOPLASM

    @cached_property
    def cell(self) -> Array:
        return self.mask > 0

    @cached_property
    def um(self) -> float:
        """A micrometre in pixels."""
        return float(np.sqrt(4 / np.pi * self.cell.sum())) / 12

    @cached_property
    def background(self) -> Array:
        """Colour of the background, float 3: the median of what is brighter than most outside the cell."""
        outside = self.pixels[~self.cell] if (~self.cell).any() else self.pixels.reshape(-1, 3)
        bright = outside.sum(1)
        return np.median(outside[bright >= np.quantile(bright, 0.7)], 0)


def _to_image(pixels: Array) -> Array:
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def _mixed(image: Array, other: Array, weight: Array) -> Array:
    """`other` over `image` by a weight H×W in 0 to 1."""
    return image + (other - image) * weight[..., None]


def _soft(region: Array, width: float) -> Array:
    return ndimage.gaussian_filter(region.astype(np.float64), width)


def _spread(pixels: Array, region: Array, width: float) -> Array:
    """Colours of a region carried over its outline: the normalised average under a Gaussian, H×W×3."""
    weight = _soft(region, width)
    total = ndimage.gaussian_filter(pixels * region[..., None], (width, width, 0))
    mean = pixels[region].mean(0)
    return (total + 1e-6 * mean) / (weight + 1e-6)[..., None]


def _texture(pixels: Array, region: Array, um: float, rng: np.random.Generator) -> Array:
    """Grain like a region's own, H×W×3: the differences to its smooth colours, drawn anew and smoothed a little."""
    rough = (pixels - _spread(pixels, region, 0.5 * um))[region]
    drawn = rough[rng.integers(len(rough), size=pixels.shape[:2])]
    smooth = ndimage.gaussian_filter(drawn, (0.7, 0.7, 0))
    return smooth * (rough.std() / max(smooth.std(), 1e-6))


def _without_nucleus(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The pixels with cytoplasm where the nucleus was, float H×W×3; None where hardly any cytoplasm is seen."""
    inner = ndimage.binary_erosion(scene.cytoplasm, iterations=2)
    if inner.sum() < 0.03 * scene.cell.sum():
        return None
    filled = _spread(scene.pixels, inner, 1.5 * scene.um) + _texture(scene.pixels, inner, scene.um, rng)
    width = max(0.15 * scene.um, 0.7)
    hidden = ndimage.binary_dilation(scene.nucleus, iterations=max(2, round(0.3 * scene.um))) & scene.cell
    return _mixed(scene.pixels, filled, _soft(hidden, width) * (hidden | scene.cell))


def no_nucleus(scene: Scene, rng: np.random.Generator) -> Array | None:
    """Cytoplasm where the nucleus was."""
    pixels = _without_nucleus(scene, rng)
    return None if pixels is None else _to_image(pixels)


def _moved(plane: Array, shift: tuple[float, float], fill: float = 0.0) -> Array:
    extra = (0.0,) * (plane.ndim - 2)
    return ndimage.shift(plane, (*shift, *extra), order=1, mode="constant", cval=fill)


def two_nuclei(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The nucleus once more, flipped, beside itself where there is most cytoplasm, overlapping by at most a tenth."""
    flip = (slice(None), slice(None, None, -1)) if rng.random() < 0.5 else (slice(None, None, -1),)
    image, nucleus = scene.pixels[flip], scene.nucleus[flip]
    here, there = ndimage.center_of_mass(scene.nucleus), ndimage.center_of_mass(nucleus)
    best, chosen = -1.0, None
    for angle in rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, 12, endpoint=False):
        for distance in np.arange(2, 14, 0.5) * scene.um:
            shift = (
                here[0] - there[0] + distance * np.sin(angle),
                here[1] - there[1] + distance * np.cos(angle),
            )
            placed = _moved(nucleus.astype(float), shift) > 0.5
            if placed.sum() < 0.95 * nucleus.sum():
                break
            if (placed & scene.nucleus).sum() <= 0.1 * placed.sum():
                share = (placed & scene.cell).sum() / placed.sum()
                if share > best:
                    best, chosen = share, shift
                break
    if chosen is None:
        return None
    weight = _moved(_soft(nucleus, max(0.1 * scene.um, 0.6)), chosen)
    return _to_image(_mixed(scene.pixels, _moved(image, chosen), weight))


def _blurred_outline(scene: Scene, along: Array) -> Array:
    """The nucleus's outline washed out over 1 µm to either side where the weight `along` (H×W) is 1."""
    depth = ndimage.distance_transform_edt(scene.nucleus) - ndimage.distance_transform_edt(~scene.nucleus)
    near = np.exp(-((depth / (1.2 * scene.um)) ** 4))
    smooth = ndimage.gaussian_filter(scene.pixels, (1.0 * scene.um, 1.0 * scene.um, 0))
    return _to_image(_mixed(scene.pixels, smooth, near * along))


def open_membrane(scene: Scene, rng: np.random.Generator) -> Array | None:
    """A gap of 100° to 150° in the nucleus's outline, where it runs out into what surrounds it."""
    y, x = ndimage.center_of_mass(scene.nucleus)
    rows, columns = np.indices(scene.mask.shape)
    turn = np.angle(np.exp(1j * (np.arctan2(rows - y, columns - x) - rng.uniform(-np.pi, np.pi))))
    half = np.radians(rng.uniform(50, 75))
    return _blurred_outline(scene, np.clip((half - np.abs(turn)) / 0.15 + 0.5, 0, 1))


def missing_membrane(scene: Scene, rng: np.random.Generator) -> Array | None:
    """No outline of the nucleus at all."""
    return _blurred_outline(scene, np.ones(scene.mask.shape))


def smooth_chromatin(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The nucleus painted in its smooth colours, its outline left."""
    inner = ndimage.distance_transform_edt(scene.nucleus) > 0.3 * scene.um
    if not inner.any():
        return None
    return _to_image(
        _mixed(scene.pixels, _spread(scene.pixels, inner, 1.5 * scene.um), _soft(inner, 0.7) * scene.nucleus)
    )


def foreign_lobes(scene: Scene, rng: np.random.Generator) -> Array | None:
    """A nucleus of four round lobes in place of one without, of eight in place of a segmented one, of the same area."""
    pixels = _without_nucleus(scene, rng)
    if pixels is None:
        return None
    count = 8 if scene.segmented else 4
    radius = np.sqrt(scene.nucleus.sum() / (count * np.pi))
    ring = 0.95 * radius / np.sin(np.pi / count)
    y, x = ndimage.center_of_mass(scene.cell)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi / count * np.arange(count)
    rows, columns = np.indices(scene.mask.shape)
    lobes = np.zeros(scene.mask.shape, bool)
    for angle in angles:
        lobes |= np.hypot(rows - y - ring * np.sin(angle), columns - x - ring * np.cos(angle)) < radius
    inner = ndimage.binary_erosion(scene.nucleus, iterations=max(1, round(0.3 * scene.um)))
    if not inner.any():
        return None
    chromatin = scene.pixels[inner].mean(0) + _texture(scene.pixels, inner, scene.um, rng)
    return _to_image(_mixed(pixels, chromatin, _soft(lobes, max(0.12 * scene.um, 0.6))))


_PURPLE, _ORANGE = np.array([0.55, 0.75, 0.35]), np.array([0.05, 0.4, 0.45])  # optical densities of granules


def foreign_granules(scene: Scene, rng: np.random.Generator) -> Array | None:
    """Coarse granules all over the cytoplasm, purple ones, or orange ones in a cell that has purple ones."""
    room = ndimage.binary_erosion(scene.cytoplasm, iterations=max(1, round(0.2 * scene.um)))
    if room.sum() < 0.1 * scene.cell.sum():
        return None
    rows, columns = np.nonzero(room)
    count = max(8, round(0.9 * room.sum() / scene.um**2))
    amount = np.zeros(scene.mask.shape)
    every = np.indices(scene.mask.shape)
    for i in rng.choice(len(rows), count):
        radius = rng.uniform(0.25, 0.4) * scene.um
        away = np.hypot(
            every[0] - rows[i] + rng.uniform(-0.5, 0.5), every[1] - columns[i] + rng.uniform(-0.5, 0.5)
        )
        amount = np.maximum(amount, np.clip(radius - away + 0.5, 0, 1))
    colour = _ORANGE if scene.granular == "purple" else _PURPLE
    return _to_image(_mixed(scene.pixels, scene.background * 10.0**-colour, amount * scene.cell))


def erased_granules(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The cytoplasm painted in the smooth, pale colours between its granules; only where the class has coarse ones."""
    inner = ndimage.binary_erosion(scene.cytoplasm, iterations=max(1, round(0.2 * scene.um)))
    if not scene.granular or inner.sum() < 0.1 * scene.cell.sum():
        return None
    bright = scene.pixels.sum(2)
    ground = inner & (bright >= np.quantile(bright[inner], 0.8))
    pale = np.median(scene.pixels[ground], 0)
    smooth = pale + 0.15 * (_spread(scene.pixels, inner, 1.5 * scene.um) - pale)
    return _to_image(_mixed(scene.pixels, smooth, _soft(scene.cytoplasm, 0.7) * scene.cytoplasm))


def cut_off(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The cell moved over the edge until 30 % to 50 % of it are out; behind it, what surrounded it mirrored."""
    turns = int(rng.integers(4))
    pixels, cell = np.rot90(scene.pixels, turns), np.rot90(scene.cell, turns)
    lost = cell.sum(0).cumsum() / cell.sum()
    move = int((lost < rng.uniform(0.3, 0.5)).sum())  # columns, over the left edge
    last = int(np.flatnonzero(cell.any(0))[-1])
    free = pixels[:, min(last + 2, cell.shape[1] - 3) :]
    behind = np.pad(free, ((0, 0), (0, move), (0, 0)), mode="symmetric")[:, free.shape[1] :]
    return _to_image(np.rot90(np.concatenate([pixels[:, move:], behind], 1), -turns))


def second_cell(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The donor's cell beside this one, at least half of its nucleus within the image."""
    if not (scene.donor_mask == NUCLEUS).any():
        return None
    gain = scene.background / np.median(
        Scene(scene.donor, scene.donor_mask, scene.donor, scene.donor_mask, False, "").background[None], 0
    )
    donor = scene.donor * gain
    cell, nucleus = scene.donor_mask > 0, scene.donor_mask == NUCLEUS
    here, there = ndimage.center_of_mass(scene.cell), ndimage.center_of_mass(cell)
    for angle in rng.permutation(16) * np.pi / 8:
        for distance in np.arange(4, 16, 0.5) * scene.um:
            shift = (
                here[0] - there[0] + distance * np.sin(angle),
                here[1] - there[1] + distance * np.cos(angle),
            )
            placed = _moved(cell.astype(float), shift) > 0.5
            if (placed & scene.cell).sum() <= 0.05 * placed.sum():
                break
        if (_moved(nucleus.astype(float), shift) > 0.5).sum() >= 0.5 * nucleus.sum():
            weight = _moved(_soft(cell, 0.7), shift)
            return _to_image(_mixed(scene.pixels, _moved(donor, shift), weight))
    return None


def seam(scene: Scene, rng: np.random.Generator) -> Array | None:
    """One side of a straight line moved along it by 5 % to 8 % of the image and made 4 % to 7 % darker."""
    turns = int(rng.integers(4))
    pixels = np.rot90(scene.pixels, turns).copy()
    side = pixels.shape[0]
    at = round(rng.uniform(0.3, 0.7) * side)
    moved = np.roll(pixels[at:], round(rng.uniform(0.05, 0.08) * side), axis=1)
    pixels[at:] = moved * (1 - rng.uniform(0.04, 0.07))
    return _to_image(np.rot90(pixels, -turns))


def checkerboard(scene: Scene, rng: np.random.Generator) -> Array | None:
    """Light and dark squares of 1 or 2 pixels by turns, 3 % to 5 % lighter and darker than the image, as upsampling leaves."""
    rows, columns = np.indices(scene.mask.shape) // rng.integers(1, 3)
    sign = 1.0 - 2 * ((rows + columns) % 2)
    return _to_image(scene.pixels * (1 + rng.uniform(0.03, 0.05) * sign)[..., None])


def stain_off(scene: Scene, rng: np.random.Generator) -> Array | None:
    """The light's colour moved by 10 % to 15 % in two channels against each other, and the dyes' densities by 25 % to 40 %."""
    first, second = rng.permutation(3)[:2]
    shift = rng.uniform(0.1, 0.15)
    light = np.ones(3)
    light[first], light[second] = 1 - shift, 1 - shift / 3
    gain = np.ones(3)
    gain[first], gain[second] = 1 + rng.uniform(0.25, 0.4), 1 - rng.uniform(0.25, 0.4)
    density = -np.log10(np.maximum(scene.pixels, 1) / scene.background)
    return _to_image(scene.background * light * 10.0 ** -(density * gain))


def blur(scene: Scene, rng: np.random.Generator) -> Array | None:
    """Out of focus by a Gaussian of 0.3 µm to 0.45 µm."""
    width = rng.uniform(0.3, 0.45) * scene.um
    return _to_image(ndimage.gaussian_filter(scene.pixels, (width, width, 0)))


def noise(scene: Scene, rng: np.random.Generator) -> Array | None:
    """Noise of 8 to 14 grey levels in every pixel and channel."""
    return _to_image(scene.pixels + rng.normal(0, rng.uniform(8, 14), scene.pixels.shape))


DEFECTS: dict[str, Callable[[Scene, np.random.Generator], Array | None]] = {
    "no nucleus": no_nucleus,
    "two nuclei": two_nuclei,
    "open membrane": open_membrane,
    "missing membrane": missing_membrane,
    "smooth chromatin": smooth_chromatin,
    "foreign lobes": foreign_lobes,
    "foreign granules": foreign_granules,
    "granules erased": erased_granules,
    "cut off": cut_off,
    "second cell": second_cell,
    "seam": seam,
    "checkerboard": checkerboard,
    "stain off": stain_off,
    "blur": blur,
    "noise": noise,
}
