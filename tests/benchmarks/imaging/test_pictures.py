"""The pictures of docs/imaging.md, from a few cells."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.imaging import pictures


def test_three_pictures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CELLS", 1)
    monkeypatch.setattr(sys, "argv", ["pictures", "--out", str(tmp_path / "docs")])
    pictures.main()
    drawn = {path.name: Image.open(path) for path in (tmp_path / "docs").iterdir()}
    assert set(drawn) == {"segmentation.png", "segmentation-failed.png", "morphology.png"}
    assert all(picture.mode == "P" for picture in drawn.values())
    assert drawn["segmentation.png"].width > 1000
