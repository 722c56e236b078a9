"""The scores of masks, and the table on rendered cells alone."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.imaging import segmentation


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    region = np.zeros((40, 40), bool)
    region[top : top + side, left : left + side] = True
    return region


def test_scores():
    assert segmentation.dice(square(5, 5), square(5, 5)) == 1
    assert segmentation.dice(square(5, 5), square(5, 15)) == pytest.approx(0.5)
    assert segmentation.boundary_f1(square(5, 5), square(6, 6)) == 1
    assert segmentation.boundary_f1(square(5, 5), square(5, 15)) < 0.6
    assert segmentation.boundary_f1(square(5, 5), np.zeros((40, 40), bool)) == 0
    assert (segmentation.central(square(15, 15, 8) | square(0, 0, 12)) == square(15, 15, 8)).all()


def test_table_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(segmentation, "RENDERED", 1)
    table = segmentation.table(tmp_path)
    assert table.count("| rendered |") == 4
    assert "segwbc, all_idb2" in table
