"""Suspect labels: images whose label the other real images contradict, by confident learning.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels" (arXiv 1911.00068), as
cleanlab has it, on out-of-fold probabilities of a linear probe on frozen features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.model_selection import StratifiedGroupKFold

from balancer.data import SPLITS, PreparedDataset
from balancer.data.splits import fold_groups
from balancer.errors import InputError
from balancer.progress import stage
from balancer.quality.features import FeatureExtractor
from balancer.quality.probe import FOLDS, fit_linear

# Milder than the gate's probe, which has 64 components: of 1,500 images of 8 classes (PBC) this recognises 86 %, that 79 %.
_COMPONENTS, _C = 256, 0.01
_CHUNK = 4096


@dataclass(frozen=True)
class LabelCheck:
    """What the real images say about the labels of a prepared dataset.

    `table` has a row per judged image, the least believable label first: `rank` (from 1), `file_name`
    (split/label/name.png), `label`, `suggested` (the likeliest other class), `p_label` and `p_suggested` (out-of-fold
    probabilities; classes count evenly in them), `suspect`, `group`, `source_sha256` and, where known, `source_file`.
    """

    data: PreparedDataset
    features: dict[str, str]  # name and sha256 of the extractor
    seed: int
    table: pd.DataFrame
    recall: Mapping[
        str, float | None
    ]  # class → share of its images that the probe recognises; None: not judged
    notes: tuple[str, ...]

    @property
    def suspects(self) -> pd.DataFrame:
        """The rows of the table whose label is contradicted with confidence."""
        return self.table[self.table["suspect"]]

    def describe(self) -> dict[str, Any]:
        """What was judged, with what and how, as JSON values."""
        return {
            "format": 1,
            "kind": "labels",
            "data": {"path": str(self.data.root), "fingerprint": self.data.fingerprint},
            "features": self.features,
            "folds": FOLDS,
            "seed": self.seed,
            "judged": len(self.table),
            "suspect": len(self.suspects),
            "recall": dict(self.recall),
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """`describe`, and the suspects with the columns of the table."""
        return self.describe() | {"suspects": self.suspects.drop(columns="suspect").to_dict("records")}


def check_labels(data: PreparedDataset, extractor: FeatureExtractor, seed: int = 0) -> LabelCheck:
    """Rank the images of all splits, test included, by how far the others contradict their label.

    Nothing that is learned here is kept, so that looking at test images gives nothing away. Groups and patients never
    straddle folds. A class with fewer than 5 groups is not judged, nor suggested; a note says so. Raises InputError
    when fewer than two classes can be judged.
    """
    stage("Judging the labels")
    rows = pd.concat([data.tables[split].assign(split=split) for split in SPLITS], ignore_index=True)
    rows["fold_group"] = fold_groups(rows)
    classes, notes = _judged_classes(data, rows)

    features = np.concatenate([_features(data, split, extractor) for split in SPLITS])
    usable = rows["label"].isin(classes).to_numpy()
    rows, features = rows[usable].reset_index(drop=True), features[usable]
    labels = rows["label"].map({label: k for k, label in enumerate(classes)}).to_numpy(dtype=np.int64)
    probabilities = out_of_fold(features, labels, rows["fold_group"].to_numpy(), seed)

    judged = ~np.isnan(probabilities).any(1)
    if not judged.all():
        alone = ", ".join(sorted(set(rows["label"][~judged])))
        notes.append(
            f"Not judged: {(~judged).sum()} images of {alone}; without their groups no image of the class is left to learn from."
        )
    if len(np.unique(labels[judged])) < 2:
        raise InputError(
            f"The groups of {data.root} cannot be divided so that two classes can be learned from some and judged in "
            "others; more patients or slides of each class are needed."
        )
    rows, labels, probabilities = rows[judged], labels[judged], probabilities[judged]
    order, suspects = rank(labels, probabilities)
    recall = _recall(data, classes, labels, probabilities)
    if weak := [f"{label} ({r:.2f})" for label, r in recall.items() if r is not None and r < 0.5]:
        notes.append(
            f"Fewer than half are recognised of {', '.join(weak)}: what is listed of these classes, or taken for them, says "
            "more about the probe than about the labels."
        )
    return LabelCheck(
        data=data,
        features={"name": extractor.name, "sha256": extractor.sha256},
        seed=seed,
        table=_table(rows, labels, probabilities, classes, order, suspects),
        recall=recall,
        notes=tuple(notes),
    )


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities of each class, from probes that saw nothing of the image's group: float64 N×K in [0, 1].

    `features` is N×d, `labels` int N in [0, K), `groups` int N; five stratified folds. A row is NaN where all other
    images of its class lie in its fold, so that the probe cannot know the class.
    """
    found = np.full((len(labels), labels.max() + 1), np.nan)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learn, judge in folds.split(features, labels, groups):
        known = np.unique(labels[learn])
        judge = judge[np.isin(labels[judge], known)]
        if len(known) >= 2 and len(judge):
            found[judge] = 0
            model = fit_linear(features[learn], labels[learn], seed, _COMPONENTS, _C)
            found[np.ix_(judge, known)] = model.predict_proba(features[judge])
    return found


def rank(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, int]:
    """Order images by how little their label is believed, and say how many of the first are suspect.

    `labels` is int N in [0, K), `probabilities` N×K, out of fold. Returns int64 N, the indices by self-confidence (the
    probability of the label), and the number of label errors that confident learning counts: images that reach the mean
    self-confidence of another class and are likeliest of that class (the off-diagonal of the confident joint).
    """
    confidence = get_label_quality_scores(labels, probabilities, method="self_confidence")
    return np.argsort(confidence, kind="stable"), int(num_label_issues(labels, probabilities))


def _judged_classes(data: PreparedDataset, rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The classes with a group for every fold, and a note on the others; InputError with fewer than two."""
    groups = {label: rows.loc[rows["label"] == label, "fold_group"].nunique() for label in data.classes}
    classes = [label for label, n in groups.items() if n >= FOLDS]
    if len(classes) < 2:
        found = ", ".join(f"{label} {n}" for label, n in groups.items()) or "no class"
        raise InputError(
            f"The labels of {data.root} cannot be judged: that takes two classes with images in at least {FOLDS} groups "
            f"each (patients, slides, or images that stand alone), and it has {found}."
        )
    few = ", ".join(f"{label} ({n})" for label, n in groups.items() if n < FOLDS)
    notes = [f"Not judged, with images in fewer than {FOLDS} groups: {few}."] if few else []
    if data.source == "rendered":
        notes.append(
            "These are rendered cells, whose labels are what they were drawn as: a suspect only looks like another class."
        )
    return classes, notes


def _features(data: PreparedDataset, split: str, extractor: FeatureExtractor) -> np.ndarray:
    store = data.images(split)
    parts = [
        extractor(store[np.arange(start, min(start + _CHUNK, len(store)))])
        for start in range(0, len(store), _CHUNK)
    ]
    return np.concatenate([np.empty((0, extractor.dimension), dtype=np.float32), *parts])


def _table(
    rows: pd.DataFrame,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    order: np.ndarray,
    suspects: int,
) -> pd.DataFrame:
    every = np.arange(len(labels))
    others = probabilities.copy()
    others[every, labels] = -1
    suggested = others.argmax(1)
    table = pd.DataFrame(
        {
            "file_name": (rows["split"] + "/" + rows["file_name"]).to_numpy(),
            "label": rows["label"].to_numpy(),
            "suggested": np.array(classes)[suggested],
            "p_label": probabilities[every, labels].round(4),
            "p_suggested": probabilities[every, suggested].round(4),
            **{
                name: rows[name].to_numpy()
                for name in ("group", "source_sha256", "source_file")
                if name in rows
            },
        }
    ).iloc[order]
    table.insert(0, "rank", every + 1)
    table.insert(6, "suspect", every < suspects)
    return table.reset_index(drop=True)


def _recall(
    data: PreparedDataset, classes: list[str], labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, float | None]:
    recall: dict[str, float | None] = dict.fromkeys(data.classes)
    for k, label in enumerate(classes):
        if (labels == k).any():
            recall[label] = round(float((probabilities[labels == k].argmax(1) == k).mean()), 4)
    return recall
