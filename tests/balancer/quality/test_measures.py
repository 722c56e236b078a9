from __future__ import annotations

import numpy as np
import pytest

from balancer.quality import measures
from balancer.smear import draw_cells, render


def test_measures_of_rendered_cells() -> None:
    images, _ = render(draw_cells({"lymphocyte": 4, "neutrophil": 4}, seed=0), 128)
    table = measures.measures(images)
    assert table.shape == (8, len(measures.COLUMNS))
    assert table.notna().mean().mean() > 0.9
    empty = measures.measures([np.full((64, 64, 3), 220, np.uint8)])
    assert empty["nuclear_density"][0] == 0 and empty["nuclear_area"].isna().all()
    assert measures.measures([]).shape == (0, table.shape[1])


def test_discs_count_bodies() -> None:
    rows, columns = np.indices((60, 100))
    one = np.hypot(rows - 30, columns - 30) < 15
    two = one | (np.hypot(rows - 30, columns - 70) < 15)
    assert measures._discs(one, 2)[1] < 5
    assert measures._discs(two, 2) == pytest.approx([15, 15], abs=1)
