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
    assert "| 0.899 (" in row and "| 0.900 (" in row and "| 0.000 / 0.050 | 60 |" in row
    assert "all_idb2 (100 test images)" in page and "seeds)" not in row
    one = tables.page(made[0])
    assert "| 0.899 (1 seed) |" in one
