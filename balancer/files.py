"""Outputs that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from balancer.errors import InputError

_ASIDE = ".hemabalance-aside-"
_MARK = ".hemabalance.json"  # in outputs that nothing else in them tells from a user's folder
_KINDS = {
    "dataset.json": ("prepared", "synthetic"),
    "config.json": ("generator", "classifier", "pretraining", "labels"),
    _MARK: ("rendered", "crops", "morphology", "gate", "unfinished"),
}


def kind_of(folder: Path) -> str | None:
    """What output of hemabalance the folder is, by what its own files say inside; None when it is none."""
    for name, kinds in _KINDS.items():
        info = _described(folder / name)
        if info.get("kind") in kinds:
            return str(info["kind"])
    return "comparison" if "study" in _described(folder / "report.json") else None


def _described(path: Path) -> dict[str, Any]:
    """The JSON object of a file that names its format as ours do; empty for any other file, and for none."""
    try:
        info = read_json(path) if path.is_file() else None
    except InputError:
        return {}
    return info if isinstance(info, dict) and isinstance(info.get("format"), int) else {}


def write_mark(folder: Path, kind: str) -> None:
    """Mark the output in `folder`, which has no description of its own, as one of hemabalance."""
    write_json(folder / _MARK, {"format": 1, "kind": kind})


def refuse_existing(
    path: Path, overwrite: bool | None, inputs: Iterable[Path] = (), name: str = "--out"
) -> None:
    """Raise InputError when the folder `path` may not be written.

    It may when it does not exist or is empty; with `overwrite` also when it is an output of hemabalance, and
    neither is nor contains one of the `inputs` of the work that is to replace it. `overwrite` is None where the command
    has no such option; `name` is what it calls the folder.
    """
    for place in (Path(i).resolve() for i in inputs):
        if path.resolve() == place or path.resolve() in place.parents:
            raise InputError(f"{path} is or contains {place}, which is read here; choose another {name}.")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link that leads nowhere; choose another {name}.")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        instead = "" if overwrite is None else " or give --overwrite to replace it"
        raise InputError(f"{path} exists already; choose another {name}{instead}.")
    if kind_of(path) is None:
        raise InputError(f"{path} is no output of hemabalance and is not replaced; choose another {name}.")


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what a killed process left beside `path`, and put back an output that it had moved away."""
    old = path.parent / f"{_ASIDE}{path.name}-old"
    if old.exists() and not path.exists():
        old.rename(path)
    stale = re.compile(re.escape(f"{_ASIDE}{path.name}-") + r"([0-9a-f]{8}|old)")
    for entry in path.parent.iterdir():
        if stale.fullmatch(entry.name):
            _clear(entry)


@contextmanager
def claimed(path: Path, name: str = "--out") -> Iterator[None]:
    """Keep other processes from writing the output `path` meanwhile; folders made for it go again if they stay empty.

    Raises InputError when another process is writing it, and where no output can lie; for `name` see `refuse_existing`.
    """
    path = Path(path).absolute()
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} would lie inside a file; choose another {name}.") from None
    place = _lock(path)
    lock = FileLock(place, timeout=0, is_singleton=True, thread_local=False)
    try:
        try:
            lock.acquire()
        except OSError as error:  # Timeout too, also where no lock can be made
            if isinstance(error, Timeout) and place.exists():
                raise InputError(
                    f"Another process is writing {path} now; wait until it ends, or choose another {name}."
                ) from None
            raise InputError(f"Nothing can be written in {path.parent}; choose another {name}.") from None
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                place.unlink(missing_ok=True)  # before another may take it
            lock.release()
    finally:
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def being_written(path: Path) -> bool:
    """Whether another process has claimed the output `path`."""
    try:
        with claimed(path) if _lock(path).exists() else nullcontext():
            return False
    except InputError:
        return True


def _lock(path: Path) -> Path:
    return path.parent / f"{_ASIDE}{path.name}-lock"


@contextmanager
def new_directory(path: Path, overwrite: bool | None = False, name: str = "--out") -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on any error it vanishes.

    Raises InputError when `path` exists, is not empty, and `overwrite` is not given, where no folder can lie, and while
    another process writes it; for `name` see `refuse_existing`.
    """
    path = Path(path).absolute()
    with claimed(path, name):
        _sweep(path)
        if not overwrite:
            refuse_existing(path, overwrite, name=name)
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
        aside.touch()
        mode = aside.stat().st_mode  # the umask's: some writers make files that nobody else may read
        write(aside)
        aside.chmod(mode)
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
    """Read a JSON file; raise InputError with a sentence when it is missing, no JSON, or has a name twice in an object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        if twice := [name for name, n in counts.items() if n > 1]:
            raise InputError(
                f"{path} has '{twice[0]}' {counts[twice[0]]} times in one object; put what it says together."
            )
        return dict(pairs)

    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a JSON file.") from None
    except (ValueError, RecursionError) as error:  # of the encoding, the form, or a number of too many digits
        raise InputError(f"{path} is not valid JSON ({error}); make it again or remove it.") from None
