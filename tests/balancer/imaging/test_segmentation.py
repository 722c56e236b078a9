"""The central cell in images made for it, in rendered ones and in real ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from balancer.errors import InputError
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.imaging.segmentation import segment
from balancer.smear import draw_cells, render

BACKGROUND, PLASM, CHROMATIN, RED_CELL = (235, 225, 215), (190, 175, 205), (85, 45, 120), (215, 175, 165)


def paint(side: int, *discs: tuple[tuple[int, int], float, tuple[int, int, int]]) -> np.ndarray:
    image = np.full((side, side, 3), BACKGROUND, np.float64)
    y, x = np.mgrid[:side, :side]
    for (row, column), radius, colour in discs:
        image[np.hypot(y - row, x - column) < radius] = colour
    return (image + np.random.default_rng(0).normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


def disc(side: int, centre: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.hypot(y - centre[0], x - centre[1]) < radius


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_nucleus_and_cytoplasm_of_a_painted_cell():
    found = segment(paint(128, ((64, 60), 30, PLASM), ((60, 62), 17, CHROMATIN), ((20, 20), 15, RED_CELL)))
    assert found.flag == ""
    assert found.mask.dtype == np.uint8
    assert set(np.unique(found.mask)) == {0, CYTOPLASM, NUCLEUS}
    assert dice(found.mask == NUCLEUS, disc(128, (60, 62), 17)) > 0.97
    assert dice(found.mask > 0, disc(128, (64, 60), 30)) > 0.97


def test_the_central_cell_is_chosen_among_several():
    image = paint(
        128,
        *(((row, column), radius, colour) for row, column in ((62, 66), (20, 20), (110, 100))
          for radius, colour in ((20, PLASM), (12, CHROMATIN))),
    )  # fmt: skip
    found = segment(image)
    assert dice(found.mask > 0, disc(128, (62, 66), 20)) > 0.95


def test_a_red_cell_that_touches_is_left_out():
    others = [((20, 20), 18, RED_CELL), ((110, 30), 18, RED_CELL), ((20, 100), 18, RED_CELL)]
    image = paint(128, ((64, 90), 18, RED_CELL), ((64, 56), 22, PLASM), ((64, 56), 19, CHROMATIN), *others)
    assert dice(segment(image).mask > 0, disc(128, (64, 56), 22)) > 0.93


def test_lobes_that_lie_close_are_one_nucleus():
    lobes = [((54, 52), 9, CHROMATIN), ((74, 54), 9, CHROMATIN), ((64, 76), 9, CHROMATIN)]
    found = segment(paint(128, ((64, 64), 32, PLASM), *lobes))
    truth = np.logical_or.reduce([disc(128, centre, radius) for centre, radius, _ in lobes])
    assert dice(found.mask == NUCLEUS, truth) > 0.9


def test_the_lamp_changes_little():
    image = paint(128, ((64, 64), 28, PLASM), ((64, 64), 16, CHROMATIN))
    yellow = (image * np.array([0.95, 0.9, 0.5])).astype(np.uint8)
    assert dice(segment(image).mask > 0, segment(yellow).mask > 0) > 0.97
    assert dice(segment(image).mask == NUCLEUS, segment(yellow).mask == NUCLEUS) > 0.97


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64, 3), 200, np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.full((3, 500, 3), 255, np.uint8),
        np.full((2, 2, 3), (10, 200, 30), np.uint8),
    ],
)
def test_nothing_there(image):
    found = segment(image)
    assert found.flag == "no cell"
    assert found.mask.shape == image.shape[:2]
    assert not found.mask.any()


def test_red_cells_alone_have_no_nucleus():
    found = segment(paint(96, ((30, 30), 16, RED_CELL), ((60, 64), 16, RED_CELL)))
    assert found.flag == "no nucleus"
    assert not found.mask.any()


def test_grey_images_are_segmented_by_darkness():
    grey = paint(128, ((64, 64), 28, PLASM), ((64, 64), 16, CHROMATIN)).mean(-1).astype(np.uint8)
    found = segment(np.repeat(grey[..., None], 3, axis=2))
    assert dice(found.mask == NUCLEUS, disc(128, (64, 64), 16)) > 0.9


def test_sizes_mix_and_company_does_not_matter():
    images = [
        paint(side, ((side // 2, side // 2), side / 4, PLASM), ((side // 2, side // 2), side / 7, CHROMATIN))
        for side in (40, 128, 300, 128)
    ]
    images[3] = images[3][:, ::-1].copy()
    together = segment(images)
    for image, found in zip(images, together, strict=True):
        assert found.mask.shape == image.shape[:2]
        assert (found.mask == segment(image).mask).all()
        side = len(image)
        assert dice(found.mask > 0, disc(side, (side // 2, side // 2), side / 4)) > 0.9
    assert (segment(np.stack(images[1::2]))[1].mask == together[3].mask).all()
    assert segment([]) == []


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((8, 8, 3), np.uint16), "must be uint8"),
        (np.zeros((8, 8, 3), np.float32), "must be uint8"),
        (np.zeros((8, 8), np.uint8), "H×W×3"),
        (np.zeros((8, 8, 4), np.uint8), "H×W×3"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
    ],
)
def test_other_arrays_are_refused(image, sentence):
    with pytest.raises(InputError, match=sentence):
        segment([image])


def test_rendered_cells():
    images, masks = render(draw_cells({"lymphocyte": 8, "neutrophil": 8, "monocyte": 8}, seed=3), 128)
    found = segment(images)
    assert np.mean([dice(f.mask > 0, m > 0) for f, m in zip(found, masks, strict=True)]) > 0.95
    assert np.mean([dice(f.mask == NUCLEUS, m == NUCLEUS) for f, m in zip(found, masks, strict=True)]) > 0.95


def test_real_cells(real_data):
    paths = sorted((real_data / "segwbc_masks").rglob("*.png"))[::6]
    images = [
        np.asarray(
            Image.open(real_data / "segwbc" / p.relative_to(real_data / "segwbc_masks")).convert("RGB")
        )
        for p in paths
    ]
    masks = [np.asarray(Image.open(p).convert("L")) for p in paths]
    found = segment(images)
    assert np.mean([dice(f.mask > 0, m > 0) for f, m in zip(found, masks, strict=True)]) > 0.95
    assert np.mean([dice(f.mask == NUCLEUS, m == NUCLEUS) for f, m in zip(found, masks, strict=True)]) > 0.94


def test_noise_is_segmented_without_an_error() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(60)]
    assert all(found.mask.shape == (64, 64) for found in segment(images))
