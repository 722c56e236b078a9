from __future__ import annotations

import numpy as np
import pytest

from balancer.imaging.crop import Box, crop, square_around


def test_a_square_box_is_cut_out_as_it_is() -> None:
    field = np.arange(50 * 70 * 3).reshape(50, 70, 3).astype(np.uint8)
    cell = crop(field, Box(10, 20, 12, 12))
    np.testing.assert_array_equal(cell, field[20:32, 10:22])
    cell[:] = 0
    assert field[25, 15].any()  # a copy


@pytest.mark.parametrize(
    ("box", "square"),
    [
        (Box(10, 20, 20, 10), (10, 15, 30, 35)),  # widened round its centre
        (Box(0, 0, 4, 20), (0, 0, 20, 20)),  # moved inwards
        (Box(66, 40, 4, 10), (60, 40, 70, 50)),
        (Box(10.4, 10.4, 9.2, 9.2), (10, 10, 20, 20)),  # whole pixels, nothing of the box lost
        (Box(0, 0, 70, 50), (0, 0, 70, 50)),  # larger than the field is high
        (Box(5, 5, 0.2, 0.2), (5, 5, 6, 6)),
    ],
)
def test_squares(box: Box, square: tuple[int, int, int, int]) -> None:
    assert square_around(box, 70, 50) == square


def test_every_square_holds_its_box_and_lies_in_the_field() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = rng.integers(1, 60, 2).tolist()
        left, top = rng.uniform(-10, 50, 2)
        inside = Box(left, top, *rng.uniform(0.1, 40, 2)).clipped(width, height)
        if inside is None:
            continue
        x0, y0, x1, y1 = square_around(inside, width, height)
        assert 0 <= x0 <= inside.left and inside.left + inside.width <= x1 + 1e-9 and x1 <= width
        assert 0 <= y0 <= inside.top and inside.top + inside.height <= y1 + 1e-9 and y1 <= height
        assert x1 - x0 == y1 - y0 or x1 - x0 == width or y1 - y0 == height


def test_clipping() -> None:
    assert Box(-5, -5, 10, 10).clipped(20, 20) == Box(0, 0, 5, 5)
    assert Box(20, 0, 5, 5).clipped(20, 20) is None
    assert Box(-9, 3, 5, 5).clipped(20, 20) is None
    assert [Box(0, 0, w, 5).possible for w in (3, 0, -1, float("nan"), float("inf"))] == [True, *[False] * 4]
