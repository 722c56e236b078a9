"""Independent, cached, resumable units of work: a job is known by all that its result depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from balancer.data import ImageStore, decode
from balancer.files import new_directory, read_json, write_json
from balancer.imaging import crop, segmentation, stain

_RECORD = "job.json"
_CHUNK = 1024  # images hashed at a time


@dataclass(frozen=True)
class Job:
    """A unit of work. `inputs` (JSON values) name everything that its result depends on, files by their hashes."""

    kind: str
    inputs: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 (hex) over kind and inputs, whatever the order of their fields."""
        text = json.dumps([self.kind, self.inputs], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def folder(self, cache_folder: Path) -> Path:
        """Where the results lie, or will lie."""
        return cache_folder / f"{self.kind}-{self.key[:16]}"

    def done(self, cache_folder: Path) -> bool:
        """Whether the results of exactly this job lie in the cache."""
        record = self.folder(cache_folder) / _RECORD
        return record.is_file() and read_json(record)["key"] == self.key

    def run(self, cache_folder: Path, work: Callable[[Path], None]) -> Path:
        """Return the folder with the results; `work` fills it (written aside, then renamed) unless it is cached."""
        folder = self.folder(cache_folder)
        if not self.done(cache_folder):
            with new_directory(folder, overwrite=True) as aside:
                work(aside)
                write_json(aside / _RECORD, {"key": self.key, "kind": self.kind, "inputs": self.inputs})
        return folder


def remove_stale(cache_folder: Path, kind: str, used: Collection[Path]) -> None:
    """Remove the finished jobs of `kind` that are not `used`, and nothing else that lies in the cache."""
    for record in list(cache_folder.glob(f"{kind}-*/{_RECORD}")):
        folder = record.parent
        if folder not in used and not folder.is_symlink():
            shutil.rmtree(folder)


def digest(images: ImageStore, labels: np.ndarray) -> str:
    """SHA-256 (hex) over pixels, masks, resolution, order and labels: what a training sees of a set of images."""
    state = hashlib.sha256(np.asarray([len(images), images.resolution], dtype=np.int64).tobytes())
    for start in range(0, len(images), _CHUNK):
        state.update(images[start : start + _CHUNK].tobytes())
    for i, mask in enumerate(images.mask_paths):
        if mask is not None:
            state.update(f"{i}".encode() + mask.read_bytes())
    state.update(np.asarray(labels, dtype=np.int64).tobytes())
    return state.hexdigest()


@cache
def code_version() -> str:
    """The package's version and a hash of the code that trains and predicts: another code, another result."""
    folder = Path(__file__).parent
    names = (
        "arms",
        "attributes",
        "augmentation",
        "batches",
        "calibration",
        "captions",
        "config",
        "evaluation",
        "imbalance",
        "knowledge",
        "language",
        "lexicon",
        "mixing",
        "objectives",
        "optimisation",
        "pretrained",
        "state",
        "text_encoders",
        "training",
        "transforms",
    )
    sources = [folder / f"{name}.py" for name in names] + sorted((folder / "models").glob("*.py"))
    sources += [Path(str(module.__file__)) for module in (decode, stain, crop, segmentation)]  # preprocessing
    state = hashlib.sha256()
    for source in sources:
        state.update(source.read_bytes())
    return f"{metadata.version('hemabalance')}+{state.hexdigest()[:12]}"
