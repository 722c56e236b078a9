"""The gate as a page: verdicts with their reasons, the numbers, and pictures of what was let through and what was not."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from balancer.data import PreparedDataset
from balancer.files import new_directory, write_json, write_mark, write_text
from balancer.pages import data_uri, templates
from balancer.quality.folders import ClassFolders, FolderJudgement
from balancer.quality.gate import GOOD
from balancer.quality.verdicts import kind_of

GATE_JSON, GATE_PAGE = "gate.json", "gate.html"
SHOWN = 12  # pictures of real images and of those that were let through, per class
SHOWN_PER_REASON = 6
SHOWN_COPIES = 8
_WIDEST = 192  # pixels of a picture on the page; larger images are made smaller

# What a metric says, for a reader who knows cells: its name on the page, and its meaning.
WORDS = {
    "kid": ("KID", "distance of the set from real images; 0 is none"),
    "fid": ("FID", "distance, which grows as images get fewer: only to be read beside real-vs-real"),
    "mind": ("MIND", "distance along random directions; smaller is nearer"),
    "precision": ("Precision", "share of the synthetic images that look like some real image"),
    "recall": ("Recall", "share of the real images that look like some synthetic image"),
    "density": ("Density", "how close the synthetic images lie to where real images are dense"),
    "coverage": ("Coverage", "share of the real images that have a synthetic image nearby"),
    "authenticity": ("Authenticity", "share that lies no nearer to a real image than real images lie to each other"),
    "copies": ("Copies", "share that nearly copies a train image"),
    "repeats": ("Repeats", "share that nearly repeats another image of its own set"),
    "vendi": ("Vendi", "how many really different images the set amounts to"),
    "acceptance": ("Acceptance", "share that the checks image by image let through"),
    "label_agreement": ("Label agreement", "share that a judge trained on real images takes for this class"),
}  # fmt: skip


def write_judgement(judged: FolderJudgement, document: Mapping[str, Any], out: Path, overwrite: bool) -> None:
    """Write `out/`: `gate.json` (the `document`) and `gate.html`, whole or not at all.

    Raises InputError when `out` exists and `overwrite` is false.
    """
    page = render(document, judged.candidates, judged.real)
    with new_directory(out, overwrite) as folder:
        write_json(folder / GATE_JSON, document)
        write_text(folder / GATE_PAGE, page)
        write_mark(folder, "gate")


def render(
    document: Mapping[str, Any], candidates: pd.DataFrame, real: PreparedDataset | ClassFolders
) -> str:
    """The page of a `gate.json` document, as HTML that needs no other file, no script and no network.

    `candidates` has a row for each image that was judged: `label`, `path`, `reason` (None or NaN where it was not
    rejected by itself) and `nearest_train` (relative to the real images' folder, None or NaN where there is none).
    Of each kind a few are shown, evenly spaced in the order of the rows. Raises InputError for an unreadable image.
    """
    by_label = dict(list(candidates.groupby("label")))
    return (
        templates("balancer.quality")
        .get_template("gate.html.j2")
        .render(
            features=document["features"],
            number=_number,
            real=real,
            source=real.source if isinstance(real, PreparedDataset) else None,
            classes={
                label: _described(label, judged, by_label.get(label, candidates[:0]), real)
                for label, judged in document["classes"].items()
            },
        )
    )


def _described(
    label: str, judged: Mapping[str, Any], rows: pd.DataFrame, real: PreparedDataset | ClassFolders
) -> dict[str, Any]:
    refused = rows[rows["reason"].notna()]
    left = rows[rows["reason"].isna()]
    named = [
        str(train) in reason
        for train, reason in zip(refused["nearest_train"], refused["reason"], strict=True)
    ]
    copies, others = refused[named], refused[np.logical_not(named)]
    kind, paths = _real_paths(real, label)
    return {
        **judged,
        "good": judged["verdict"] in GOOD,
        "metrics": [_row(name, metric) for name, metric in judged["metrics"].items()],
        "real_kind": kind,
        "real_cells": [_cell(path) for path in _spaced(paths, SHOWN)],
        "left": len(left),
        "left_cells": [_cell(Path(path)) for path in _spaced(list(left["path"]), SHOWN)],
        "n_refused": len(refused),
        "refused": [
            {
                "reason": reason,
                "count": len(group),
                "cells": [
                    _cell(Path(row.path)) | {"why": row.reason}
                    for row in _spaced(list(group.itertuples()), SHOWN_PER_REASON)
                ],
            }
            for reason, group in _by_reason(others)
        ],
        "n_copies": len(copies),
        "copies": [
            {
                "synthetic": _cell(Path(row.path)),
                "train": _cell(_train_path(real, row.nearest_train)),
                "why": row.reason,
            }
            for row in _spaced(list(copies.itertuples()), SHOWN_COPIES)
        ],
    }


def _real_paths(real: PreparedDataset | ClassFolders, label: str) -> tuple[str, list[Path]]:
    """What the real images to look at are, and where: those that the gate compares with, never of test."""
    if isinstance(real, ClassFolders):
        return "all", real.paths(label) if label in real.classes else []
    for kind, splits in (("held out and validation", ("heldout", "validation")), ("train", ("train",))):
        found = [
            real.root / split / name
            for split in splits
            for name in real.tables[split].loc[real.tables[split]["label"] == label, "file_name"]
        ]
        if found:
            return kind, found
    return "none", []


def _train_path(real: PreparedDataset | ClassFolders, name: str) -> Path:
    """The file of a train image by the name that the gate gives it: class folders have no folder `train`."""
    return real.root / (name.removeprefix("train/") if isinstance(real, ClassFolders) else name)


def _by_reason(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows in groups of one kind of reason, the most frequent first."""
    kinds = [kind_of(reason) for reason in rows["reason"]]
    groups = [(str(kind), group) for kind, group in rows.groupby(pd.Series(kinds, rows.index, dtype=object))]
    return sorted(groups, key=lambda item: (-len(item[1]), item[0]))


def _spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))]


def _cell(path: Path) -> dict[str, Any]:
    """A picture as a data URI with its file's name: PNG, made smaller only where it is large."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_WIDEST, _WIDEST))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"uri": data_uri(content.getvalue(), "image/png"), "name": path.name}


def _row(name: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of numbers: words, and where its marks stand on a scale of its own, in per cent."""
    title, meaning = WORDS.get(name, (name.replace("_", " ").capitalize(), ""))
    numbers = {
        "value": metric["value"],
        "ci": metric["ci"],
        "real": metric["real_vs_real"],
        "real_ci": metric.get("real_vs_real_ci"),
        "margin": metric.get("margin"),
    }
    marks = {
        key: number if isinstance(number, list) else [number]
        for key, number in numbers.items()
        if number is not None
    }
    known = [mark for group in marks.values() for mark in group]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    width = (high - low) or 1.0

    def place(mark: float) -> float:
        return round(4 + 92 * (mark - low) / width, 2)

    return {
        "title": title,
        "meaning": meaning,
        **numbers,
        "before": metric.get("before"),
        "note": metric["note"],
        "marks": {key: [place(mark) for mark in marks.get(key, [])] for key in numbers},
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
