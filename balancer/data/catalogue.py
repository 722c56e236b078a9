"""Where things are: runs under a folder, the data they name, images named by a pattern, the next free output."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from balancer.data.dataset import PreparedDataset
from balancer.data.sources import IMAGE_SUFFIXES, MASKS
from balancer.errors import InputError, unknown_name
from balancer.files import being_written, read_json

RUNS = Path("runs")
Kind = Literal["generator", "classifier"]
_MAKE = {"generator": "balancer train", "classifier": "classifier train"}


@dataclass(frozen=True)
class Run:
    """A run's folder and what its `config.json` says."""

    path: Path
    kind: Kind
    config: dict[str, Any] = field(repr=False)
    written: float  # seconds since the epoch

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that the run knows."""
        return tuple(self.config.get("classes", ()))

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the data it was trained on."""
        return self.config.get("data", {}).get("fingerprint")


def find_runs(root: Path = RUNS, kind: Kind | None = None) -> list[Run]:
    """All runs in and below `root`, the newest first; unfinished, foreign and damaged folders are passed over."""
    runs = []
    for path in Path(root).rglob("config.json"):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        try:
            config = read_json(path)
        except InputError:
            continue
        if _describes_run(config) and config["kind"] in ((kind,) if kind else _MAKE):
            runs.append(Run(path.parent, config["kind"], config, path.stat().st_mtime))
    return sorted(runs, key=lambda run: (-run.written, str(run.path)))


def _describes_run(config: Any) -> bool:
    """Whether a `config.json` is of a run: what is read of it here is of the right type. Imported weights have no data."""
    if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
        return False
    classes, data = config.get("classes", []), config.get("data", {})
    return (
        isinstance(classes, list)
        and all(isinstance(label, str) for label in classes)
        and isinstance(data, dict)
        and all(isinstance(data.get(name), str | None) for name in ("path", "fingerprint"))
    )


def newest_run(
    kind: Kind, labels: Iterable[str] = (), root: Path = RUNS, fingerprint: str | None = None
) -> Run:
    """The newest run of this kind that knows all `labels`, with `fingerprint` of those trained on that data.

    Raises InputError when there is none, or when runs of different data would fit: they are listed, for the user to
    choose with --run.
    """
    runs = find_runs(root, kind)
    if fingerprint is not None:
        runs = [run for run in runs if run.fingerprint == fingerprint]
    if not runs:
        raise InputError(f"There is no {kind} run under {root}; make one with `{_MAKE[kind]}` or give --run.")
    labels = list(labels)
    # Imported weights have no data, and so no fingerprint.
    fitting = [run for run in runs if set(labels) <= set(run.classes) and run.fingerprint]
    if not fitting:
        known = sorted({label for run in runs for label in run.classes})
        for label in labels:
            if label not in known:
                raise unknown_name("class", label, known)
        raise InputError(f"No {kind} run under {root} knows all of {', '.join(labels)}; give --run.")
    if len({run.fingerprint for run in fitting}) > 1:
        listed = "; ".join(f"{run.path} (data: {run.config.get('data', {}).get('path')})" for run in fitting)
        raise InputError(f"Runs of different data fit: {listed}. Choose one with --run.")
    return fitting[0]


def newest_generator(labels: Iterable[str] = (), root: Path = RUNS, fingerprint: str | None = None) -> Path:
    """Folder of the newest generator run that `newest_run` finds; raises InputError as it does."""
    return newest_run("generator", labels, root, fingerprint).path


def newest_classifier(root: Path = RUNS) -> Path:
    """Folder of the newest classifier run; raises InputError as `newest_run` does."""
    return newest_run("classifier", (), root).path


def data_of(run: Path) -> PreparedDataset:
    """Open the prepared dataset that a run was trained on.

    Raises InputError when it has moved, is no longer the data that the run saw (another fingerprint), or is unknown.
    """
    path = Path(run) / "config.json"
    config = read_json(path)
    if not _describes_run(config):
        raise InputError(f"{path} does not describe a run, so that its data are unknown; give --data.")
    if "imported" in config:
        raise InputError(
            f"{run} holds imported weights, which have no data; train them on your data first, with "
            f"`balancer train --init {run} --data DATA`."
        )
    named = config.get("data", {})
    if named.get("path") is None:
        raise InputError(f"{run} names no data; give --data.")
    path = Path(named["path"])
    if not path.exists():
        raise InputError(f"The data of {run} is no longer at {path}; give --data.")
    data = PreparedDataset.load(path)
    if data.fingerprint != named.get("fingerprint"):
        raise InputError(
            f"{path} is not the data that {run} was trained on (another fingerprint); give --data."
        )
    return data


def new_output(stem: str, root: Path = RUNS) -> Path:
    """The first path `root/<stem>-<n>`, n from 1, that does not exist and that no other process is about to write."""
    paths = (Path(root) / f"{stem}-{n}" for n in itertools.count(1))
    return next(path for path in paths if not path.exists() and not being_written(path))


def expand_paths(patterns: Sequence[str | Path]) -> list[Path]:
    """Image files named by files, folders (searched to any depth, less `masks/`) or glob patterns, each once.

    Links that lead nowhere are among them, so that the reader names them with the files that it leaves out.
    A file that is named outright is taken whatever its suffix. Raises InputError for a pattern that finds nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if not str(pattern).strip():
            raise InputError(
                "A path is empty (a variable of the shell that is not set?); give images, a folder or a pattern."
            )
        path = Path(pattern)
        if path.is_file():
            matches = [path]
        else:
            named = [path] if path.is_dir() else _matching(str(pattern))
            matches = [image for place in named for image in _images_in(place)]
        if not matches:
            raise InputError(
                f"{pattern} names no image; give an image file, a folder or a pattern such as 'cells/*.png'."
            )
        found |= dict.fromkeys(matches)
    return list(found)


def _matching(pattern: str) -> list[Path]:
    return [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (absolute patterns)


def _images_in(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return [
        file
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES
        and (file.is_file() or (file.is_symlink() and not file.exists()))
        and (file == place or not {MASKS} & set(file.relative_to(place).parts[:-1]))
    ]
