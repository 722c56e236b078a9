"""The synthetic set on disk: accepted images in `train/`, refused ones in `rejected/`, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from balancer.data.dataset import FORMAT, read_metadata
from balancer.data.images import ImageStore
from balancer.errors import InputError
from balancer.files import read_json


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic set, opened: the accepted images, and the dataset and generator run they came from."""

    root: Path
    resolution: int
    source: str  # of the data behind the generator: real | rendered
    data_fingerprint: str
    seen: frozenset[str]  # source_sha256 of every image that the generator was trained on
    info: dict[str, Any] = field(repr=False)
    table: pd.DataFrame = field(repr=False)  # train/metadata.csv
    gate: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, root: Path) -> SyntheticSet:
        """Open a synthetic set; raise InputError when it is none, or newer than this code."""
        root = Path(root)
        if not (root / "dataset.json").is_file():
            raise InputError(f"{root} is no synthetic set (no dataset.json); make one with `balancer synth`.")
        info = read_json(root / "dataset.json")
        if info.get("format", 0) > FORMAT:
            raise InputError(
                f"{root} has dataset format {info['format']}, this version reads up to {FORMAT}; update hemabalance."
            )
        if info.get("kind") != "synthetic":
            raise InputError(f"{root} is a {info.get('kind')} set, where a synthetic set is needed.")
        seen = pd.read_csv(root / "seen.csv", dtype=str)["source_sha256"]
        return cls(
            root=root,
            resolution=int(info["resolution"]),
            source=info["data"]["source"],
            data_fingerprint=info["data"]["fingerprint"],
            seen=frozenset(seen),
            info=info,
            table=read_metadata(root / "train"),
            gate=read_json(root / "gate.json"),
        )

    def paths(self) -> list[Path]:
        """Paths of the accepted images in the order of `table`."""
        return [self.root / "train" / name for name in self.table["file_name"]]

    def images(self) -> ImageStore:
        """The accepted images in the order of `table`."""
        return ImageStore(self.paths(), self.resolution)
