from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from balancer import smear
from benchmarks.imaging import stain


def sets(root: Path) -> Path:
    """Rendered cells under the names of the real sets, with their masks."""
    for seed, name in enumerate(("pbc", "segwbc", "all_idb2")):
        smear.write_source(root / "rendered" / name, {"lymphocyte": 4, "neutrophil": 4}, 64, seed=seed)
        (root / "rendered" / name / "masks").rename(root / f"{name}_masks")
        (root / "rendered" / name).rename(root / name)
    return root


def test_the_table_has_a_row_for_each_normalisation(tmp_path: Path) -> None:
    root = sets(tmp_path)
    odd = sorted((root / "segwbc").rglob("*.png"))[0]
    Image.fromarray(np.full((64, 64, 3), 180, dtype=np.uint8)).save(odd)
    text = stain.table(root)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == ["none", "clahe", "reinhard", "macenko"]
    for row in rows[2:]:
        assert len(row) == len(rows[0]) and 0.3 < float(row[1].split()[0]) <= 1
    assert "(1 left as they are)" in rows[-1][3]
    assert "8 images of segwbc and 8 images of all_idb2" in text
