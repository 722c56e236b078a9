from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from balancer.smear import draw_cells, render
from benchmarks.gate import defects


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one set of two rendered classes."""
    root = tmp_path_factory.mktemp("sets")
    for label in ("lymphocyte", "neutrophil"):
        (root / "pbc" / label).mkdir(parents=True)
        images, _ = render(draw_cells({label: 90}, seed=0), 64)
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / "pbc" / label / f"{i:03d}.png")
    return root


def test_tables_hold_every_defect_and_class(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "PAINTED", 4)
    monkeypatch.setattr(defects, "SETS", {64: ("pbc", "segwbc")})
    text = defects.table(sets)
    for defect in defects.DEFECTS:
        assert defect == "granules erased" or f"| {defect} | " in text
    assert "| pbc lymphocyte | 30 |" in text and "| **all** | 60 |" in text
    assert "Not found" in text and "segwbc" in text
    noise = next(line for line in text.splitlines() if line.startswith("| noise |"))
    assert noise.startswith("| noise | 8 | 100% |")
