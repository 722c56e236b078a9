from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from balancer.errors import InputError
from balancer.imaging.scale import STRUCTURES, edge_colour, to_scale, valid_scale


def disc(size: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.ogrid[: size[0], : size[1]]
    inside = np.hypot(y - (size[0] - 1) / 2, x - (size[1] - 1) / 2) < radius
    return np.where(inside[..., None], [90, 40, 140], [230, 220, 210]).astype(np.uint8)


def diameter(image: np.ndarray) -> float:
    return 2 * np.sqrt((image[..., 1] < 130).sum() / np.pi)


@pytest.mark.parametrize("um_per_pixel", [0.1, 0.173, 0.25, 0.4])
@pytest.mark.parametrize("size", [(128, 128), (90, 160), (401, 300)])
def test_a_cell_measures_the_same_whatever_the_scanner(um_per_pixel: float, size: tuple[int, int]) -> None:
    image = disc(size, radius=4 / um_per_pixel)  # 8 µm
    found = to_scale(image, um_per_pixel, 0.2, 64)
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    assert diameter(found) == pytest.approx(8 / 0.2, rel=0.03)
    centre = ndimage.center_of_mass(found[..., 1] < 130)
    assert centre == pytest.approx((31.5, 31.5), abs=0.6)


def test_what_is_missing_is_padded_and_what_is_too_much_cut_off() -> None:
    image = disc((40, 40), 10)
    padded = to_scale(image, 1.0, 1.0, 60)
    np.testing.assert_array_equal(padded[10:50, 10:50], image)
    assert (padded[:10] == edge_colour(image).astype(np.uint8)).all()
    np.testing.assert_array_equal(to_scale(image, 1.0, 1.0, 20), image[10:30, 10:30])
    mask = np.full((40, 40), 128, dtype=np.uint8)
    mask[15:25, 15:25] = 255
    scaled = to_scale(mask, 1.0, 2.0, 32, nearest=True)
    assert set(np.unique(scaled)) == {0, 128, 255}
    assert (scaled == 255).sum() == 25


def test_one_pixel_and_extreme_scales() -> None:
    pixel = np.array([[[10, 200, 30]]], dtype=np.uint8)
    assert (to_scale(pixel, 0.3, 0.1, 16) == pixel).all()
    assert (to_scale(pixel, 1e3, 1e-3, 16) == pixel).all()  # no memory for what is cut off
    with pytest.raises(InputError, match="less than one pixel"):
        to_scale(pixel, 0.1, 1.0, 16)


@pytest.mark.parametrize("scale", [0, -0.1, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale: float) -> None:
    assert not valid_scale(scale)
    for own, wanted in ((scale, 0.1), (0.1, scale)):
        with pytest.raises(InputError, match="give the width of a pixel in µm, 0.001 to 1000"):
            to_scale(disc((20, 20), 4), own, wanted, 16)


def test_structures_in_pixels() -> None:
    nucleolus, rod = STRUCTURES
    assert nucleolus.pixels(0.1) == "a nucleolus (1 to 2 µm) measures 10 to 20 px"
    assert rod.pixels(0.1) == "an Auer rod (0.5 × 3 to 5 µm) measures 5 × 30 to 50 px"
    assert [s.seen(0.25) for s in STRUCTURES] == [True, True]
    assert [s.seen(0.26) for s in STRUCTURES] == [True, False]
    assert [s.seen(0.51) for s in STRUCTURES] == [False, False]
