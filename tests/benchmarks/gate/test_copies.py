from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from balancer.smear import draw_cells, render
from benchmarks.gate import copies


def test_the_table_holds_every_alteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pbc" / "lymphocyte"
    folder.mkdir(parents=True)
    for i, image in enumerate(render(draw_cells({"lymphocyte": 24}, seed=0), 128)[0]):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    monkeypatch.setattr(copies, "COPIED", 3)
    text = copies.table(tmp_path)
    assert all(f"| {name} | 3 |" in text for name in copies.ALTERED)
    assert "| turned by 35° | 3 | 0.0% | 100.0% |" in text
    assert "| other real images | 12 | 0.0% | 0.0% |" in text and "Not found" in text
