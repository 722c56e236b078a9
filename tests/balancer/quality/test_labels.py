"""Suspect labels: found where they were planted, judged by other groups, refused where nothing can be judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.data import SPLITS, PreparedDataset, prepare
from balancer.errors import InputError
from balancer.files import kind_of, read_json
from balancer.quality import labels
from balancer.quality.features import inception
from balancer.quality.labels import check_labels, out_of_fold, rank
from balancer.quality.labels_page import write_labels
from cli import _say_labels


class MeanColours:
    """Features that see the mean colour, and nothing else."""

    name, sha256, dimension = "mean-colours", "0" * 64, 3

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2)).astype(np.float32)


COUNTS = {"train": {"a": 20, "b": 20}, "validation": {"a": 5, "b": 5}, "test": {"a": 5, "b": 5}}
WRONG = [f"test/b/test_000{i}.png" for i in range(3)]


@pytest.fixture()
def data(make_dataset, tmp_path: Path) -> PreparedDataset:
    """Two classes of colours; three test images of b are of a, and a class c has images too few to be judged."""
    data = make_dataset(tmp_path / "data", {**COUNTS, "heldout": {"c": 4}})
    for i, name in enumerate(WRONG):
        with Image.open(data.root / f"train/a/train_000{i}.png") as image:
            Image.fromarray(np.asarray(image)[::-1]).save(data.root / name)
    return data


def rewrite(data: PreparedDataset, **columns: object) -> PreparedDataset:
    for split in SPLITS:
        data.tables[split].assign(**columns).to_csv(data.root / split / "metadata.csv", index=False)
    return PreparedDataset.load(data.root)


def test_planted_labels_come_first(data: PreparedDataset) -> None:
    check = check_labels(data, MeanColours())
    first = check.table[:3]
    assert set(first["file_name"]) == set(WRONG) and first["rank"].tolist() == [1, 2, 3]
    assert set(first["label"]) == {"b"} and set(first["suggested"]) == {"a"}
    assert (first["p_label"] < 0.5).all() and (first["p_suggested"] > 0.5).all()
    assert len(check.suspects) in (1, 2, 3)  # those that look more like a than a's own images on average
    assert check.suspects.index.tolist() == list(range(len(check.suspects)))
    assert check.table["p_label"].is_monotonic_increasing
    assert len(check.table) == 60 and check.table["file_name"].is_unique
    assert check.recall == {"a": 1.0, "b": 0.9, "c": None}
    assert check.notes == ("Not judged, with images in fewer than 5 groups: c (4).",)
    pd.testing.assert_frame_equal(check.table, check_labels(data, MeanColours()).table)
    found = json.loads(json.dumps(check.to_json(), allow_nan=False))
    assert found["suspect"] == len(found["suspects"]) and found["suspects"][0]["file_name"] in WRONG


def test_folds_keep_groups_and_patients_together(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = {split: [f"P{i % 12}" for i in range(len(table))] for split, table in data.tables.items()}
    for split, table in data.tables.items():
        table["patient_id"] = ["unknown" if i == 0 else p for i, p in enumerate(patients[split])]
        table["group"] = [f"{split}-{i // 2}" for i in range(len(table))]
    seen = []

    def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
        seen.append(groups)
        return labels_out_of_fold(x, y, groups, seed)

    labels_out_of_fold = labels.out_of_fold
    monkeypatch.setattr(labels, "out_of_fold", out_of_fold)
    check_labels(rewrite(data), MeanColours())
    rows = pd.concat([data.tables[split] for split in SPLITS], ignore_index=True)
    rows = rows[rows["label"] != "c"].assign(together=seen[0])
    known = rows[rows["patient_id"] != "unknown"]
    assert (known.groupby("patient_id")["together"].nunique() == 1).all()
    assert (rows.groupby("group")["together"].nunique() == 1).all()
    assert rows["together"].nunique() > 1


def test_no_probe_sees_the_group_that_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y, groups = np.repeat([0, 1], 40), np.arange(80) // 4
    x = np.column_stack([groups, rng.normal(size=80)])
    learned = []
    fit = labels.fit_linear

    class Spy:
        def __init__(self, x, y, *rest):
            self.seen, self.model = set(x[:, 0]), fit(x, y, *rest)

        def predict_proba(self, x):
            assert not self.seen & set(x[:, 0])
            learned.append(len(x))
            return self.model.predict_proba(x)

    monkeypatch.setattr(labels, "fit_linear", Spy)
    found = out_of_fold(x, y, groups)
    assert sum(learned) == 80
    assert found.shape == (80, 2)
    np.testing.assert_allclose(found.sum(1), 1)


def test_an_image_is_not_judged_where_its_class_cannot_be_learned() -> None:
    """All of class 2 in one group: the probe that judges it has never seen the class."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    y = np.array([0] * 20 + [1] * 20 + [2] * 10)
    groups = np.concatenate([np.arange(40), np.full(10, 40)])
    found = out_of_fold(x, y, groups)
    assert np.isnan(found[40:]).all() and not np.isnan(found[:40]).any()


def test_rank_counts_what_confident_learning_counts() -> None:
    """By hand: mean self-confidences 0.7 and 0.65; only the last reaches another class's, 0.9 ≥ 0.7."""
    p = np.array([0.9, 0.8, 0.4, 0.05, 0.35, 0.1, 0.9])
    probabilities = np.column_stack([p, 1 - p])
    given = np.array([0, 0, 0, 1, 1, 1, 1])
    order, suspects = rank(given, probabilities)
    assert suspects == 1
    assert order.tolist()[:2] == [6, 2]


def test_outputs(data: PreparedDataset, tmp_path: Path) -> None:
    check = check_labels(data, MeanColours(), seed=3)
    write_labels(check, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/labels.csv")
    assert table.columns.tolist() == [
        "rank", "file_name", "label", "suggested", "p_label", "p_suggested", "suspect", "group", "source_sha256"
    ]  # fmt: skip
    n = len(check.suspects)
    assert table["suspect"].tolist() == [True] * n + [False] * (60 - n)
    page = (tmp_path / "out/labels.html").read_text()
    assert f"Suspect labels: {n} of 60" in page and table["file_name"][0] in page and "Not judged" in page
    assert page.count("data:image/png;base64,") == n + 2 * 6
    assert "http" not in page and "<script" not in page
    config = read_json(tmp_path / "out/config.json")
    assert config["kind"] == "labels" and config["seed"] == 3
    assert config["data"]["fingerprint"] == data.fingerprint
    with pytest.raises(InputError, match="exists already"):
        write_labels(check, tmp_path / "out")
    write_labels(check, tmp_path / "out", overwrite=True)
    assert kind_of(tmp_path / "out") == "labels"


def test_a_page_without_suspects(make_dataset, tmp_path: Path) -> None:
    check = check_labels(make_dataset(tmp_path / "data", COUNTS, source="rendered"), MeanColours())
    assert check.suspects.empty and "rendered cells" in check.notes[0]
    write_labels(check, tmp_path / "out")
    assert "<p>None." in (tmp_path / "out/labels.html").read_text()


def test_a_probe_that_recognises_little_says_so(make_dataset, tmp_path: Path) -> None:
    class Noise(MeanColours):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.random.default_rng(len(images)).normal(size=(len(images), 3)).astype(np.float32)

    counts = {"train": dict.fromkeys("abcd", 30)}
    (note,) = check_labels(make_dataset(tmp_path / "data", counts), Noise()).notes
    assert note.startswith("Fewer than half are recognised of ") and "a (0." in note


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"train": {"a": 30}}, "it has a 30"),
        ({"train": {"a": 30, "b": 4}}, "it has a 30, b 4"),
        ({"train": {"a": 0, "b": 0}}, "it has a 0, b 0"),
    ],
)
def test_what_cannot_be_judged_is_refused(make_dataset, tmp_path: Path, counts: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_labels(make_dataset(tmp_path / "data", counts), MeanColours())


def test_one_patient_cannot_be_judged(make_dataset, tmp_path: Path) -> None:
    data = rewrite(make_dataset(tmp_path / "data", COUNTS), patient_id="P1")
    with pytest.raises(InputError, match="it has a 1, b 1"):
        check_labels(data, MeanColours())


def test_a_broken_image_is_named(data: PreparedDataset) -> None:
    (data.root / WRONG[0]).write_bytes(b"no image")
    with pytest.raises(InputError, match=WRONG[0]):
        check_labels(data, MeanColours())


@pytest.mark.slow
def test_flipped_labels_of_real_cells_are_found(real_data: Path, tmp_path: Path) -> None:
    """Eight of 200 labels exchanged between two classes that are easily told apart."""
    for label in ("eosinophil", "platelet"):
        other = {"eosinophil": "platelet", "platelet": "eosinophil"}[label]
        for i, file in enumerate(sorted((real_data / "pbc" / label).rglob("*.jpg"))[:100]):
            place = tmp_path / "source" / (other if i < 4 else label) / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    prepare(tmp_path / "source", tmp_path / "data", resolution=64)
    data = PreparedDataset.load(tmp_path / "data")
    check = check_labels(data, inception())
    moved = {path.name for path in (tmp_path / "source/platelet").iterdir()} & {
        path.name for path in (real_data / "pbc/eosinophil").rglob("*.jpg")
    } | {path.name for path in (tmp_path / "source/eosinophil").iterdir()} & {
        path.name for path in (real_data / "pbc/platelet").rglob("*.jpg")
    }
    first = {Path(name).name for name in check.table["source_file"][:10]}
    assert len(moved) == 8 and len(first & moved) >= 7


def test_a_list_without_suspects_promises_none(
    data: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    check = check_labels(data, MeanColours())
    _say_labels(replace(check, table=check.table.assign(suspect=False)), tmp_path)
    said = capsys.readouterr().out
    assert "Suspect labels: none of 60 images, test included.\nWith pictures" in said
