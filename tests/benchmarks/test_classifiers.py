"""The benchmark of classifiers on small rendered sets: what it does, does not do twice, and says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from balancer import smear
from benchmarks.classifiers import study, tables
from benchmarks.classifiers.study import Training, do, subset, trainings
from benchmarks.kept import Kept


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a source "own" and another, "other", that lacks a class."""
    smear.write_source(tmp_path / "sets/own", {"neutrophil": 20, "lymphocyte": 20, "CLL": 20}, 32, seed=0)
    smear.write_source(tmp_path / "sets/other", {"neutrophil": 12, "lymphocyte": 12}, 32, seed=1)
    monkeypatch.setattr(study, "SETS", {"own": ("own", {"CLL": 6}, ()), "other": ("other", {}, ())})
    monkeypatch.setattr(study, "STEPS", {"own": 2, "other": 2})
    monkeypatch.setattr(study, "UNSEEN", {"own": "other"})
    monkeypatch.setattr(study, "RESOLUTION", 32)
    return tmp_path


def test_a_training_gives_a_table_that_need_not_be_made_again(small: Path) -> None:
    unit = Training("entries", "own", "resnet18", (("arch", "resnet18"),), seed=0)
    table = do(unit, small / "sets", small / "out")
    own, other = table[table["test"] == "own"], table[table["test"] == "other"]
    assert len(other) == 24 and set(other["label"]) <= {1, 2} and set(own["label"]) == {0, 1, 2}
    assert table["confidence"].between(1 / 3, 1).all() and (table["classes"] == 3).all()
    assert table["validation_macro_f1"].between(0, 1).all()
    kept = Kept(small / "out", small / "carried.parquet")
    assert unit.key not in kept.done()
    kept.add(table)
    assert unit.key in kept.done()
    kept.carry(kept.read({unit.key}))
    elsewhere = Kept(small / "elsewhere", small / "carried.parquet")
    assert unit.key in elsewhere.done() and len(elsewhere.read({unit.key})) == len(table)
    assert elsewhere.read({"another"}).empty
    assert len({unit.key, replace(unit, seed=1).key, replace(unit, share=0.1).key}) == 3


def test_every_stage_has_three_seeds_and_no_training_twice() -> None:
    for stage in study.STAGES:
        of = list(trainings(stage))
        assert len({unit.key for unit in of}) == len(of)
        for seed in (1, 2):
            settings = [unit.settings for unit in of if unit.seed == seed]
            assert settings and all(other in [u.settings for u in of if u.seed == 0] for other in settings)


def test_what_two_stages_ask_for_is_one_training() -> None:
    def key(stage: str, dataset: str, name: str) -> str:
        return next(u.key for u in trainings(stage) if (u.dataset, u.name, u.seed) == (dataset, name, 0))

    own = key("entries", "pbc-15", study.COMPARED)
    assert key("remedies", "pbc-15", "balanced-sampling") == key("preprocessing", "pbc-15", "none") == own
    assert key("remedies", "pbc-15", "unbalanced") != own


def test_a_share_of_the_labels_is_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 3])
    rows = subset(labels, 0.1, seed=0)
    assert np.bincount(labels[rows]).tolist() == [10, 5, 1]
    assert (rows == subset(labels, 0.1, seed=0)).all() and (rows != subset(labels, 0.1, seed=1)).any()
    assert len(subset(labels, 1.0, seed=0)) == 153


def test_the_page_gives_known_values() -> None:
    labels = np.repeat([0, 1], 50)
    wrong = labels.copy()
    wrong[:10] = 1
    made = [
        pd.DataFrame(
            {
                "key": unit.key, "test": "all_idb2", "label": labels, "group": np.arange(100).astype(str),
                "predicted": wrong, "confidence": 0.9, "calibrated": 0.95, "classes": 2, "validation_macro_f1": 0.8,
                "seconds": 60.0, "code": "",
            }
        )
        for unit in trainings("entries")
        if (unit.dataset, unit.name) == ("all_idb2", "swin")
    ]  # fmt: skip
    page = tables.page(pd.concat(made, ignore_index=True))
    (row,) = (line for line in page.splitlines() if line.startswith("| `swin`"))
    assert "| 0.899 (" in row and "| 0.900 (" in row and "| 0.000 (0.000 to " in row and "| 0.050 (" in row
    assert "all_idb2 (100 test images)" in page and "seeds)" not in row
    one = tables.page(made[0])
    assert "| 0.899 (1 seed) |" in one and one.splitlines()[-1].endswith("| 0.000 | 0.050 |")


def made(unit: Training, test: str, right: int) -> pd.DataFrame:
    """Predictions of 100 images of two classes, of which so many of the first are right."""
    labels = np.repeat([0, 1], 50)
    predicted = np.where(np.arange(100) < 50 - right, 1, labels)
    return pd.DataFrame(
        {
            "key": unit.key, "test": test, "label": labels, "group": np.arange(100).astype(str), "predicted": predicted,
            "confidence": 0.9, "calibrated": 0.95, "classes": 2, "validation_macro_f1": 0.8, "seconds": 60.0, "code": "",
        }
    )  # fmt: skip


def test_settings_are_compared_image_by_image() -> None:
    tables_of = []
    for unit in trainings("remedies"):
        if unit.name in ("unbalanced", "focal"):
            tables_of.append(made(unit, "pbc-15", 30 if unit.name == "unbalanced" else 50))
    page = tables.page(pd.concat(tables_of, ignore_index=True))
    of = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| `")}
    f1 = (2 * 30 / 80 + 2 * 50 / 120) / 2
    assert of["| `unbalanced`"].startswith(f"| `unbalanced` | {f1:.3f} (") and of["| `unbalanced`"].endswith(
        "|  |"
    )
    assert f"| {1 - f1:+.3f} (+" in of["| `focal`"] and of["| `focal`"].startswith("| `focal` | 1.000 (")


def test_the_unseen_set_is_told_as_ever_and_with_other_stains() -> None:
    units = [u for u in trainings("entries") if (u.dataset, u.name) == ("pbc", "swin")]
    others = [u for u in trainings("stain") if u.name == "swin"]
    rows = [made(u, test, 40 if test == "pbc" else 10) for u in units for test in ("pbc", "segwbc")]
    rows += [made(u, test, 40 if test == "pbc" else 20) for u in others for test in ("pbc", "segwbc")]
    rows += [
        made(u, "pbc", 45) for u in trainings("stain") if u.name.endswith("reinhard")
    ]  # the rest is yet to come
    page = tables.page(pd.concat(rows, ignore_index=True))
    found = [line for line in page.split("## Stain")[1].splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[:2] for line in found] == [
        ["| `swin`", "as ever"],
        ["| `swin`", "stain augmentation"],
    ]
    assert f"| {(2 * 10 / 60 + 2 * 50 / 140) / 2:.3f} (" in found[0] and "| 0.600 (" in found[0]
    assert "| 0.700 (" in found[1]
