from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.data.dataset import SPLITS, PreparedDataset, fingerprint
from balancer.data.synthetic import SyntheticSet
from balancer.errors import InputError
from balancer.files import read_json, write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset written by hand: classes in an order that is not the alphabet's."""
    identity = []
    for k, split in enumerate(SPLITS):
        rows = []
        for label, n in (("z", 2), ("a", k)):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(n):
                name = f"{label}/{i}.png"
                Image.new("RGB", (16, 16), (k, i, 7)).save(tmp_path / split / name)
                rows.append((name, label, f"g{i}", "real", f"{k}{i}{label}", "NA"))
                identity.append((split, label, f"{k}{i}{label}"))
        columns = ["file_name", "label", "group", "source", "source_sha256", "note"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / split / "metadata.csv", index=False)
    info = {"format": 1, "kind": "prepared", "classes": ["z", "a"], "resolution": 16}
    write_json(tmp_path / "dataset.json", {**info, "source": "real", "fingerprint": fingerprint(identity)})
    return tmp_path


def change(root: Path, **values: object) -> None:
    write_json(root / "dataset.json", {**read_json(root / "dataset.json"), **values})


def test_fingerprint_is_of_the_sorted_rows() -> None:
    rows = [("train", "b", "1"), ("test", "a", "2")]
    expected = hashlib.sha256(b"test,a,2\ntrain,b,1\n").hexdigest()
    assert fingerprint(rows) == fingerprint(rows[::-1]) == expected


def test_opened(root: Path) -> None:
    data = PreparedDataset.load(root)
    assert data.classes == ("z", "a") and data.class_index("a") == 1
    assert data.counts("train") == {"z": 2, "a": 0} and data.counts("heldout") == {"z": 2, "a": 3}
    assert data.labels("test").tolist() == [0, 0, 1, 1] and data.labels("test").dtype == np.int64
    assert data.images("validation")[:][:, 0, 0].tolist() == [[1, 0, 7], [1, 1, 7], [1, 0, 7]]
    assert set(data.tables["test"]["note"]) == {"NA"}
    pixels, rows = data.images_of("a", ["validation", "test"])
    assert pixels.shape == (3, 16, 16, 3) and rows["split"].tolist() == ["validation", "test", "test"]


def test_refusals(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'z'"):
        PreparedDataset.load(root).class_index("Z")
    with pytest.raises(InputError, match="balancer prepare"):
        PreparedDataset.load(root / "train")
    change(root, format=2)
    with pytest.raises(InputError, match="format 2.*update"):
        PreparedDataset.load(root)
    change(root, format=1, kind="synthetic")
    with pytest.raises(InputError, match="synthetic set"):
        PreparedDataset.load(root)
    change(root, kind="prepared")
    (root / "test/metadata.csv").write_text("file_name,label\n")
    with pytest.raises(InputError, match="lacks the column group"):
        PreparedDataset.load(root)
    (root / "test/metadata.csv").unlink()
    with pytest.raises(InputError, match="missing"):
        PreparedDataset.load(root)


def edit(path: Path, **values: object) -> None:
    table = pd.read_csv(path, dtype=str)
    table.loc[0, list(values)] = list(values.values())
    table.to_csv(path, index=False)


def test_changed_tables_are_refused(root: Path) -> None:
    test = root / "test/metadata.csv"
    original = test.read_text()
    edit(test, note="a remark", group="g9")
    PreparedDataset.load(root)  # the fingerprint is of split, label and source file alone
    for change_it in (
        lambda: edit(test, label="a"),
        lambda: edit(test, source_sha256="other"),
        lambda: test.write_text(original + "z/fake.png,z,g,real,fake,NA\n"),
        lambda: test.write_text(original + (root / "train/metadata.csv").read_text().splitlines()[1] + "\n"),
        lambda: test.write_text("".join(original.splitlines(keepends=True)[:-1])),
    ):
        change_it()
        with pytest.raises(
            InputError, match="was changed after `balancer prepare`.*prepare the dataset again"
        ):
            PreparedDataset.load(root)
        test.write_text(original)
    edit(test, label="y")
    with pytest.raises(InputError, match=r"test/metadata.csv has the label 'y'.*\(z, a\)"):
        PreparedDataset.load(root)


def test_damaged_tables_get_a_sentence(root: Path) -> None:
    test = root / "test/metadata.csv"
    original = test.read_text()
    for text, sentence in {
        "": "cannot be read as a table",
        original + "1,2,3,4,5,6,7,8\n": "cannot be read as a table",
        original + "z/3.png,,g,real,x,NA\n": "rows without label",
    }.items():
        test.write_text(text)
        with pytest.raises(InputError, match=sentence):
            PreparedDataset.load(root)


SYNTHETIC = {
    "format": 1,
    "kind": "synthetic",
    "resolution": 16,
    "data": {"source": "real", "fingerprint": "f"},
}


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    root = tmp_path / "synthetic"
    (root / "train/a").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(root / "train/a/0.png")
    (root / "train/metadata.csv").write_text(
        "file_name,label,group,source,source_sha256\na/0.png,a,0,synthetic,0\n"
    )
    (root / "seen.csv").write_text("source_sha256\n007\n")
    write_json(root / "gate.json", {"format": 1, "classes": {}})
    write_json(root / "dataset.json", SYNTHETIC)
    return root


def test_synthetic_set_opened(synthetic: Path) -> None:
    made = SyntheticSet.load(synthetic)
    assert (made.resolution, made.source, made.data_fingerprint, made.seen.files) == (
        16,
        "real",
        "f",
        {"007"},
    )
    assert made.images()[:].shape == (1, 16, 16, 3)
    with pytest.raises(InputError, match="is a synthetic set, where a prepared dataset is needed"):
        PreparedDataset.load(synthetic)


@pytest.mark.parametrize("kind", ["prepared", "synthetic"])
@pytest.mark.parametrize(
    "damage",
    [
        [],
        None,
        3,
        {},
        {"format": "x"},
        {"format": 1},
        {"format": 1, "kind": ["prepared"]},
        {"format": 1, "kind": "KIND"},
    ],
)
def test_damaged_description_gets_a_sentence(root: Path, synthetic: Path, kind: str, damage: object) -> None:
    opened = {"prepared": (PreparedDataset, root), "synthetic": (SyntheticSet, synthetic)}[kind]
    if isinstance(damage, dict) and damage.get("kind") == "KIND":
        damage = {**damage, "kind": kind}
    write_json(opened[1] / "dataset.json", damage)
    with pytest.raises(InputError, match="damaged|unknown kind"):
        opened[0].load(opened[1])


def test_damaged_synthetic_set_gets_a_sentence(synthetic: Path) -> None:
    write_json(synthetic / "dataset.json", {**SYNTHETIC, "data": {"source": "real"}})
    with pytest.raises(InputError, match="no valid data.fingerprint"):
        SyntheticSet.load(synthetic)
    write_json(synthetic / "dataset.json", SYNTHETIC)
    write_json(synthetic / "gate.json", [])
    with pytest.raises(InputError, match="gate.json is damaged"):
        SyntheticSet.load(synthetic)
    write_json(synthetic / "gate.json", {"classes": {}})
    (synthetic / "seen.csv").unlink()
    with pytest.raises(InputError, match="seen.csv is missing"):
        SyntheticSet.load(synthetic)
