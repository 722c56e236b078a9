"""Fixtures that every room's tests share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.data import SPLITS, PreparedDataset
from balancer.data.dataset import COLUMNS, fingerprint
from balancer.files import write_json

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real image sets; the test is skipped where they are absent."""
    folder = Path(os.environ.get("HEMABALANCE_REAL_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder} (set HEMABALANCE_REAL_DATA)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def forgetful() -> Iterator[None]:
    """No judgement of the gate comes from disk: tests replace what it depends on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("balancer.quality.memory.remembered", lambda key, make, write, read: make())
        yield


@pytest.fixture(scope="module")
def without_cell_checks() -> Iterator[None]:
    """No image is rejected for a defect of the cell, for tests of what becomes of images without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "balancer.quality.defects.check", lambda measured, label, limits: [None] * len(measured)
        )
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference numbers; the test is skipped where they are absent."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}")
    return folder


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., PreparedDataset]:
    """Write a small prepared dataset of coloured discs, by hand, and open it.

    Called as `make_dataset(root, counts, resolution=32, seed=0)` with counts {split: {label: n}}; each class has
    a hue and a radius of its own.
    """

    def make(
        root: Path,
        counts: dict[str, dict[str, int]],
        resolution: int = 32,
        seed: int = 0,
        source: str = "real",
    ) -> PreparedDataset:
        rng = np.random.default_rng(seed)
        classes = sorted({label for by_class in counts.values() for label in by_class})
        rows = []
        y, x = np.mgrid[:resolution, :resolution] / resolution - 0.5
        for split in SPLITS:
            table = []
            for k, label in enumerate(classes):
                (root / split / label).mkdir(parents=True)
                for i in range(counts.get(split, {}).get(label, 0)):
                    centre = rng.normal(0, 0.08, 2)
                    inside = np.hypot(x - centre[0], y - centre[1]) < 0.15 + 0.06 * k + rng.normal(0, 0.02)
                    colour = 60 + 40 * np.eye(3)[k % 3] * (1 + k) + rng.normal(0, 8, 3)
                    pixels = np.where(inside[..., None], colour, 225) + rng.normal(
                        0, 6, (resolution, resolution, 3)
                    )
                    name = f"{label}/{split}_{i:04d}.png"
                    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                    image.save(root / split / name)
                    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
                    table.append((name, label, f"{label}-{split}-{i}", source, sha256))
                    rows.append((split, label, sha256))
            pd.DataFrame(table, columns=list(COLUMNS)).to_csv(root / split / "metadata.csv", index=False)
        info = {
            "format": 1,
            "kind": "prepared",
            "classes": classes,
            "resolution": resolution,
            "source": source,
            "counts": {s: {c: counts.get(s, {}).get(c, 0) for c in classes} for s in SPLITS},
            "fingerprint": fingerprint(rows),
        }
        write_json(root / "dataset.json", info)
        return PreparedDataset.load(root)

    return make
