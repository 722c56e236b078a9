"""Outputs that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from balancer.errors import InputError

_ASIDE = ".hemabalance-aside-"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise InputError when `path` exists and is not an empty folder, unless `overwrite`."""
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not overwrite:
        raise InputError(f"{path} exists already; choose another --out or give --overwrite to replace it.")


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on any error it vanishes.

    Raises InputError when `path` exists and `overwrite` is false. What a killed process left behind beside
    the target is swept away.
    """
    path = Path(path).absolute()
    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{_ASIDE}{path.name}-*"):
        _clear(stale)
    aside = path.parent / f"{_ASIDE}{path.name}-{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        yield aside
        old = None
        if path.exists():
            old = path.parent / f"{_ASIDE}{path.name}-old"
            path.rename(old)
        aside.rename(path)
        if old is not None:
            _clear(old)
    finally:
        if aside.exists():
            _clear(aside)


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it: a reader never sees half a file."""
    path = Path(path)
    aside = path.with_name(f"{_ASIDE}{path.name}")
    try:
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    write_with(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (indented, UTF-8, no NaN) atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index, atomically."""
    write_with(path, lambda aside: table.to_csv(aside, index=False))


def read_json(path: Path) -> Any:
    """Read a JSON file; raise InputError with a sentence when it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); make it again or remove it.") from None
