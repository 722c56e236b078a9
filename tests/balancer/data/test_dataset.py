from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.data.dataset import SPLITS, PreparedDataset, fingerprint
from balancer.errors import InputError
from balancer.files import read_json, write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset written by hand: classes in an order that is not the alphabet's."""
    for k, split in enumerate(SPLITS):
        rows = []
        for label, n in (("z", 2), ("a", k)):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(n):
                name = f"{label}/{i}.png"
                Image.new("RGB", (16, 16), (k, i, 7)).save(tmp_path / split / name)
                rows.append((name, label, f"g{i}", "real", f"{k}{i}{label}", "NA"))
        columns = ["file_name", "label", "group", "source", "source_sha256", "note"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / split / "metadata.csv", index=False)
    info = {"format": 1, "kind": "prepared", "classes": ["z", "a"], "resolution": 16}
    write_json(tmp_path / "dataset.json", {**info, "source": "real", "fingerprint": "f"})
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
