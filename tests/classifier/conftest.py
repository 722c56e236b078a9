"""Small prepared and synthetic sets of coloured noise on disk, whose classes can be learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.data import SPLITS, PreparedDataset, SyntheticSet
from balancer.data.dataset import fingerprint
from balancer.files import write_json

LABELS = ("basophil", "monocyte", "neutrophil")


def coloured_noise(label: str, n: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 n×side×side×3, brighter in the channel of its class."""
    means = 110 + 40 * np.eye(3)[LABELS.index(label)]
    return rng.normal(means, 30, (n, side, side, 3)).clip(0, 255).astype(np.uint8)


def write_split(folder: Path, counts: dict[str, int], side: int, source: str, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for label, n in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(coloured_noise(label, n, side, rng)):
            name = f"{label}/{folder.name}{i}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append((name, label, f"{folder.name}{label}{i}", source, f"{rng.integers(2**62):064x}"))
    table = pd.DataFrame(rows, columns=["file_name", "label", "group", "source", "source_sha256"])
    table.to_csv(folder / "metadata.csv", index=False)
    return table


@pytest.fixture
def make_prepared(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """make_prepared(name="data", side=8, test_source="real") → a prepared dataset of three classes."""

    def make(name: str = "data", side: int = 8, test_source: str = "real") -> PreparedDataset:
        root, rows = tmp_path / name, []
        sizes = {"train": (40, 30, 6), "validation": (12, 12, 10), "test": (15, 12, 8), "heldout": (0, 0, 0)}
        for i, split in enumerate(SPLITS):
            source = test_source if split == "test" else "real"
            counts = dict(zip(LABELS, sizes[split], strict=True))
            table = write_split(root / split, counts, side, source, seed=i + 10 * len(name))
            rows += [
                (split, label, sha) for label, sha in zip(table["label"], table["source_sha256"], strict=True)
            ]
        write_json(
            root / "dataset.json",
            {
                "format": 1,
                "kind": "prepared",
                "classes": LABELS,
                "resolution": side,
                "source": "real",
                "crop": "pad",
                "fingerprint": fingerprint(rows),
            },
        )
        return PreparedDataset.load(root)

    return make


@pytest.fixture
def make_synthetic(tmp_path: Path) -> Callable[..., SyntheticSet]:
    """make_synthetic(data, label="neutrophil", seen=(), side=…) → a synthetic set of 20 images from `data`."""

    def make(
        data: PreparedDataset, label: str = "neutrophil", seen: tuple[str, ...] = (), side: int | None = None
    ) -> SyntheticSet:
        root, side = tmp_path / "synthetic", side or data.resolution
        write_split(root / "train", {"neutrophil": 20}, side, "synthetic", seed=99)
        table = pd.read_csv(root / "train" / "metadata.csv").assign(label=label)
        table.to_csv(root / "train" / "metadata.csv", index=False)
        hashes = [*data.tables["train"]["source_sha256"], *seen]
        pd.DataFrame({"source_sha256": hashes}).to_csv(root / "seen.csv", index=False)
        origin = {"path": str(data.root), "fingerprint": data.fingerprint, "source": data.source}
        info = {
            "format": 1,
            "kind": "synthetic",
            "classes": data.classes,
            "resolution": side,
            "data": origin,
            "generator": {"sha256": "0" * 64},
        }
        write_json(root / "dataset.json", info)
        (root / "gate.json").write_text(json.dumps({"format": 1, "classes": {}}))
        return SyntheticSet.load(root)

    return make
