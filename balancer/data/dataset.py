"""The prepared dataset on disk: splits of class folders, `metadata.csv` in each split, `dataset.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balancer.data.images import ImageStore
from balancer.errors import InputError, unknown_name
from balancer.files import read_json

FORMAT = 1
SPLITS = ("train", "validation", "test", "heldout")
COLUMNS = ("file_name", "label", "group", "source", "source_sha256")


def fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    """SHA-256 (hex) over the sorted rows (split, label, source_sha256): the identity of a prepared dataset.

    It does not depend on resolution or file names, since source_sha256 is of the source file's bytes.
    """
    lines = sorted(",".join(row) for row in rows)
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, opened. `classes` are in the order of the class indices."""

    root: Path
    classes: tuple[str, ...]
    resolution: int
    source: str  # real | rendered
    fingerprint: str
    info: dict[str, Any] = field(repr=False)
    tables: dict[str, pd.DataFrame] = field(repr=False)  # by split; file_name relative to the split's folder

    @classmethod
    def load(cls, root: Path) -> PreparedDataset:
        """Open a prepared dataset; raise InputError when it is none, is newer than this code, or is damaged."""
        root = Path(root)
        if not (root / "dataset.json").is_file():
            raise InputError(
                f"{root} is no prepared dataset (no dataset.json); make one with `balancer prepare`."
            )
        info = read_json(root / "dataset.json")
        if info.get("format", 0) > FORMAT:
            raise InputError(
                f"{root} has dataset format {info['format']}, this version reads up to {FORMAT}; update hemabalance."
            )
        if info.get("kind") != "prepared":
            raise InputError(f"{root} is a {info.get('kind')} set, where a prepared dataset is needed.")
        tables = {split: read_metadata(root / split) for split in SPLITS}
        return cls(
            root=root,
            classes=tuple(info["classes"]),
            resolution=int(info["resolution"]),
            source=info["source"],
            fingerprint=info["fingerprint"],
            info=info,
            tables=tables,
        )

    def class_index(self, label: str) -> int:
        """The index of a class; InputError with the known ones and the nearest when it does not exist."""
        if label not in self.classes:
            raise unknown_name("class", label, self.classes)
        return self.classes.index(label)

    def counts(self, split: str) -> dict[str, int]:
        """Number of images per class, every class present."""
        found = self.tables[split]["label"].value_counts()
        return {label: int(found.get(label, 0)) for label in self.classes}

    def paths(self, split: str) -> list[Path]:
        """Image paths in the order of `tables[split]`."""
        return [self.root / split / name for name in self.tables[split]["file_name"]]

    def labels(self, split: str) -> np.ndarray:
        """Class indices, int64, in the order of `tables[split]`."""
        index = {label: i for i, label in enumerate(self.classes)}
        return self.tables[split]["label"].map(index).to_numpy(dtype=np.int64)

    def images(self, split: str) -> ImageStore:
        """The split's images in the order of `tables[split]`."""
        return ImageStore(self.paths(split), self.resolution)

    def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
        """All images of one class in the given splits: uint8 N×R×R×3, and their rows with a column `split`."""
        self.class_index(label)
        rows = []
        for split in splits:
            table = self.tables[split]
            rows.append(table[table["label"] == label].assign(split=split))
        table = pd.concat(rows, ignore_index=True)
        paths = [
            self.root / split / name for split, name in zip(table["split"], table["file_name"], strict=True)
        ]
        return ImageStore(paths, self.resolution)[:], table


def read_metadata(folder: Path) -> pd.DataFrame:
    """Read `metadata.csv` of one split; texts stay texts. InputError when it is missing or lacks a column."""
    path = folder / "metadata.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing; prepare the dataset again.")
    table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False, na_values=[""])
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}; prepare the dataset again.")
    return table
