"""Physical scale: images brought to so many µm a pixel, and what can be seen at that scale.

The width of a pixel is `um_per_pixel`, in µm, of square pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from balancer.errors import InputError

# By the sampling theorem (Shannon 1949) a structure narrower than two pixels cannot be told from its neighbours.
SEEN = 2.0
LEAST, MOST = 1e-3, 1e3  # µm per pixel: wider than from electron microscopes to flatbed scanners


@dataclass(frozen=True)
class Structure:
    """A structure by which classes are told apart, in µm; `least` and `most` are of the side that varies."""

    name: str
    width: float  # of its narrowest side, where it is small: what has to span `SEEN` pixels
    least: float
    most: float

    def pixels(self, um_per_pixel: float) -> str:
        """Its size in words.

        >>> STRUCTURES[1].pixels(0.25)
        'an Auer rod (0.5 × 3 to 5 µm) measures 2 × 12 to 20 px'
        """
        narrow = "" if self.width == self.least else f"{self.width:g} × "
        narrow_px = narrow and f"{_short(self.width / um_per_pixel)} × "
        least, most = (_short(side / um_per_pixel) for side in (self.least, self.most))
        return f"{self.name} ({narrow}{self.least:g} to {self.most:g} µm) measures {narrow_px}{least} to {most} px"

    def seen(self, um_per_pixel: float) -> bool:
        """Whether its narrowest side spans two pixels or more."""
        return self.width / um_per_pixel >= SEEN * (1 - 1e-9)


# Rough sizes on a dried and stained smear, in the proportions that textbooks of haematology describe beside a red cell of
# 7 to 8 µm (Bain, *Blood Cells*): a round nucleolus of a blast; a needle in a myeloblast.
STRUCTURES = (Structure("a nucleolus", 1.0, 1.0, 2.0), Structure("an Auer rod", 0.5, 3.0, 5.0))


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def valid_scale(value: object) -> bool:
    """Whether a value is a scale that an image can have: a number from 0.001 to 1000 (µm per pixel).

    >>> valid_scale("0.1"), valid_scale(0), valid_scale("unknown")
    (True, False, False)
    """
    try:
        return LEAST <= float(value) <= MOST  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def check_scale(name: str, value: object) -> None:
    """Raise InputError, with the name of what says so, for a scale that no image can have; None is none stated."""
    if value is not None and not valid_scale(value):
        shown = f"{value:g}" if isinstance(value, int | float) else value
        raise InputError(
            f"{name} {shown} is impossible; give the width of a pixel in µm, {LEAST:g} to {MOST:g}."
        )


def edge_colour(pixels: np.ndarray) -> np.ndarray:
    """Median colour along the four edges of H×W×C (float64 C), or median grey of H×W: what a frame is filled with."""
    return np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)


def to_scale(
    pixels: np.ndarray,
    um_per_pixel: float,
    to_um_per_pixel: float,
    resolution: int,
    *,
    nearest: bool = False,
) -> np.ndarray:
    """Bring uint8 H×W or H×W×C of `um_per_pixel` to `to_um_per_pixel`, then crop or pad it to R×R round its centre.

    What lies further than R/2 pixels from the centre is cut off; what is missing becomes a frame in the median colour
    of the edge (0 for masks). Lanczos resampling (antialiased), or the nearest pixel for masks (`nearest`). A side is
    right to half a pixel. Raises InputError for a scale that is none, and for an image that would shrink to
    less than a pixel.
    """
    for value in (um_per_pixel, to_um_per_pixel):
        check_scale("The scale", value)
    factor = um_per_pixel / to_um_per_pixel
    sides = [min(resolution, round(side * factor)) for side in pixels.shape[:2]]
    if min(sides) < 1:
        raise InputError(
            f"An image of {pixels.shape[1]}×{pixels.shape[0]} px at {um_per_pixel:g} µm per pixel would be less than one "
            f"pixel at {to_um_per_pixel:g} µm per pixel; check both scales."
        )
    # The part of the source that is seen, to fractions of a pixel: what is cut off is never resampled.
    seen = [min(side / factor, whole) for side, whole in zip(sides, pixels.shape[:2], strict=True)]
    top, left = ((whole - part) / 2 for part, whole in zip(seen, pixels.shape[:2], strict=True))
    inner = np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (sides[1], sides[0]),
            Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS,
            box=(left, top, left + seen[1], top + seen[0]),
        )
    )
    if sides == [resolution, resolution]:
        return np.ascontiguousarray(inner)
    framed = np.empty((resolution, resolution, *pixels.shape[2:]), dtype=np.uint8)
    framed[:] = 0 if nearest else edge_colour(pixels)
    top_px, left_px = ((resolution - side) // 2 for side in sides)
    framed[top_px : top_px + sides[0], left_px : left_px + sides[1]] = inner
    return framed
