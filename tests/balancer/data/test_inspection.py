from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from balancer.data.dataset import SPLITS, PreparedDataset, fingerprint
from balancer.data.inspection import border_colours, inspect, probe
from balancer.data.prepare import prepare
from balancer.files import read_json, write_json


def noise(seed: int, shift: float = 0.0, ring: float = 0.0) -> np.ndarray:
    image = np.random.default_rng(seed).normal(128 + shift, 30, (32, 32, 3))
    image[[0, 1, 2, -3, -2, -1]] += ring
    image[3:-3, [0, 1, 2, -3, -2, -1]] += ring
    if ring:  # the same mean colour, so that the border alone gives it away
        image[3:-3, 3:-3] -= ring * (32**2 - 26**2) / 26**2
    return np.clip(image, 0, 255).astype(np.uint8)


def dataset(tmp_path: Path, shift: float = 0.0, ring: float = 0.0, **options: object) -> PreparedDataset:
    for k, label in enumerate(("a", "b")):
        (tmp_path / "s" / label).mkdir(parents=True)
        for i in range(40):
            sign = 2 * k - 1
            Image.fromarray(noise(100 * k + i, sign * shift, sign * ring)).save(
                tmp_path / f"s/{label}/{i}.png"
            )
    prepare(tmp_path / "s", tmp_path / "out", **options)  # type: ignore[arg-type]
    return PreparedDataset.load(tmp_path / "out")


def seal(root: Path) -> None:
    """Make the tables' rows give the fingerprint again, as if `prepare` had written them."""
    tables = {split: pd.read_csv(root / split / "metadata.csv", dtype=str) for split in SPLITS}
    rows = [(s, *row) for s, t in tables.items() for row in zip(t["label"], t["source_sha256"], strict=True)]
    write_json(root / "dataset.json", {**read_json(root / "dataset.json"), "fingerprint": fingerprint(rows)})


def test_nothing_is_wrong_with_noise(tmp_path: Path) -> None:
    findings = inspect(dataset(tmp_path, ratios=(0.5, 0.25, 0.25)))
    assert findings.leaks == [] and findings.exact_duplicates == [] and findings.near_duplicates == []
    assert findings.largest_cluster == [] and findings.warnings == []
    assert findings.imbalance_ratio == 1
    assert findings.source_sizes == {"32×32": 80}
    assert [s.name for s in findings.shortcuts] == ["mean colour", "border"]
    for shortcut in findings.shortcuts:
        assert shortcut.chance == 0.5 and abs(shortcut.balanced_accuracy - 0.5) < 0.2
    json.dumps(findings.to_json(), allow_nan=False)


def test_colour_shortcut_is_named(tmp_path: Path) -> None:
    findings = inspect(dataset(tmp_path, shift=20))
    assert findings.shortcuts[0].balanced_accuracy > 0.95
    assert any("mean colour alone" in sentence for sentence in findings.warnings)


def test_border_shortcut_is_named(tmp_path: Path) -> None:
    colour, border = inspect(dataset(tmp_path, ring=25)).shortcuts
    assert border.far_above_chance and not colour.far_above_chance


def test_probe_agrees_with_another_linear_classifier() -> None:
    rng = np.random.default_rng(0)
    labels = pd.Series(rng.choice(["a", "b", "c"], 900, p=[0.6, 0.3, 0.1]))
    features = rng.normal(size=(900, 3)) + labels.map({"a": 0.0, "b": 1.5, "c": 3.0}).to_numpy()[:, None]
    found = probe("x", features, labels, pd.Series(np.arange(900)))
    model = LogisticRegression(class_weight="balanced")
    predicted = cross_val_predict(model, features, labels, cv=5)
    recall = [(predicted[labels == c] == c).mean() for c in "abc"]
    assert found is not None
    assert found.balanced_accuracy == pytest.approx(np.mean(recall), abs=0.03)
    assert list(found.per_class_recall) == ["a", "b", "c"]


def test_probe_needs_groups() -> None:
    labels = pd.Series(["a"] * 20 + ["b"] * 20)
    assert probe("x", np.zeros((40, 3)), labels, pd.Series([0] * 20 + [1] * 20)) is None


def test_border_is_the_outer_tenth() -> None:
    images = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    images[:, 4:-4, 4:-4] = 255
    images[1, :4, :4] = 80
    found = border_colours(images)
    assert found.shape == (2, 108) and (found[0] == 0).all() and found[1].sum() == 3 * 80


def test_leaks_are_found(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    train = data.tables["train"]
    test = data.root / "test"
    copied = data.paths("train")[0]
    Image.open(copied).transpose(Image.Transpose.ROTATE_90).save(test / "a/turned.png")
    row = train.iloc[[0]].assign(file_name="a/turned.png", source_sha256="0" * 64)
    pd.concat([data.tables["test"], row]).to_csv(test / "metadata.csv", index=False)
    seal(data.root)
    findings = inspect(PreparedDataset.load(data.root))
    assert len(findings.leaks) == 2
    assert findings.leaks[0].startswith("1 group is in both train and test")
    assert findings.leaks[1].startswith("1 picture is in both train and test")
    assert findings.near_duplicates == [(f"train/{train['file_name'][0]}", "test/a/turned.png")]


def test_held_out_may_share_groups_with_train_but_not_with_test(tmp_path: Path) -> None:
    data = dataset(tmp_path, limits={"a": 5})
    held = data.tables["heldout"]
    train, test = data.tables["train"], data.tables["test"]
    held.assign(group=train["group"][0]).to_csv(data.root / "heldout/metadata.csv", index=False)
    assert inspect(PreparedDataset.load(data.root)).leaks == []
    held.assign(group=test["group"][0]).to_csv(data.root / "heldout/metadata.csv", index=False)
    leaks = inspect(PreparedDataset.load(data.root)).leaks
    assert len(leaks) == 1 and "both test and heldout" in leaks[0]


def test_a_patient_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    for k, split in enumerate(("train", "validation", "test")):
        table = data.tables[split].assign(patient_id=[f"{split}{i}" for i in range(len(data.tables[split]))])
        table.loc[0, "patient_id"] = "7" if split != "validation" else "unknown"
        table.loc[1, "patient_id"] = "unknown" if k else None
        table.to_csv(data.root / split / "metadata.csv", index=False)
    leaks = inspect(PreparedDataset.load(data.root)).leaks
    assert len(leaks) == 1 and leaks[0].startswith("1 patient is in both train and test, such as train/a/")


def test_few_images_are_warned_of(tmp_path: Path) -> None:
    warnings = inspect(dataset(tmp_path, limits={"a": 9})).warnings
    assert any(w.startswith("Fewer than 10 images in train: a (9);") for w in warnings)
    assert any(w.startswith("Fewer than 10 images in test: a (6), b (6);") for w in warnings)


def test_patients_and_scale(tmp_path: Path) -> None:
    files = [f"{label}/{i}.png" for label in "ab" for i in range(40)]
    (tmp_path / "s").mkdir()
    patients = [f"P{i % 20}" if i < 40 else f"Q{i % 4}" for i in range(80)]
    table = {"file_name": files, "patient_id": patients, "um_per_pixel": [0.1] * 40 + [0.2] * 40}
    pd.DataFrame(table).to_csv(tmp_path / "s/metadata.csv", index=False)
    findings = inspect(dataset(tmp_path, group_by=["patient_id"]))
    assert findings.patients == {"patient_id": {"a": 20, "b": 4}}
    assert findings.um_per_pixel == pytest.approx((0.1, 0.15, 0.2))
    assert any("patient_id: b (4)" in sentence for sentence in findings.warnings)
    assert any("different scales" in sentence for sentence in findings.warnings)


def test_all4_has_a_shortcut(real_data: Path, tmp_path: Path) -> None:
    for folder in (real_data / "all4").iterdir():
        (tmp_path / "s" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:100]:
            (tmp_path / "s" / folder.name / file.name).symlink_to(file)
    prepare(tmp_path / "s", tmp_path / "out", resolution=32)
    findings = inspect(PreparedDataset.load(tmp_path / "out"))
    assert any(sentence.startswith("Shortcut") for sentence in findings.warnings)
    assert findings.near_duplicates and findings.leaks == []


@pytest.mark.parametrize(
    ("um_per_pixel", "unseen"),
    [(0.1, []), (0.25, []), (0.3, ["an Auer rod"]), (0.6, ["a nucleolus", "an Auer rod"])],
)
def test_what_cannot_be_seen_at_the_scale_is_warned_of(
    tmp_path: Path, um_per_pixel: float, unseen: list[str]
) -> None:
    findings = inspect(dataset(tmp_path, um_per_pixel=um_per_pixel))
    assert findings.um_per_pixel == pytest.approx((um_per_pixel,) * 3)
    assert [sentence.split(" (")[0] for sentence in findings.structures] == ["a nucleolus", "an Auer rod"]
    warned = [sentence for sentence in findings.warnings if sentence.startswith("Too coarse to show")]
    assert [sentence.split(": ")[0].removeprefix("Too coarse to show ") for sentence in warned] == unseen


def test_without_a_scale_nothing_is_said_of_structures(tmp_path: Path) -> None:
    findings = inspect(dataset(tmp_path))
    assert findings.um_per_pixel is None and findings.structures == []
