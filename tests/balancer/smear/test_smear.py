"""The smear renderer: the same seed, the same cells; pixels agree with the true parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import label as connected_parts
from scipy.stats import spearmanr
from skimage.measure import regionprops
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from balancer.errors import InputError
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.smear import CLASSES, FIELD_UM, LEUKAEMIAS, describe, draw_cells, render, write_source
from balancer.smear.parameters import CELL_TYPES, CONTINUOUS


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return draw_cells(dict.fromkeys(CLASSES, 24), seed=1, patients_per_class=6)


@pytest.fixture(scope="module")
def rendered(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return render(cells, 64)


def test_shapes_types_and_grey_levels(cells, rendered):
    images, masks = rendered
    assert images.shape == (len(cells), 64, 64, 3) and images.dtype == np.uint8
    assert masks.shape == (len(cells), 64, 64) and masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, CYTOPLASM, NUCLEUS}
    assert images.reshape(len(cells), -1).std(1).min() > 10  # no empty or saturated picture


def test_same_seed_same_pixels_in_any_company(cells, rendered):
    images, masks = rendered
    again = draw_cells(dict.fromkeys(CLASSES, 24), seed=1, patients_per_class=6)
    pd.testing.assert_frame_equal(cells, again)
    rows = [200, 3, 77]
    some_images, some_masks = render(again.iloc[rows], 64)
    assert np.array_equal(some_masks, masks[rows])
    # Matrix products may round differently in batches of another size: one grey level at most.
    assert np.abs(some_images.astype(int) - images[rows]).max() <= 1


def test_other_seeds_give_other_cells(cells):
    other = draw_cells(dict.fromkeys(CLASSES, 24), seed=2, patients_per_class=6)
    assert np.mean(cells["cell_diameter_um"] == other["cell_diameter_um"]) < 0.1
    a, b = (render(table.iloc[:4], 64)[0].astype(int) for table in (cells, other))
    assert np.abs(a - b).mean() > 5


def test_a_class_does_not_depend_on_the_others(cells):
    alone = draw_cells({"ALL": 24}, seed=1, patients_per_class=6)
    together = cells[cells["label"] == "ALL"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together)


@pytest.mark.parametrize("resolution", [32, 128, 192])
def test_resolutions_show_the_same_cells(cells, rendered, resolution):
    rows = np.arange(0, len(cells), 19)
    low, high = sorted((64, resolution))
    pictures = {64: rendered[0][rows], resolution: render(cells.iloc[rows], resolution)[0]}
    factor = high // low
    coarse = pictures[high].reshape(len(rows), low, factor, low, factor, 3).mean((2, 4))
    assert np.abs(coarse - pictures[low]).mean() < 1.5


def test_masks_agree_with_the_true_areas(cells, rendered):
    masks = rendered[1]
    pixel = (FIELD_UM / 64) ** 2
    nucleus = (masks == NUCLEUS).sum((1, 2)) * pixel
    whole = (masks > 0).sum((1, 2)) * pixel
    assert spearmanr(nucleus, cells["nucleus_area_um2"]).statistic > 0.98
    assert spearmanr(whole, cells["cell_area_um2"]).statistic > 0.98
    assert spearmanr(nucleus / whole, cells["nc_ratio"]).statistic > 0.95
    assert np.median(np.abs(nucleus / cells["nucleus_area_um2"] - 1)) < 0.05
    assert np.median(np.abs(whole / cells["cell_area_um2"] - 1)) < 0.05


def test_a_cell_is_whole_and_in_the_middle(cells, rendered):
    masks = rendered[1]
    border = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1)
    assert (border > 0).any(1).mean() < 0.02
    largest = [
        np.bincount(connected_parts(mask > 0)[0].ravel())[1:].max() / (mask > 0).sum() for mask in masks
    ]
    assert min(largest) > 0.95
    unsegmented = masks[(cells["lobes"] == 1).to_numpy()]
    assert np.mean([connected_parts(mask == NUCLEUS)[1] == 1 for mask in unsegmented]) > 0.97


def test_lobes_and_filaments(cells):
    """A segmented nucleus is one piece by its filaments, and far less compact than a round one of the same area."""
    segmented = cells[(cells["subtype"] == "segmented neutrophil") & (cells["lobes"] > 2)]
    nuclei, round_ones = (
        render(table, 128)[1] == NUCLEUS for table in (segmented, segmented.assign(lobes=1, constriction=0))
    )
    assert len(nuclei) >= 8
    pieces = [connected_parts(nucleus, np.ones((3, 3)))[1] for nucleus in nuclei]
    assert np.mean(np.array(pieces) == 1) > 0.8
    assert np.allclose(nuclei.sum((1, 2)), round_ones.sum((1, 2)), rtol=0.2)
    solidity, round_solidity = (
        np.array([regionprops(nucleus.astype(int))[0].solidity for nucleus in group])
        for group in (nuclei, round_ones)
    )
    assert np.median(round_solidity) > 0.93 and np.median(solidity) < 0.88


def test_parameters_are_those_of_the_classes(cells):
    median = cells.groupby("label").median(numeric_only=True)
    assert median.loc["lymphocyte", "nc_ratio"] > 1.4 * median.loc["neutrophil", "nc_ratio"]
    assert median.loc["AML", "cell_diameter_um"] > median.loc["ALL", "cell_diameter_um"]
    assert median.loc["ALL", "cell_diameter_um"] > median.loc["CLL", "cell_diameter_um"]
    assert median.loc["AML", "nucleoli"] >= 2 and median.loc["CLL", "nucleoli"] == 0
    assert cells.loc[cells["auer_rods"] > 0, "label"].unique().tolist() == ["AML"]
    assert cells.loc[cells["label"] == "CML", "subtype"].nunique() >= 4
    assert (cells[list(CONTINUOUS)].drop(columns="cell_edge_um") >= 0).all(axis=None)
    assert (cells[["cell_edge_um", "granule_radius_um", "cell_diameter_um", "nc_ratio"]] > 0).all(axis=None)


@pytest.mark.parametrize("name", CELL_TYPES)
def test_no_distribution_reaches_a_divisor_of_zero(name):
    for field in ("cell_diameter_um", "nc_ratio", "cell_edge_um", "lobe_spacing", "nucleolus_radius_um"):
        mean, deviation = getattr(CELL_TYPES[name], field)
        assert mean - 2.5 * deviation > 0
    assert sum(CELL_TYPES[name].lobes) == pytest.approx(1)


def test_shares_of_subtypes_add_up():
    assert all(sum(shares.values()) == pytest.approx(1) for shares in CLASSES.values())


def test_colours_of_granules(cells, rendered):
    """Cytoplasm: orange-red in eosinophils, purple-blue in basophils, bluer in lymphocytes than in neutrophils."""
    images, masks = rendered

    def colour(label: str) -> np.ndarray:
        rows = (cells["label"] == label).to_numpy()
        return images[rows][masks[rows] == CYTOPLASM].mean(0)

    warmth = {label: colour(label)[0] - colour(label)[2] for label in CLASSES}
    assert warmth["eosinophil"] > warmth["basophil"] + 40
    assert max(warmth, key=lambda label: warmth[label]) == "eosinophil"
    assert warmth["lymphocyte"] < warmth["neutrophil"] - 10
    assert colour("basophil").mean() < colour("neutrophil").mean() - 30


@pytest.mark.parametrize(
    ("column", "value", "region"),
    [("auer_rods", 1, CYTOPLASM), ("nucleoli", 4, NUCLEUS), ("vacuoles", 8, CYTOPLASM)],
)
def test_small_structures_show(cells, column, value, region):
    blasts = cells[cells["label"] == "AML"].head(8)
    without, with_it = (render(blasts.assign(**{column: number}), 128) for number in (0, value))
    inside = without[1] == region
    change = np.abs(with_it[0].astype(int) - without[0]).max(-1) * inside
    assert np.median(change.max((1, 2))) > 25


def test_patients(cells):
    """Leukaemic cells come from patients with that leukaemia; a patient has one stain, and its cells are alike."""
    for label in LEUKAEMIAS:
        assert set(cells.loc[cells["label"] == label, "diagnosis"]) == {label}
    assert set(cells.loc[cells["label"] == "neutrophil", "diagnosis"]) == {"healthy", *LEUKAEMIAS}
    assert (cells.groupby("patient_id")["eosin_gain"].nunique() == 1).all()
    many = draw_cells({"AML": 2000}, seed=3, patients_per_class=100)
    only = many[many["subtype"] == "myeloblast"]
    between = only.groupby("patient_id")["chromatin_od"].mean().var()
    within = only.groupby("patient_id")["chromatin_od"].var().mean()
    assert between - within / 18 == pytest.approx(0.25 * only["chromatin_od"].var(), rel=0.5)


def test_attributes_use_the_vocabulary_of_wbcatt(cells, real_data):
    words = describe(cells)
    known = pd.read_csv(real_data / "pbc" / "metadata.csv")
    assert set(words) <= set(known)
    for column in words:
        assert set(words[column]) <= set(known[column].dropna()), column


def test_attributes_follow_the_parameters(cells):
    words = describe(cells).groupby(cells["label"]).agg(lambda column: column.mode()[0])
    assert words["granule_type"].to_dict() | {"AML": "", "CML": ""} == {
        "neutrophil": "small", "lymphocyte": "nil", "monocyte": "nil", "eosinophil": "round", "basophil": "coarse",
        "ALL": "nil", "AML": "", "CLL": "nil", "CML": "",
    }  # fmt: skip
    assert words.loc["eosinophil", "granule_colour"] == "red"
    assert words.loc["neutrophil", "nucleus_shape"] == "segmented-multilobed"
    assert words.loc["monocyte", "cytoplasm_texture"] == "frosted"
    assert (words["nuclear_cytoplasmic_ratio"] == "high").to_dict() == {
        label: label in ("lymphocyte", "ALL", "AML", "CLL") for label in CLASSES
    }


def test_write_source(tmp_path):
    counts = {"neutrophil": 7, "CLL": 3, "AML": 0}
    write_source(tmp_path / "smear", counts, 32, seed=5, patients_per_class=2)
    table = pd.read_csv(tmp_path / "smear" / "metadata.csv")
    assert table.columns[:5].tolist() == ["file_name", "label", "source", "patient_id", "um_per_pixel"]
    assert table["label"].value_counts().to_dict() == {"neutrophil": 7, "CLL": 3}
    assert (table["source"] == "rendered").all() and (table["um_per_pixel"] == FIELD_UM / 32).all()
    assert table["file_name"].is_unique and not table.drop(columns="file_name").isna().any(axis=None)
    files = sorted(str(file.relative_to(tmp_path / "smear")) for file in tmp_path.rglob("*.png"))
    assert files == sorted([*table["file_name"], *("masks/" + table["file_name"])])
    assert {file.name for file in tmp_path.iterdir()} == {"smear"}
    # The metadata is the whole recipe.
    images, masks = render(table, 32)
    for name, image, mask in zip(table["file_name"], images, masks, strict=True):
        with Image.open(tmp_path / "smear" / name) as file:
            assert file.text["source"] == "rendered"
            assert np.abs(np.asarray(file).astype(int) - image).max() <= 1
        with Image.open(tmp_path / "smear" / "masks" / name) as file:
            assert np.array_equal(np.asarray(file), mask)


@pytest.mark.parametrize(
    ("counts", "resolution", "word"),
    [
        ({"basofil": 3}, 32, "basophil"),
        ({"CLL": -1}, 32, "CLL"),
        ({"CLL": 0}, 32, "count"),
        ({"CLL": 1}, 4, "resolution"),
    ],
)
def test_bad_input_is_a_sentence_and_leaves_nothing(tmp_path, counts, resolution, word):
    with pytest.raises(InputError, match=word):
        write_source(tmp_path / "smear", counts, resolution, seed=0)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="exists"):
        write_source(tmp_path, {"CLL": 1}, 32, seed=0)
    with pytest.raises(InputError, match="no output of hemabalance"):
        write_source(tmp_path, {"CLL": 1}, 32, seed=0, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    for _ in range(2):
        write_source(tmp_path / "smear", {"CLL": 1}, 32, seed=0, overwrite=True)


def _ring_statistics(images: np.ndarray) -> np.ndarray:
    """Mean and spread of each colour in rings around the centre, relative to the brightest grey level."""
    axis = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    ring = (np.hypot(axis[:, None], axis) // 2).astype(int)
    scaled = images / images.max((1, 2), keepdims=True)
    inside = [scaled[:, ring == k] for k in range(7)]
    return np.concatenate([f(1) for part in inside for f in (part.mean, part.std)], 1)


def test_the_task_is_neither_trivial_nor_hopeless():
    """A support vector machine on ring statistics of other patients' cells: far above chance (0.11), far from 1."""
    data = []
    for seed, count in ((11, 80), (12, 30)):
        table = draw_cells(dict.fromkeys(CLASSES, count), seed)
        data.append((_ring_statistics(render(table, 32)[0]), table["label"]))
    (x, y), (x_test, y_test) = data
    model = make_pipeline(StandardScaler(), SVC(C=3)).fit(x, y)
    score = f1_score(y_test, model.predict(x_test), average="macro")
    assert 0.5 < score < 0.9


def test_a_cell_is_the_same_in_every_batch() -> None:
    cells = draw_cells({"neutrophil": 12, "CLL": 12}, seed=3)
    images, masks = render(cells, 32)
    shuffled = np.random.default_rng(0).permutation(len(cells))
    again, masks_again = render(cells.iloc[shuffled], 32)
    assert np.array_equal(again, images[shuffled])
    assert np.array_equal(masks_again, masks[shuffled])
