"""What `prepare` reads: class folders, a CSV or JSON-lines table, a zip of either, or MedMNIST's npz."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balancer.data.wording import number, some
from balancer.errors import InputError, unknown_name

IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm", ".jp2"),
}
TABLES = ("metadata.csv", "metadata.jsonl")
MASKS = "masks"
SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"},
    **{"test": "test", "testing": "test", "eval": "test", "evaluation": "test"},
    "heldout": "heldout",
}
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')


@dataclass(frozen=True)
class Source:
    """The images of a source before any is decoded.

    `table` has the columns `path` (absolute), `source_file` (as the user knows it), `label`, `split` (None where
    the source names none), `mask` (path or None), and the source's further columns as texts.
    """

    table: pd.DataFrame
    kind: str  # real | rendered
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_source(path: Path, label_column: str | None = None, mapping: Path | None = None) -> Iterator[Source]:
    """Read what a source holds; archives are unpacked to a temporary folder for the duration of the context.

    `path` is a folder (class folders of any depth, the first level being the label; or with `metadata.csv` or
    `metadata.jsonl`, whose `file_name` is relative to the table), a table itself, a `.zip` of such a folder, or an
    `.npz` in MedMNIST's layout. Labels come from `label_column` if given, else from a column `label`, else from
    the folders; `mapping` (CSV with columns from,to, or a JSON object) renames or merges them, and an empty target
    leaves a label out. Folders named train, val/validation, test above the labels, or a column `split`, are the
    source's own splits. `masks/` beside the class folders mirrors them. Raises InputError.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder, CSV, zip or npz file with images.")
    with tempfile.TemporaryDirectory(prefix="hemabalance-") as temporary:
        suffix = path.suffix.lower()
        if path.is_dir():
            table, notes = read_folder(path)
        elif suffix in {".csv", ".jsonl"}:
            table, notes = read_listing(path, "")
        elif suffix == ".zip":
            table, notes = read_folder(_unzip(path, Path(temporary)))
        elif suffix == ".npz":
            table, notes = _read_npz(path, Path(temporary))
        else:
            raise InputError(
                f"{path} is no source of images; give a folder, or a .csv, .jsonl, .zip or .npz file."
            )
        yield _finish(path, table, notes, label_column, mapping)


def printable(text: str) -> str:
    """With escapes for what is not UTF-8, which the name of a file may hold and no table or JSON can."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))


def read_folder(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """All images under a folder, with the split and label that their folders name."""
    inside = [p for p in _visible(root) if p.is_dir() and p.name != MASKS]
    if inside and all(p.name.lower() in SPLIT_NAMES for p in inside) and not _table_in(root):
        parts = [_read_labelled(p, f"{p.name}/") for p in inside]
        table = pd.concat(
            [part.assign(split=p.name) for p, (part, _) in zip(inside, parts, strict=True)],
            ignore_index=True,
        )
        masks, notes = root, [sentence for _, found in parts for sentence in found]
    else:
        table, notes = _read_labelled(root, "")
        masks = root
    return _with_masks(table, masks / MASKS), notes


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _read_labelled(folder: Path, prefix: str) -> tuple[pd.DataFrame, list[str]]:
    found = _table_in(folder)
    if found:
        return read_listing(found, prefix)
    rows, others, loose = [], [], []
    for at, folders, files in os.walk(folder, followlinks=True):
        here = Path(at)
        folders[:] = sorted(
            d
            for d in folders
            if not d.startswith((".", "__MACOSX"))
            and (here != folder or d != MASKS)
            and not here.resolve().is_relative_to((here / d).resolve())  # a link to a folder above
        )
        for name in sorted(files):
            relative = (here / name).relative_to(folder)
            if name.startswith(".") or name in {"Thumbs.db", "dataset.json"}:
                continue
            if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                others.append(relative.as_posix())
            elif len(relative.parts) == 1:
                loose.append(relative.as_posix())
            else:
                rows.append((here / name, prefix + relative.as_posix(), printable(relative.parts[0])))
    notes = []
    if others:
        are = number(len(others), "file is no image by its", "files are no images by their")
        notes.append(f"{are} suffix; left out: {some(others)}.")
    if loose:
        lie = number(len(loose), "image lies", "images lie")
        notes.append(f"{lie} in no class folder; left out: {some(loose)}.")
    return pd.DataFrame(rows, columns=["path", "source_file", "label"], dtype=object), notes


def read_listing(path: Path, prefix: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a CSV or JSON-lines table; every further column is kept as text."""
    try:
        if path.suffix.lower() == ".jsonl":
            lines = path.read_text("utf-8-sig").splitlines()
            records = [json.loads(line, object_pairs_hook=_record) for line in lines if line.strip()]
            table = pd.DataFrame(
                [{k: None if v is None else str(v) for k, v in record.items()} for record in records],
                dtype=object,
            )
        else:
            settings: Any = {
                "dtype": str,
                "keep_default_na": False,
                "na_values": [""],
                "encoding": "utf-8-sig",
            }
            header = pd.read_csv(path, header=None, nrows=1, **settings)
            _check_once([name for name in header.iloc[0] if isinstance(name, str)])
            table = pd.read_csv(path, **settings).astype(object)
    except (ValueError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table ({error}).") from None
    if "file_name" not in table:
        raise InputError(
            f"{path} has no column file_name (its columns: {', '.join(map(str, table.columns)) or 'none'})."
        )
    unnamed = table["file_name"].isna()
    notes = []
    if unnamed.any():
        have = f"row of {path.name} has", f"rows of {path.name} have"
        notes.append(f"{number(int(unnamed.sum()), *have)} no file_name; left out.")
    table = table[~unnamed].reset_index(drop=True)
    names = table["file_name"].str.replace("\\", "/")
    table["path"] = pd.Series([path.parent / name for name in names], dtype=object)
    table["source_file"] = prefix + names
    if "label" not in table:
        parents = [Path(name).parts for name in names]
        table["label"] = pd.Series([parts[0] if len(parts) > 1 else None for parts in parents], dtype=object)
    listed = {os.path.normpath(p) for p in table["path"]}
    unlisted = [
        p
        for p in path.parent.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and MASKS not in p.relative_to(path.parent).parts[:1]
        and os.path.normpath(p) not in listed
    ]
    if unlisted:
        names_of = [p.relative_to(path.parent).as_posix() for p in sorted(unlisted)]
        are = number(len(unlisted), "image is", "images are")
        notes.append(f"{are} not listed in {path.name}; left out: {some(names_of)}.")
    return table.drop(columns="file_name"), notes


def _record(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON line; ValueError for what stands twice, or is no text in any encoding."""
    _check_once([name for name, _ in pairs])
    for _, value in pairs:
        if isinstance(value, str):
            value.encode()
    return dict(pairs)


def _check_once(names: Sequence[str]) -> None:
    """Raise ValueError where a column has the name of another: which of them holds is not known."""
    if twice := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ValueError(f"more than one column is called {' and '.join(twice)}; leave one")


def _with_masks(table: pd.DataFrame, masks: Path) -> pd.DataFrame:
    """Add the column `mask`: the file under `masks` at the image's own place, as PNG or under its own name."""

    def mask_of(source_file: str) -> Path | None:
        for name in (Path(source_file).with_suffix(".png"), Path(source_file)):
            if (masks / name).is_file():
                return masks / name
        return None

    known = masks.is_dir()
    found = [mask_of(name) if known else None for name in table["source_file"]]
    return table.assign(mask=pd.Series(found, index=table.index, dtype=object))


def _unzip(path: Path, target: Path) -> Path:
    """Unpack a zip and return the folder in it that holds the classes."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > shutil.disk_usage(target).free:
                raise InputError(
                    f"{path} unpacks to {size / 2**30:.1f} GiB, more than is free in {target.parent}."
                )
            archive.extractall(target)  # keeps every member inside the target
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}).") from None
    while not _table_in(target):
        inside = _visible(target)
        if len(inside) != 1 or not inside[0].is_dir() or not any(p.is_dir() for p in _visible(inside[0])):
            break
        target = inside[0]
    return target


def _read_npz(path: Path, target: Path) -> tuple[pd.DataFrame, list[str]]:
    """Write MedMNIST's arrays as PPM files, whose bytes depend on the pixels alone; labels are their numbers."""
    rows = []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for short, split in (("train", "train"), ("val", "validation"), ("test", "test")):
                if f"{short}_images" not in arrays:
                    continue
                images = arrays[f"{short}_images"]
                labels = arrays[f"{short}_labels"].reshape(len(images), -1)
                if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape[1] != 1:
                    raise InputError(
                        f"{path}: {short}_images is {images.dtype} {images.shape} with {labels.shape[1]} labels each, "
                        "where uint8 N×H×W or N×H×W×3 with one label each was expected."
                    )
                pixels = np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images
                header = b"P6 %d %d 255\n" % (pixels.shape[2], pixels.shape[1])
                for i, (image, label) in enumerate(zip(pixels, labels[:, 0].tolist(), strict=True)):
                    file = target / f"{short}_{i:06d}.ppm"
                    file.write_bytes(header + image.tobytes())
                    rows.append((file, file.stem, str(label), split, None))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no npz file in MedMNIST's layout ({error}).") from None
    if not rows:
        raise InputError(f"{path} has no array train_images; its layout is not MedMNIST's.")
    columns = ["path", "source_file", "label", "split", "mask"]
    return pd.DataFrame(rows, columns=columns, dtype=object), []


def _finish(
    path: Path, table: pd.DataFrame, notes: list[str], label_column: str | None, mapping: Path | None
) -> Source:
    """Choose and map the labels, check them, and find out whether the images are real or rendered."""
    if table.empty:
        raise InputError(
            f"{path} holds no images in class folders; put each class into a folder of its own, or add a metadata.csv."
        )
    table = table.reset_index(drop=True)
    if "mask" not in table:
        table = _with_masks(table, path.parent / MASKS)
    if label_column is not None and label_column != "label":
        if label_column not in table:
            further = [c for c in table.columns if c not in {"path", "source_file", "mask"}]
            raise unknown_name("column", label_column, further)
        table = table.assign(source_label=table["label"], label=table[label_column])
    labels = table["label"].map(lambda value: value.strip() or None if isinstance(value, str) else None)
    if mapping is not None:
        renamed = read_mapping(mapping)
        for name in renamed:
            if name not in set(labels.dropna()):
                raise unknown_name("label", name, sorted(labels.dropna().unique()))
        if "source_label" not in table:
            table = table.assign(source_label=labels)
        labels = labels.map(lambda value: renamed.get(value, value) or None, na_action="ignore")
    table = table.assign(label=labels.where(labels.notna(), None))
    unlabelled = table["label"].isna()
    if unlabelled.all():
        raise InputError(f"{path} names no label for any image; give --label-column or use class folders.")
    if unlabelled.any():
        have = number(int(unlabelled.sum()), "image has", "images have")
        notes = [*notes, f"{have} no label; left out: {some(table.loc[unlabelled, 'source_file'].tolist())}."]
        table = table[~unlabelled].reset_index(drop=True)
    classes = sorted(table["label"].unique())
    for label in classes:
        check_label(label)
    folded: dict[str, str] = {}
    for label in classes:
        other = folded.setdefault(label.casefold(), label)
        if other != label:
            raise InputError(
                f"The labels '{other}' and '{label}' differ only in case; merge them with --map."
            )
    if len(classes) < 2:
        raise InputError(f"{path} has one class only ({classes[0]}); two or more are needed.")
    kinds = table["source"].fillna("real") if "source" in table else pd.Series("real", index=table.index)
    strange = sorted(set(kinds) - {"real", "rendered"})
    if strange:
        raise InputError(
            f"The column source of {path} says '{strange[0]}', where real or rendered was expected; "
            "synthetic images stay in their synthetic set."
        )
    if kinds.nunique() > 1:
        raise InputError(f"{path} mixes real and rendered images; prepare each in a dataset of its own.")
    if "split" not in table:
        table = table.assign(split=None)
    return Source(table.drop(columns="source", errors="ignore"), str(kinds.iloc[0]), notes)


def check_label(label: str) -> None:
    """A label becomes a folder's name: refuse what would escape the dataset or not survive another system."""
    if not label:
        raise InputError("There is a label without a name; name it.")
    if _FORBIDDEN.search(label) or label.startswith(".") or label.endswith(".") or len(label.encode()) > 100:
        raise InputError(
            f"The label {label!r} cannot be a folder's name (no / \\ : * ? \" < > | or control characters, no dot at "
            "its ends, at most 100 bytes); rename it, for `balancer prepare` with --map."
        )
    if label.lower() == MASKS:
        raise InputError(
            f"'{label}' cannot be a class: the folder masks/ holds masks; rename it, for `balancer prepare` with --map."
        )


def read_mapping(path: Path) -> Mapping[str, str]:
    """Read `--map`: a CSV with the columns from,to or a JSON object; an empty target leaves a label out."""
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            loaded = json.loads(path.read_text("utf-8-sig"))
            if not isinstance(loaded, dict):
                raise InputError(f"{path} is no JSON object of old and new labels.")
            return {str(old).strip(): str(new or "").strip() for old, new in loaded.items()}
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; --map needs a CSV with columns from,to or a JSON object."
        ) from None
    except InputError:
        raise
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a map of labels ({error}).") from None
    if not {"from", "to"} <= set(table.columns):
        raise InputError(f"{path} needs the columns from and to; it has {', '.join(table.columns)}.")
    old, new = table["from"].str.strip(), table["to"].str.strip()
    twice = old[old.duplicated()]
    if len(twice):
        raise InputError(f"{path} maps the label '{twice.iloc[0]}' twice.")
    return dict(zip(old, new, strict=True))
