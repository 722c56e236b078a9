from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from balancer.errors import InputError
from balancer.imaging.morphology import measure
from balancer.smear import CLASSES, FIELD_UM, draw_cells, render

SIZE = 128
UM = 0.2  # a pixel, where a test needs a scale
BACKGROUND = np.array([250.0, 240.0, 220.0])
CYTOPLASM_OD = np.array([0.12, 0.15, 0.08])
NUCLEUS_OD = np.array([0.60, 0.80, 0.30])
Y, X = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2


def disc(x: float, y: float, radius: float) -> np.ndarray:
    return np.hypot(X - x, Y - y) < radius


def draw(
    cell: np.ndarray, nucleus: np.ndarray, density: np.ndarray | float = 0.0, blur: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of an even cell and nucleus, with further optical density (H×W) in all channels."""
    nucleus = nucleus & cell
    od = np.where(nucleus[..., None], NUCLEUS_OD, np.where(cell[..., None], CYTOPLASM_OD, 0))
    od = od + (np.broadcast_to(density, cell.shape)[..., None])
    if blur:
        od = gaussian_filter(od, (blur, blur, 0))
    image = (BACKGROUND * 10.0**-od).clip(0, 255).round().astype(np.uint8)
    return image, np.where(nucleus, 255, np.where(cell, 128, 0)).astype(np.uint8)


ROUND = draw(disc(0, 0, 35), disc(3, 2, 20))


def test_a_disc_in_a_disc_has_the_areas_and_shapes_of_geometry() -> None:
    found = measure(*ROUND, UM)
    assert found["cell_area_um2"] == pytest.approx(np.pi * 7**2, rel=0.01)
    assert found["nucleus_area_um2"] == pytest.approx(np.pi * 4**2, rel=0.01)
    assert found["nc_ratio"] == pytest.approx((20 / 35) ** 2, rel=0.01)
    for part in ("cell", "nucleus"):
        assert found[f"{part}_eccentricity"] == pytest.approx(0, abs=0.1)
        assert found[f"{part}_circularity"] > 0.97 and found[f"{part}_solidity"] > 0.97
    assert (found["nuclei"], found["lobes"], found["lobes_joined"]) == (1, 1, None)
    assert (found["cell_on_edge"], found["other_nuclei"]) == (0, 0)
    assert (found["granules"], found["vacuoles"], found["nucleoli"]) == (0, 0, 0)
    assert found["chromatin_density"] == pytest.approx(NUCLEUS_OD[0], abs=0.02)
    assert found["chromatin_clumping_coarse"] == pytest.approx(0, abs=0.01)
    assert found["membrane_closedness"] == 1
    assert [found[f"background_colour_{c}"] for c in ("red", "green", "blue")] == BACKGROUND.tolist()
    assert found["red_cell_colour_a"] is None


def test_an_ellipse_has_its_eccentricity() -> None:
    nucleus = (X / 28) ** 2 + (Y / 14) ** 2 < 1
    found = measure(*draw(disc(0, 0, 40), nucleus))
    assert found["nucleus_eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert found["lobes"] == 1


def test_two_discs_are_two_nuclei() -> None:
    found = measure(*draw(disc(0, 0, 40), disc(-16, 0, 11) | disc(16, 0, 11)))
    assert (found["nuclei"], found["lobes"], found["lobes_joined"]) == (2, 2, 0)
    assert found["nucleus_solidity"] < 0.85


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_lobes_on_bridges_are_counted_and_joined(count: int) -> None:
    angle = np.linspace(0, 1.4 * np.pi, count)
    lobes = [disc(22 * np.cos(a), 22 * np.sin(a), 8) for a in angle]
    arc = np.abs(np.hypot(X, Y) - 22) < 1.5
    arc &= np.mod(np.arctan2(Y, X), 2 * np.pi) < 1.4 * np.pi
    found = measure(*draw(disc(0, 0, 45), np.any([*lobes, arc], 0)))
    assert (found["nuclei"], found["lobes"], found["lobes_joined"]) == (1, count, 1)


def test_a_ring_with_a_gap_is_one_lobe_of_low_solidity() -> None:
    ring = (np.abs(np.hypot(X, Y) - 20) < 6) & ~((X > 0) & (np.abs(Y) < 6))
    found = measure(*draw(disc(0, 0, 40), ring))
    assert (found["nuclei"], found["lobes"]) == (1, 1)
    assert found["nucleus_solidity"] < 0.75 and found["nucleus_circularity"] < 0.3


def test_a_speck_is_no_nucleus() -> None:
    found = measure(*draw(disc(0, 0, 40), disc(0, 0, 15) | disc(25, 0, 1.5)), UM)
    assert (found["nuclei"], found["lobes"]) == (1, 1)


def test_the_membrane_is_sharp_closed_or_open() -> None:
    sharp, soft = (measure(*draw(disc(0, 0, 40), disc(0, 0, 20), blur=b), UM) for b in (1.0, 3.0))
    # the steepest rise of a blurred edge: contrast / (σ √2π)
    expected = (NUCLEUS_OD[0] - CYTOPLASM_OD[0]) / np.sqrt(2 * np.pi) / UM
    assert soft["membrane_sharpness_per_um"] == pytest.approx(expected / 3, rel=0.1)
    assert sharp["membrane_sharpness_per_um"] > 2 * soft["membrane_sharpness_per_um"]
    assert sharp["membrane_closedness"] == 1

    cell, nucleus = disc(0, 0, 40), disc(0, 0, 20)
    image, mask = draw(cell, nucleus, blur=1.0)
    fade = NUCLEUS_OD[0] * np.clip((X + 30) / 60, 0, 1)  # from the left to the right over the whole cell
    faded = (BACKGROUND * 10.0 ** -(np.where(cell, fade, 0)[..., None] * NUCLEUS_OD / NUCLEUS_OD[0])).astype(
        np.uint8
    )
    assert measure(faded, mask, UM)["membrane_closedness"] < 0.1
    half = np.where((X < 0)[..., None], image, faded)
    assert measure(half, mask, UM)["membrane_closedness"] == pytest.approx(0.5, abs=0.12)


def test_clumps_are_coarser_than_grains() -> None:
    rng = np.random.default_rng(0)
    found = []
    for sigma in (1.0, 3.0):
        noise = gaussian_filter(rng.normal(size=(SIZE, SIZE)), sigma)
        noise *= 0.15 / noise.std()
        found.append(measure(*draw(disc(0, 0, 40), disc(0, 0, 28), noise * disc(0, 0, 28)), UM))
    fine, coarse = found
    assert fine["chromatin_frequency_per_um"] > 1.3 * coarse["chromatin_frequency_per_um"]
    assert fine["chromatin_clumping_fine"] > coarse["chromatin_clumping_fine"]
    for each in found:
        assert each["chromatin_clumping_coarse"] == pytest.approx(0.15 / NUCLEUS_OD[0], rel=0.3)


SPOTS = [(-22, -12), (-24, 8), (0, -28), (4, 29), (25, 12), (22, -16)]


def test_granules_are_counted_sized_and_coloured() -> None:
    cell, nucleus = disc(0, 0, 38), disc(0, 0, 13)
    for radius in (1.7, 2.6):
        spots = np.any([disc(x, y, radius) for x, y in SPOTS], 0)
        image, mask = draw(cell, nucleus, 0.3 * spots)
        found = measure(image, mask, UM)
        assert found["granules"] == len(SPOTS)
        assert found["granule_radius_um"] == pytest.approx(radius * UM, rel=0.35)
        assert found["granule_contrast"] == pytest.approx(0.3, rel=0.35)
        assert found["granule_colour_lightness"] < found["cytoplasm_colour_lightness"] - 10
        assert found["vacuoles"] == 0 and found["nucleoli"] == 0


def test_orange_granules_are_redder_than_purple_ones() -> None:
    spots = np.any([disc(x, y, 2) for x, y in SPOTS], 0)
    image, mask = draw(disc(0, 0, 38), disc(0, 0, 13))
    colours = []
    for od in ([0.1, 0.5, 0.45], [0.5, 0.6, 0.2]):
        painted = image * np.where(spots[..., None], 10.0 ** -np.array(od), 1)
        colours.append(measure(painted.astype(np.uint8), mask, UM))
    assert colours[0]["granule_colour_b"] > colours[1]["granule_colour_b"] + 30
    assert colours[0]["granule_colour_a"] > 20


def test_vacuoles_are_counted() -> None:
    spots = np.any([disc(x, y, 4) for x, y in SPOTS[:4]], 0)
    found = measure(*draw(disc(0, 0, 38), disc(0, 0, 13), -0.08 * spots), UM)
    assert (found["vacuoles"], found["granules"]) == (4, 0)
    assert found["vacuole_share"] == pytest.approx(4 * 16 / (36**2 - 15**2), rel=0.6)


def test_nucleoli_are_counted() -> None:
    spots = disc(-8, -6, 4) | disc(9, 5, 4)
    found = measure(*draw(disc(0, 0, 38), disc(0, 0, 28), -0.25 * spots), UM)
    assert found["nucleoli"] == 2
    assert found["nucleolus_contrast"] == pytest.approx(0.25 / NUCLEUS_OD[0], rel=0.3)


def test_blue_cytoplasm_is_bluer_than_pink() -> None:
    image, mask = ROUND
    pink, blue = (
        measure(np.where((mask == 128)[..., None], np.array(c, np.uint8), image), mask)
        for c in ([235, 190, 190], [150, 170, 215])
    )
    assert blue["cytoplasm_colour_b"] < pink["cytoplasm_colour_b"] - 20
    assert blue["cytoplasm_colour_a"] < pink["cytoplasm_colour_a"] - 5


def test_a_cell_that_is_cut_off_lies_on_the_edge() -> None:
    inside, touching = (measure(*draw(disc(x, 0, 30), disc(x, 0, 15))) for x in (0, 50))
    assert inside["cell_on_edge"] == 0
    assert touching["cell_on_edge"] == pytest.approx(0.25, abs=0.1)


def test_a_second_nucleus_is_found_in_the_image_and_in_the_mask_but_red_cells_and_platelets_are_not() -> None:
    cell, nucleus = disc(-25, 0, 28), disc(-25, 0, 16)
    image, mask = draw(cell, nucleus)
    assert measure(image, mask, UM)["other_nuclei"] == 0
    second = image.copy()
    second[disc(40, 20, 15)] = (BACKGROUND * 10**-NUCLEUS_OD).astype(np.uint8)
    assert measure(second, mask, UM)["other_nuclei"] == 1
    marked = mask.copy()
    marked[disc(40, 20, 18)], marked[disc(40, 20, 15)] = 128, 255
    both = measure(second, marked, UM)
    assert (both["other_nuclei"], both["nuclei"]) == (1, 1)
    assert both["nucleus_area_um2"] == measure(image, mask, UM)["nucleus_area_um2"]
    around = image.copy()
    around[disc(40, 20, 18)] = (205, 175, 165)  # a red cell
    around[disc(40, -35, 6)] = (BACKGROUND * 10**-NUCLEUS_OD).astype(np.uint8)  # a platelet
    found = measure(around, mask, UM)
    assert found["other_nuclei"] == 0
    assert found["red_cell_colour_a"] > 3
    assert [found[f"background_colour_{c}"] for c in ("red", "green", "blue")] == BACKGROUND.tolist()


def test_columns_are_the_same_for_every_cell_and_say_the_unit() -> None:
    with_scale, without = measure(*ROUND, UM), measure(*ROUND)
    empty = measure(ROUND[0], np.zeros_like(ROUND[1]), UM)
    assert list(with_scale) == list(empty)
    assert not any(name.endswith(("_um", "_um2")) for name in without)
    assert [n.replace("_um", "_px") for n in with_scale] == list(without)
    assert all(isinstance(v, float) for v in with_scale.values() if v is not None)
    assert all(np.isfinite(v) for v in with_scale.values() if v is not None)


def test_a_scale_changes_units_alone_where_filters_are_as_wide() -> None:
    spots = np.any([disc(x, y, 2) for x, y in SPOTS], 0)
    noise = 0.1 * np.random.default_rng(0).normal(size=(SIZE, SIZE)) * disc(0, 0, 14)
    image, mask = draw(disc(0, 0, 38), disc(0, 0, 16), 0.3 * spots + noise)
    pixels = measure(image, mask)
    scale = 12 / np.sqrt(4 / np.pi * pixels["cell_area_px2"])  # the cell measures 12 µm
    power = {"px": 1, "px2": 2}
    for (name, known), value in zip(measure(image, mask, scale).items(), pixels.values(), strict=True):
        column = name.replace("_um", "_px")
        unit = power.get(column.rsplit("_", 1)[-1], 0) * (-1 if "_per_px" in column else 1)
        expected = None if value is None else pytest.approx(value * scale**unit, rel=1e-6)
        assert known == expected, name
    half = measure(image, mask, UM / 2)
    assert measure(image, mask, UM)["cell_area_um2"] == pytest.approx(4 * half["cell_area_um2"])
    assert measure(image, mask, UM)["nc_ratio"] == half["nc_ratio"]


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1], "transpose"])
def test_a_flip_or_turn_changes_nothing(view: object) -> None:
    truth = draw_cells(dict.fromkeys(CLASSES, 1), seed=4)
    for image, mask in zip(*render(truth, 96), strict=True):
        turned = (
            (image.swapaxes(0, 1), mask.T) if view == "transpose" else (image[view], mask[view])  # type: ignore[index]
        )
        before, after = measure(image, mask, FIELD_UM / 96), measure(*turned, FIELD_UM / 96)
        for name, value in before.items():
            assert after[name] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), name


def test_another_resolution_measures_the_same_cell() -> None:
    truth = draw_cells({"neutrophil": 6, "ALL": 6}, seed=4)
    low, high = (
        [measure(i, m, FIELD_UM / r) for i, m in zip(*render(truth, r), strict=True)] for r in (128, 256)
    )
    for one, other in zip(low, high, strict=True):
        for name, tolerance in (
            ("cell_area_um2", 0.03),
            ("nucleus_area_um2", 0.03),
            ("nucleus_solidity", 0.05),
            ("chromatin_density", 0.05),
            ("chromatin_clumping_coarse", 0.15),
            ("membrane_sharpness_per_um", 0.3),
        ):
            assert one[name] == pytest.approx(other[name], rel=tolerance), name


@pytest.mark.parametrize("um_per_pixel", [None, UM])
def test_a_huge_image_measures_the_same_cell_in_seconds(um_per_pixel: float | None) -> None:
    small = measure(*ROUND, um_per_pixel)
    larger = 20
    y, x = (np.mgrid[: SIZE * larger, : SIZE * larger] + 0.5) / larger - SIZE / 2
    image, mask = draw(np.hypot(x, y) < 35, np.hypot(x - 3, y - 2) < 20)
    begun = time.process_time()
    huge = measure(image, mask, um_per_pixel and um_per_pixel / larger)
    assert time.process_time() - begun < 15  # at its own scale it took a quarter of an hour
    for name, value in small.items():
        power = 0 if um_per_pixel else {"px": 1, "px2": 2}.get(name.rsplit("_", 1)[-1], 0)
        if name.startswith(("cell_", "nucleus_", "nc_ratio", "nuclei", "lobes", "other", "background")):
            expected = None if value is None else pytest.approx(value * larger**power, rel=0.05, abs=0.06)
            assert huge[name] == expected, name
    assert huge["granules"] == huge["vacuoles"] == huge["nucleoli"] == 0


def test_what_cannot_be_seen_is_not_measured() -> None:
    image, mask = ROUND
    coarse = measure(image, mask, 0.7)
    assert (
        coarse["nucleoli"] is None
        and coarse["granules"] is None
        and coarse["chromatin_clumping_fine"] is None
    )
    assert coarse["cell_area_um2"] is not None and coarse["membrane_closedness"] is not None

    no_nucleus = measure(image, np.where(mask > 0, 128, 0).astype(np.uint8), UM)
    assert no_nucleus["nuclei"] == 0 and no_nucleus["cell_area_um2"] > 0
    for name in (
        "nc_ratio",
        "lobes",
        "nucleus_circularity",
        "membrane_sharpness_per_um",
        "nucleoli",
        "other_nuclei",
    ):
        assert no_nucleus[name] is None
    bare = measure(image, np.where(mask == 255, 255, 0).astype(np.uint8), UM)
    assert bare["nc_ratio"] == 1
    assert bare["granules"] is None and bare["vacuole_share"] is None and bare["cytoplasm_colour_a"] is None
    nothing = measure(image, np.zeros_like(mask), UM)
    assert nothing["cell_area_um2"] is None and nothing["nuclei"] == 0
    assert nothing["background_colour_red"] is not None
    everything = measure(image, np.full_like(mask, 255), UM)
    assert everything["background_colour_red"] is None and everything["cell_on_edge"] == 1


@pytest.mark.parametrize("level", [0, 130, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2), (3, 5), (64, 64)])
@pytest.mark.parametrize("scale", [None, 1e-3, 0.2, 1e3])
def test_images_of_one_colour_and_of_one_pixel_are_measured(
    level: int, shape: tuple[int, int], scale: float | None
) -> None:
    image = np.full((*shape, 3), level, np.uint8)
    for mask in (
        np.zeros(shape, np.uint8),
        np.full(shape, 128, np.uint8),
        np.full(shape, 255, np.uint8),
        np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), shape),
    ):
        with np.errstate(all="raise"):
            found = measure(image, mask, scale)
        assert all(v is None or np.isfinite(v) for v in found.values())


@pytest.mark.parametrize(
    ("image", "mask", "scale", "words"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), None, "8-bit RGB"),
        (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.uint8), None, "8-bit RGB"),
        (np.zeros((8, 8, 3), np.uint16), np.zeros((8, 8), np.uint8), None, "uint16"),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((0, 8), np.uint8), None, "8-bit RGB"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8), None, "of the image's size"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), None, "of the image's size"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool), None, "8-bit grey mask"),
        (np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 127, np.uint8), None, "grey level 127"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), 0.0, "0.001 to 1000"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), -0.2, "0.001 to 1000"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), float("nan"), "0.001 to 1000"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), float("inf"), "0.001 to 1000"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(
    image: np.ndarray, mask: np.ndarray, scale: float | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        measure(image, mask, scale)


def test_rendered_cells_follow_their_true_parameters() -> None:
    truth = draw_cells(dict.fromkeys(CLASSES, 12), seed=2)
    found = pd.DataFrame(
        [measure(i, m, FIELD_UM / 128) for i, m in zip(*render(truth, 128), strict=True)], dtype=float
    )
    for name, parameter, least in (
        ("nc_ratio", "nc_ratio", 0.99),
        ("chromatin_density", "chromatin_od", 0.6),
        ("chromatin_clumping_coarse", "chromatin_clumping", 0.7),
        ("vacuoles", "vacuoles", 0.4),
        ("granules", "granules", 0.6),
    ):
        assert found[name].corr(truth[parameter], method="spearman") > least, name


def test_thirty_images_a_second() -> None:
    truth = draw_cells({"monocyte": 8, "neutrophil": 8}, seed=2)
    images, masks = render(truth, 128)
    start = time.process_time()
    for image, mask in zip(images, masks, strict=True):
        measure(image, mask)
    assert len(images) / (time.process_time() - start) > 30


def test_real_cells_with_real_masks(real_data: Path) -> None:
    eccentric = []
    for label in ("neutrophil", "lymphocyte"):
        files = sorted((real_data / "segwbc" / label).glob("*"))[:20]
        rows = []
        for file in files:
            (mask,) = (real_data / "segwbc_masks" / label).glob(f"{file.stem}.*")
            rows.append(measure(np.asarray(Image.open(file).convert("RGB")), np.asarray(Image.open(mask))))
        eccentric.append(np.mean([row["lobes"] for row in rows if row["lobes"]]))
    assert eccentric[0] > eccentric[1] + 0.8  # lobes
