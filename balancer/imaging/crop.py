"""Cells cut out of a field by boxes: pure functions of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A box in pixels of its field: left and top edge from the field's corner, width and height; any float."""

    left: float
    top: float
    width: float
    height: float

    @property
    def possible(self) -> bool:
        """Whether all four numbers are finite, and width and height above 0."""
        numbers = (self.left, self.top, self.width, self.height)
        return all(map(math.isfinite, numbers)) and self.width > 0 and self.height > 0

    def clipped(self, width: int, height: int) -> Box | None:
        """The part of it within a field of `width`×`height` pixels, None where there is none."""
        left, top = max(self.left, 0.0), max(self.top, 0.0)
        right, bottom = min(self.left + self.width, width), min(self.top + self.height, height)
        return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None


def square_around(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The square that a cell is cut out by: (left, top, right, bottom) in whole pixels of a field `width`×`height`.

    Its side is the longer one of the box, rounded up to whole pixels, so that `prepare`, which never stretches, has no
    part of the cell to cut off and no frame to add. It has the box's centre, and is moved inwards where it would leave
    the field; only where the field is smaller than the side it is no square. The box must lie within the field.
    """
    first_x, first_y = math.floor(box.left), math.floor(box.top)
    last_x, last_y = math.ceil(box.left + box.width), math.ceil(box.top + box.height)
    side = max(last_x - first_x, last_y - first_y)

    def place(first: int, last: int, whole: int) -> tuple[int, int]:
        if side >= whole:
            return 0, whole
        start = min(max((first + last - side) // 2, 0), whole - side)
        return start, start + side

    (left, right), (top, bottom) = place(first_x, last_x, width), place(first_y, last_y, height)
    return left, top, right, bottom


def crop(field: np.ndarray, box: Box) -> np.ndarray:
    """Cut the square around `box` out of a field H×W or H×W×C of any dtype: a copy S×S(×C)."""
    left, top, right, bottom = square_around(box, field.shape[1], field.shape[0])
    return field[top:bottom, left:right].copy()
