from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.imaging.cells import find_cells


def blood(centres: list[tuple[int, int]], size: int, scale: float = 1.0) -> np.ndarray:
    """White cells 30 px wide at these centres (x, y), with red cells in rows between, by Beer and Lambert's law."""
    y, x = np.mgrid[: round(size * scale), : round(size * scale)] / scale
    density = np.zeros((*y.shape, 3))
    for cx in range(20, size, 60):
        for cy in range(20, size, 60):
            if all(np.hypot(cx - a, cy - b) > 26 for a, b in centres):
                density += (np.hypot(y - cy, x - cx) < 9)[..., None] * np.array([0.05, 0.13, 0.12])
    for cx, cy in centres:
        density += (np.hypot(y - cy, x - cx) < 15)[..., None] * np.array([0.12, 0.10, 0.03])
        density += (np.hypot(y - cy, x - cx) < 10)[..., None] * np.array([0.35, 0.65, 0.15])
    light = np.array([245, 240, 235]) + np.random.default_rng(0).normal(0, 2, density.shape)
    return np.rint((light * 10**-density).clip(0, 255)).astype(np.uint8)


CENTRES = [(50, 50), (200, 60), (120, 150), (50, 220), (210, 230)]


@pytest.mark.parametrize("scale", [0.6, 1.0, 5.0])
def test_every_cell_gets_a_box_of_its_size(scale: float) -> None:
    boxes = find_cells(blood(CENTRES, 280, scale))
    found = {(round(b.left + b.width / 2), round(b.top + b.height / 2)): b for b in boxes}
    assert len(boxes) == len(CENTRES)
    for x, y in CENTRES:
        near = min(found, key=lambda centre: np.hypot(centre[0] - x * scale, centre[1] - y * scale))
        assert np.hypot(near[0] - x * scale, near[1] - y * scale) < 4 * scale
        assert found[near].width == pytest.approx(30 * scale, rel=0.25)
    assert [b.top for b in boxes] == sorted(b.top for b in boxes)


def test_cut_cells_are_left_out_and_a_field_without_cells_has_none() -> None:
    assert len(find_cells(blood([(100, 100), (5, 60)], 180))) == 1
    assert find_cells(blood([], 180)) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (40, 40)])
def test_fields_of_one_colour_or_hardly_any_pixel(shape: tuple[int, int]) -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (120, 40, 160)):
        assert find_cells(np.full((*shape, 3), colour, dtype=np.uint8)) == []


def test_single_cells_of_pbc_are_found_where_they_are(real_data: Path) -> None:
    files = sorted((real_data / "pbc").rglob("*.jpg"))
    hits = 0
    for i in np.random.default_rng(0).choice(len(files), 40, replace=False):
        image = np.asarray(Image.open(files[i]).convert("RGB"))
        hits += any(
            b.left < 64 < b.left + b.width and b.top < 64 < b.top + b.height for b in find_cells(image)
        )
    assert hits >= 34
