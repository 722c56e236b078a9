from __future__ import annotations

from pathlib import Path

import pytest

from balancer.imaging.morphology import measure
from balancer.smear import CLASSES, FIELD_UM, draw_cells, render
from benchmarks.imaging import morphology


def test_every_measure_is_compared_with_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(morphology, "CELLS", 3)
    lines = morphology.rendered().splitlines()
    images, masks = render(draw_cells(dict.fromkeys(list(CLASSES)[:1], 1), seed=1), 128)
    columns = list(measure(images[0], masks[0], FIELD_UM / 128))
    assert [line.split("`")[1] for line in lines[4:]] == columns
    assert set(morphology.TRUE_OF) <= set(columns)
    assert "| `nc_ratio` | `nc_ratio` | +1.00 |" in "\n".join(lines)


def test_every_attribute_is_separated(monkeypatch: pytest.MonkeyPatch, real_data: Path) -> None:
    monkeypatch.setattr(morphology, "IMAGES", 120)
    rows = [line for line in morphology.attributes(real_data / "pbc").splitlines() if line.startswith("| ")][
        1:
    ]
    assert {row.split(" | ")[0].lstrip("| ") for row in rows} == set(morphology.MADE_FOR)
