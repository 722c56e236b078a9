from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from balancer.imaging import artefacts
from balancer.smear import CLASSES, draw_cells, render


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return render(draw_cells(dict.fromkeys(list(CLASSES)[:1], 1), seed=3), 128)[0][0]


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 255)).astype(np.uint8)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_seam_is_as_high_as_its_step(image: np.ndarray, turns: int) -> None:
    broken = image.astype(float)
    broken[:50] -= 20
    found = artefacts.seam(np.rot90(_pixels(broken), turns))
    assert found == pytest.approx(20, abs=4)
    assert artefacts.seam(np.rot90(image, turns)) < 5


def test_a_step_over_less_than_half_a_line_is_an_edge(image: np.ndarray) -> None:
    broken = image.astype(float)
    broken[:50, :40] -= 20
    assert artefacts.seam(_pixels(broken)) < 8


@pytest.mark.parametrize("period", [2, 4])
def test_a_checkerboard_stands_out(image: np.ndarray, period: int) -> None:
    rows, columns = np.indices((128, 128)) // (period // 2)
    sign = 1 - 2.0 * ((rows + columns) % 2)
    patterned = _pixels(image * (1 + 0.03 * sign)[..., None])
    assert artefacts.checkerboard(patterned) > artefacts.checkerboard(image) + 1


def test_noise_is_measured_in_grey_levels() -> None:
    flat = np.full((64, 64, 3), 128.0)
    for width in (4.0, 10.0):
        noisy = _pixels(flat + np.random.default_rng(0).normal(0, width, flat.shape))
        assert artefacts.noise(noisy) == pytest.approx(width, rel=0.1)
    assert artefacts.noise(_pixels(flat)) == 0


def test_noise_is_no_seam_and_a_checkerboard_no_noise(image: np.ndarray) -> None:
    noisy = _pixels(image + np.random.default_rng(0).normal(0, 25, image.shape))
    assert artefacts.seam(noisy) < artefacts.seam(image) + 2
    sign = 1 - 2.0 * (np.indices((128, 128)).sum(0) % 2)
    assert artefacts.noise(_pixels(image * (1 + 0.05 * sign)[..., None])) < artefacts.noise(image) + 3


def test_noise_of_whole_grey_levels_goes_in_no_steps() -> None:
    drawn = np.random.default_rng(0).normal(128, 1, (64, 64, 3))
    found = [artefacts.noise(_pixels(128 + width * (drawn - 128))) for width in np.linspace(1, 1.5, 6)]
    assert np.diff(found).min() > 0.04


def test_sharpness_falls_with_blur(image: np.ndarray) -> None:
    seen = [
        artefacts.sharpness(_pixels(ndimage.gaussian_filter(image.astype(float), (width, width, 0))))
        for width in (0, 0.7, 1.5, 2.5)
    ]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] - seen[-1] > 2


@pytest.mark.parametrize(
    "measure", [artefacts.seam, artefacts.checkerboard, artefacts.sharpness, artefacts.noise]
)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 3), (17, 30, 3), (64, 64, 3)])
def test_any_image_has_a_finite_value(
    measure: Callable[[np.ndarray], float], shape: tuple[int, int, int]
) -> None:
    assert np.isfinite(measure(np.full(shape, 200, np.uint8)))
    assert np.isfinite(measure(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)))
