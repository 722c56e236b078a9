from __future__ import annotations

import numpy as np
import pytest

from balancer.smear import draw_cells, render
from benchmarks.gate.painting import DEFECTS, Scene


@pytest.fixture(scope="module", params=[128, 64])
def scene(request: pytest.FixtureRequest) -> Scene:
    images, masks = render(draw_cells({"eosinophil": 2}, seed=1), request.param)
    return Scene(images[0], masks[0], images[1], masks[1], True, "orange")


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_seen_and_drawn_by_its_seed(scene: Scene, defect: str) -> None:
    before = scene.image.copy()
    painted = DEFECTS[defect](scene, np.random.default_rng(0))
    assert painted is not None and painted.shape == scene.image.shape and painted.dtype == np.uint8
    assert np.array_equal(scene.image, before)
    assert np.abs(painted.astype(int) - before).max() > 5
    again = DEFECTS[defect](scene, np.random.default_rng(0))
    assert again is not None and np.array_equal(painted, again)


@pytest.mark.parametrize(
    "defect", ["smooth chromatin", "open membrane", "foreign granules", "granules erased", "no nucleus"]
)
def test_defects_of_the_cell_leave_what_is_around_it(scene: Scene, defect: str) -> None:
    painted = DEFECTS[defect](scene, np.random.default_rng(0))
    assert painted is not None
    rows, columns = np.nonzero(scene.cell)
    reach = round(3 * scene.um)
    around = np.ones(scene.mask.shape, bool)
    around[
        max(rows.min() - reach, 0) : rows.max() + reach, max(columns.min() - reach, 0) : columns.max() + reach
    ] = False
    assert around.any() and np.array_equal(painted[around], scene.image[around])


def test_the_smooth_nucleus_keeps_its_mean_and_loses_its_texture(scene: Scene) -> None:
    painted = DEFECTS["smooth chromatin"](scene, np.random.default_rng(0))
    assert painted is not None
    before, after = scene.image[scene.nucleus].astype(float), painted[scene.nucleus].astype(float)
    assert after.mean() == pytest.approx(before.mean(), abs=3)
    assert after.std() < before.std()


def test_granules_are_not_erased_where_there_are_none(scene: Scene) -> None:
    plain = Scene(scene.image, scene.mask, scene.donor, scene.donor_mask, False, "")
    assert DEFECTS["granules erased"](plain, np.random.default_rng(0)) is None
