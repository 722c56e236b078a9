"""The prepared dataset on disk: splits of class folders, `metadata.csv` in each split, `dataset.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from balancer.data.images import ImageStore
from balancer.data.sources import MASKS
from balancer.errors import InputError, unknown_name
from balancer.files import read_json

FORMAT = 1
SPLITS = ("train", "validation", "test", "heldout")
TREATMENT = ("crop", "to_um_per_pixel", "stain")  # what `prepare` did to every image, beside its resolution
COLUMNS = ("file_name", "label", "group", "source", "source_sha256")
Kind = Literal["prepared", "synthetic"]
_NAMES = {"prepared": "prepared dataset", "synthetic": "synthetic set"}
_MAKE = {"prepared": "balancer prepare", "synthetic": "balancer synth"}
_FIELDS: dict[str, dict[str, type]] = {
    "prepared": {"classes": list, "resolution": int, "source": str, "fingerprint": str},
    "synthetic": {"resolution": int, "data.source": str, "data.fingerprint": str},
}


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
        """Open a prepared dataset.

        Raises InputError when it is none, is newer than this code, is damaged, or when the rows of its tables are no
        longer those that `prepare` wrote: they must give the fingerprint in `dataset.json` again.
        """
        root = Path(root)
        info = read_description(root, "prepared")
        classes = tuple(map(str, info["classes"]))
        tables = {split: read_table(root / split / "metadata.csv") for split in SPLITS}
        for split, table in tables.items():
            unknown = sorted(set(table["label"]) - set(classes))
            if unknown:
                raise InputError(
                    f"{root / split / 'metadata.csv'} has the label '{unknown[0]}', which dataset.json does not know "
                    f"({', '.join(classes)}); prepare the dataset again."
                )
        rows = pd.concat([table.assign(split=split) for split, table in tables.items()])
        if (
            fingerprint(zip(rows["split"], rows["label"], rows["source_sha256"], strict=True))
            != info["fingerprint"]
        ):
            raise InputError(
                f"{root}/*/metadata.csv was changed after `balancer prepare`: its rows do not give the fingerprint in "
                "dataset.json; prepare the dataset again."
            )
        return cls(
            root=root,
            classes=classes,
            resolution=info["resolution"],
            source=info["source"],
            fingerprint=info["fingerprint"],
            info=info,
            tables=tables,
        )

    @property
    def treatment(self) -> dict[str, Any]:
        """How `prepare` treated every image, by the names of `TREATMENT`: what the fingerprint does not tell."""
        return {name: self.info.get(name) for name in TREATMENT}

    def treated_otherwise(self, treatment: Mapping[str, Any] | None) -> str:
        """The options of `prepare` in which another set's `treatment` differs from this one's, as text; "" for none.

        A set of before there were such records has no treatment (None), and differs in nothing that is known.
        """
        if treatment is None:
            return ""
        own = self.treatment
        return ", ".join(f"--{name.replace('_', '-')}" for name in own if own[name] != treatment.get(name))

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

    def mask_paths(self, split: str) -> list[Path | None]:
        """Paths of the masks in the order of `tables[split]`, None for an image without one."""
        masks = self.root / MASKS / split
        known = masks.is_dir()
        paths = [masks / name for name in self.tables[split]["file_name"]]
        return [path if known and path.is_file() else None for path in paths]

    def labels(self, split: str) -> np.ndarray:
        """Class indices, int64, in the order of `tables[split]`."""
        index = {label: i for i, label in enumerate(self.classes)}
        return self.tables[split]["label"].map(index).to_numpy(dtype=np.int64)

    def images(self, split: str) -> ImageStore:
        """The split's images in the order of `tables[split]`."""
        return ImageStore(self.paths(split), self.resolution, self.mask_paths(split))

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


def read_description(root: Path, kind: Kind) -> dict[str, Any]:
    """Read the `dataset.json` of a set of this kind.

    Raises InputError when it is missing, of another kind, newer than this code, or damaged.
    """
    path, again = root / "dataset.json", f"make the set again with `{_MAKE[kind]}`"
    if not path.is_file():
        raise InputError(f"{root} is no {_NAMES[kind]} (no dataset.json); make one with `{_MAKE[kind]}`.")
    info = read_json(path)
    version = _field(info, "format")
    if not isinstance(version, int):
        raise InputError(f"{path} is damaged or foreign (it names no format); {again}.")
    if version > FORMAT:
        raise InputError(
            f"{root} has dataset format {version}, this version reads up to {FORMAT}; update hemabalance."
        )
    if info.get("kind") != kind:
        name = _NAMES.get(str(info.get("kind")))
        found = f"a {name}" if name else "of an unknown kind"
        raise InputError(f"{root} is {found}, where a {_NAMES[kind]} is needed.")
    wrong = [name for name, expected in _FIELDS[kind].items() if not isinstance(_field(info, name), expected)]
    if wrong:
        raise InputError(f"{path} is damaged (no valid {', '.join(wrong)}); {again}.")
    return info


def _field(info: Any, name: str) -> Any:
    """The value at a dotted name, None where there is none."""
    for part in name.split("."):
        info = info.get(part) if isinstance(info, dict) else None
    return info


def read_table(path: Path, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Read one of a set's CSV files; the contract's columns, `patient_id` and `perceptual_hash` are texts.

    Raises InputError when it is missing, cannot be read, lacks one of `columns` or has a row without a value there.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; make the set again.")
    texts = dict.fromkeys([*COLUMNS, "patient_id", "perceptual_hash"], str)
    try:
        table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # pandas' errors of parsing are ValueErrors
        raise InputError(f"{path} cannot be read as a table ({error}); make the set again.") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}; make the set again.")
    gaps = [name for name in columns if table[name].isna().any()]
    if gaps:
        raise InputError(f"{path} has rows without {', '.join(gaps)}; make the set again.")
    return table
