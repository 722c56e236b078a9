"""What a prepared dataset holds, and what is wrong with it: counts, duplicates, leaks, shortcuts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedGroupKFold

from balancer.data.dataset import SPLITS, PreparedDataset
from balancer.data.splits import few_images
from balancer.imaging.duplicates import clusters, describe
from balancer.imaging.same_cell import SIDE, duplicate_pairs, pictures
from balancer.imaging.scale import SEEN, STRUCTURES
from balancer.progress import stage, track

# Held-out images may share a group with train or validation, never with test.
_APART = (("train", "validation"), ("train", "test"), ("validation", "test"), ("test", "heldout"))
_FOLDS = 5
_GRID = 10  # the border is the outer cells of a grid of 10×10
_CHUNK = 512
FAR_ABOVE_CHANCE = 0.5  # of the way from chance to 1


@dataclass(frozen=True)
class Shortcut:
    """How well something that is not the cell predicts the label."""

    name: str  # mean colour | border
    balanced_accuracy: float
    chance: float
    images: int
    classes: int
    per_class_recall: dict[str, float]

    @property
    def far_above_chance(self) -> bool:
        """Whether more than half of the way from chance to perfect prediction is made."""
        return self.balanced_accuracy > self.chance + FAR_ABOVE_CHANCE * (1 - self.chance)


@dataclass(frozen=True)
class Findings:
    """What `inspect` found. Images are named split/label/name.png."""

    root: str
    source: str  # real | rendered
    resolution: int
    counts: dict[str, dict[str, int]]  # split → class → images
    imbalance_ratio: float | None  # largest over smallest class of train that has images
    exact_duplicates: list[tuple[str, str]]
    near_duplicates: list[tuple[str, str]]  # exact ones not repeated
    largest_cluster: list[str]
    label_conflicts: list[tuple[str, str]]  # the same picture under two labels
    leaks: list[
        str
    ]  # a sentence each (a group, patient, file or picture in two splits); empty in a sound dataset
    patients: dict[str, dict[str, int]]  # column → class → different values
    source_sizes: dict[str, int]  # "width×height" of the source images → images, most frequent first
    um_per_pixel: tuple[float, float, float] | None  # least, median, largest
    structures: list[
        str
    ]  # what a nucleolus and an Auer rod measure in pixels at the median scale; empty without one
    shortcuts: list[Shortcut]
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return asdict(self)


def inspect(data: PreparedDataset) -> Findings:
    """Look for duplicates, leaks between splits, and shortcuts in a prepared dataset.

    Shortcuts are judged on train, validation and held-out images; test is looked at for duplicates alone.
    """
    stage("Inspecting")
    rows = pd.concat([data.tables[s].assign(split=s) for s in SPLITS], ignore_index=True)
    rows["name"] = rows["split"] + "/" + rows["file_name"]
    seen = [_look(data, split) for split in SPLITS]
    described, colour, border = (np.concatenate([part[i] for part in seen]) for i in range(3))
    shown = np.concatenate([part[4] for part in seen])
    rows["pixels"] = [digest for part in seen for digest in part[3]]

    exact = _equal_pairs(rows, "source_sha256") | _equal_pairs(rows, "pixels")
    near = duplicate_pairs(described, shown) - exact
    same = sorted(exact | near)
    cluster = clusters(len(rows), same)
    largest = np.flatnonzero(cluster == np.bincount(cluster).argmax()) if same else np.empty(0, dtype=int)
    names, labels = rows["name"].tolist(), rows["label"].tolist()

    def named(pairs: Iterable[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(names[i], names[j]) for i, j in sorted(pairs)]

    usable = (rows["split"] != "test").to_numpy()
    shortcuts = [
        found
        for name, features in (("mean colour", colour), ("border", border))
        if (found := probe(name, features[usable], rows["label"][usable], rows["group"][usable])) is not None
    ]
    scale = _scale(rows)
    conflicts = named((i, j) for i, j in same if labels[i] != labels[j])
    train = [n for n in data.counts("train").values() if n]
    findings = Findings(
        root=str(data.root),
        source=data.source,
        resolution=data.resolution,
        counts={split: data.counts(split) for split in SPLITS},
        imbalance_ratio=max(train) / min(train) if train else None,
        exact_duplicates=named(exact),
        near_duplicates=named(near),
        largest_cluster=[names[i] for i in largest],
        label_conflicts=conflicts,
        leaks=_leaks(rows, same),
        patients=_patients(data, rows),
        source_sizes=_source_sizes(rows),
        um_per_pixel=scale,
        structures=[structure.pixels(scale[1]) for structure in STRUCTURES] if scale else [],
        shortcuts=shortcuts,
        warnings=[],
    )
    findings.warnings.extend(_warnings(findings))
    return findings


def _look(
    data: PreparedDataset, split: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Descriptions, mean colours, borders, pixel hashes and small pictures of a split's images."""
    store = data.images(split)
    side = min(16, data.resolution)
    described, colour, border = [np.empty((0, side, side), dtype=np.float32)], [np.empty((0, 3))], []
    border.append(border_colours(np.empty((0, data.resolution, data.resolution, 3), dtype=np.uint8)))
    digests: list[str] = []
    shown = [np.empty((0, SIDE, SIDE, 2), dtype=np.uint8)]
    for start in track(range(0, len(store), _CHUNK), f"Looking at {split}"):
        images = store[np.arange(start, min(start + _CHUNK, len(store)))]
        described.append(describe(images))
        shown.append(pictures(images))
        colour.append(images.mean((1, 2)))
        border.append(border_colours(images))
        digests += [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return (
        np.concatenate(described),
        np.concatenate(colour),
        np.concatenate(border),
        digests,
        np.concatenate(shown),
    )


def border_colours(images: np.ndarray) -> np.ndarray:
    """Mean colours along the outer 10 % of uint8 N×R×R×3 images, in a grid of 10×10: float64 N×108."""
    size = images.shape[1]
    edges = np.linspace(0, size, _GRID + 1).round().astype(int)
    width = np.diff(edges)
    sums = np.add.reduceat(images, edges[:-1], axis=1, dtype=np.float64)
    means = np.add.reduceat(sums, edges[:-1], axis=2) / (width[:, None] * width)[..., None]
    inner = slice(1, _GRID - 1)
    ring = np.ones((_GRID, _GRID), dtype=bool)
    ring[inner, inner] = False
    return means[:, ring].reshape(len(images), 3 * int(ring.sum()))


def probe(name: str, features: np.ndarray, labels: pd.Series, groups: pd.Series) -> Shortcut | None:
    """Predict the label from `features` (N×D) alone: out-of-fold balanced accuracy of a linear discriminant.

    Shrinkage after Ledoit and Wolf, equal priors, five folds that keep groups together. Classes with fewer than
    five groups are left out; None when fewer than two classes remain.
    """
    per_class = groups.groupby(labels).nunique()
    chosen = labels.isin(per_class.index[per_class >= _FOLDS]).to_numpy()
    if labels[chosen].nunique() < 2:
        return None
    x, y, together = features[chosen], labels[chosen].to_numpy(), groups[chosen].to_numpy()
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    classes = np.unique(y)
    predicted = np.empty_like(y)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for learn, judge in folds.split(x, y, together):
        known = len(np.unique(y[learn]))
        model = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=np.full(known, 1 / known)
        ).fit(x[learn], y[learn])
        predicted[judge] = model.predict(x[judge])
    recall = recall_score(y, predicted, labels=classes, average=None)
    return Shortcut(
        name=name,
        balanced_accuracy=float(recall.mean()),
        chance=1 / len(classes),
        images=len(y),
        classes=len(classes),
        per_class_recall={str(c): float(r) for c, r in zip(classes, recall, strict=True)},
    )


def _equal_pairs(rows: pd.DataFrame, column: str) -> set[tuple[int, int]]:
    """Neighbouring pairs of rows with the same value: n equal images give n − 1 pairs, not n²."""
    repeated = rows[rows[column].duplicated(keep=False)]
    return {
        pair
        for _, members in repeated.groupby(column)
        for pair in zip(members.index[:-1].tolist(), members.index[1:].tolist(), strict=True)
    }


def _leaks(rows: pd.DataFrame, same: list[tuple[int, int]]) -> list[str]:
    """Sentences on groups, patients, source files and pictures that lie in two splits which must be apart."""
    pictures = clusters(len(rows), same)
    patients = rows["patient_id"] if "patient_id" in rows else pd.Series(None, index=rows.index, dtype=object)
    leaks = []
    for kind, column in (
        ("group", rows["group"]),
        ("patient", patients.where(patients != "unknown")),
        ("source file", rows["source_sha256"]),
        ("picture", pd.Series(pictures, index=rows.index)),
    ):
        values = {split: set(column[rows["split"] == split].dropna()) for split in SPLITS}
        for a, b in _APART:
            shared = values[a] & values[b]
            if not shared:
                continue
            example = rows.index[column == min(shared)]
            places = [rows["name"][i] for i in example if rows["split"][i] in (a, b)]
            first = next(p for p in places if p.startswith(f"{a}/"))
            second = next(p for p in places if p.startswith(f"{b}/"))
            count = f"{len(shared)} {kind}{'s are' if len(shared) > 1 else ' is'}"
            leaks.append(f"{count} in both {a} and {b}, such as {first} and {second}.")
    return leaks


def _patients(data: PreparedDataset, rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    grouped = data.info.get("splits", {}).get("group_by", [])
    columns = [c for c in dict.fromkeys(["patient_id", *grouped]) if c in rows]
    return {
        column: {
            label: int(rows.loc[(rows["label"] == label) & (rows[column] != "unknown"), column].nunique())
            for label in data.classes
        }
        for column in columns
    }


def _source_sizes(rows: pd.DataFrame) -> dict[str, int]:
    if not {"source_width", "source_height"} <= set(rows):
        return {}
    sizes = Counter(zip(rows["source_width"], rows["source_height"], strict=True))
    return {f"{int(w)}×{int(h)}": n for (w, h), n in sizes.most_common()}


def _scale(rows: pd.DataFrame) -> tuple[float, float, float] | None:
    if "um_per_pixel" not in rows or not rows["um_per_pixel"].notna().any():
        return None
    scale = rows["um_per_pixel"].astype(float)
    return float(scale.min()), float(scale.median()), float(scale.max())


def _warnings(findings: Findings) -> list[str]:
    warnings = [
        f"Shortcut: {s.name} alone predicts the label with a balanced accuracy of {s.balanced_accuracy:.2f} "
        f"(chance {s.chance:.2f}); a classifier may learn the stain or the background instead of the cell."
        for s in findings.shortcuts
        if s.far_above_chance
    ]
    for split in ("train", "validation", "test"):
        empty = [label for label, n in findings.counts[split].items() if not n]
        if empty:
            warnings.append(f"No image in {split}: {', '.join(empty)}; nothing can be said on that there.")
    warnings += few_images(findings.counts)
    if findings.label_conflicts:
        a, b = findings.label_conflicts[0]
        n = len(findings.label_conflicts)
        warnings.append(f"The same picture is under two labels {n} time{'s' * (n > 1)}, first {a} and {b}.")
    for column, by_class in findings.patients.items():
        few = [f"{label} ({n})" for label, n in by_class.items() if n < 5]
        if few:
            warnings.append(
                f"Fewer than 5 values of {column}: {', '.join(few)}; intervals over them mean little."
            )
    if findings.um_per_pixel and not math.isclose(
        findings.um_per_pixel[0], findings.um_per_pixel[2], rel_tol=0.05
    ):
        low, _, high = findings.um_per_pixel
        warnings.append(f"The images have different scales, {low:.3g} to {high:.3g} µm per pixel.")
    if findings.um_per_pixel:
        coarsest = findings.um_per_pixel[2]
        warnings += [
            f"Too coarse to show {structure.name}: its {structure.width:g} µm span {structure.width / coarsest:.2g} px where "
            f"a pixel is {coarsest:.3g} µm wide, and it takes {SEEN:g} px; prepare the images with pixels of "
            f"{structure.width / SEEN:g} µm or less, if the source has them."
            for structure in STRUCTURES
            if not structure.seen(coarsest)
        ]
    return warnings
