"""The synthetic set on disk: accepted images in `train/`, refused ones in `rejected/`, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from balancer.data.dataset import read_description, read_table
from balancer.data.images import ImageStore
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.files import read_json


@dataclass(frozen=True)
class SyntheticSet:
    """A synthetic set, opened: the accepted images, and the dataset and generator run they came from."""

    root: Path
    resolution: int
    source: str  # of the data behind the generator: real | rendered
    data_fingerprint: str
    seen: Seen = field(repr=False)  # every image that the generator was trained on, as far as is known
    seen_known: bool  # whether that is all; it is not where training began from weights of unknown origin
    info: dict[str, Any] = field(repr=False)
    table: pd.DataFrame = field(repr=False)  # train/metadata.csv
    gate: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, root: Path) -> SyntheticSet:
        """Open a synthetic set; raise InputError when it is none, is newer than this code, or is damaged."""
        root = Path(root)
        info = read_description(root, "synthetic")
        gate = read_json(root / "gate.json")
        if not isinstance(gate, dict) or not isinstance(gate.get("classes"), dict):
            raise InputError(f"{root / 'gate.json'} is damaged (no valid classes); make the set again.")
        return cls(
            root=root,
            resolution=info["resolution"],
            source=info["data"]["source"],
            data_fingerprint=info["data"]["fingerprint"],
            seen=Seen.read(root / "seen.csv"),
            seen_known=(info.get("generator", {}).get("init") or {}).get("seen_known", True),
            info=info,
            table=read_table(root / "train" / "metadata.csv"),
            gate=gate,
        )

    def paths(self) -> list[Path]:
        """Paths of the accepted images in the order of `table`."""
        return [self.root / "train" / name for name in self.table["file_name"]]

    def images(self) -> ImageStore:
        """The accepted images in the order of `table`."""
        return ImageStore(self.paths(), self.resolution)
