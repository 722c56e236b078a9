from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from balancer.data import PreparedDataset, prepare
from balancer.data.seen import Seen, perceptual_hashes_of
from balancer.imaging.perceptual_hash import perceptual_hashes


def cells(root: Path, n: int = 12) -> None:
    """Two classes of textured cells of 80 px, a little above the 64 px that the generator saw them at."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :80] / 80 - 0.5
    for k, label in enumerate(("a", "b")):
        (root / label).mkdir(parents=True)
        for i in range(n):
            texture = gaussian_filter(rng.normal(size=(80, 80)), 3)
            grey = (
                220
                - 110 / (1 + np.exp((np.hypot(x, y) - 0.25 - 0.05 * k) * 50))
                + 15 * texture / texture.std()
            )
            pixels = np.clip(grey[..., None] * [1.0, 0.8, 0.95], 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{label}{i}.png")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"um_per_pixel": 0.1, "to_um_per_pixel": 0.08},
        {"um_per_pixel": 0.1, "to_um_per_pixel": 0.12},
        {"stain": "reinhard"},
        {"resolution": 32, "crop": "pad", "stain": "clahe"},
    ],
)
def test_a_seen_picture_is_known_however_it_was_prepared(tmp_path: Path, how: dict) -> None:
    """Three images that a generator saw from other files, at 64 px; the prepared ones show more or less, or other colours."""
    cells(tmp_path / "source")
    prepare(tmp_path / "source", tmp_path / "data", **{"resolution": 64} | how)
    data = PreparedDataset.load(tmp_path / "data")
    table = data.tables["train"]
    names = table["file_name"].tolist()
    small = [
        np.asarray(Image.open(tmp_path / "source" / file).resize((64, 64), Image.Resampling.BICUBIC))
        for file in table["source_file"][2:5]
    ]
    seen = pd.DataFrame(
        {"source_sha256": ["0" * 64] * 3, "perceptual_hash": perceptual_hashes(np.stack(small))}
    )
    seen.to_csv(tmp_path / "seen.csv", index=False)
    assert Seen.read(tmp_path / "seen.csv").among(data, "train") == names[2:5]
    assert Seen.read(tmp_path / "seen.csv").among(data, "test") == []


def test_the_hashes_are_of_the_image_and_of_its_middle() -> None:
    rng = np.random.default_rng(1)
    pixels = gaussian_filter(rng.integers(0, 256, (360, 400, 3)).astype(float), (9, 9, 0))
    pixels = ((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8)
    whole, inner = perceptual_hashes_of(pixels).split()
    assert whole == perceptual_hashes_of(pixels[:, 20:380]).split()[0]
    assert inner == perceptual_hashes_of(pixels).split()[1] != whole
    found = perceptual_hashes_of(pixels[52:308, 72:328]).split()[0]
    assert (
        np.bitwise_count(
            np.frombuffer(bytes.fromhex(inner), np.uint8) ^ np.frombuffer(bytes.fromhex(found), np.uint8)
        ).sum()
        <= 12
    )


def test_a_dataset_without_the_column_is_looked_at_itself(tmp_path: Path) -> None:
    cells(tmp_path / "source", 6)
    prepare(tmp_path / "source", tmp_path / "data", resolution=64)
    for split in ("train", "validation", "test", "heldout"):
        file = tmp_path / "data" / split / "metadata.csv"
        pd.read_csv(file).drop(columns="perceptual_hash").to_csv(file, index=False)
    data = PreparedDataset.load(tmp_path / "data")
    hashes = perceptual_hashes(data.images("train")[:2])
    pd.DataFrame({"source_sha256": "0" * 64, "perceptual_hash": hashes}).to_csv(
        tmp_path / "seen.csv", index=False
    )
    assert (
        Seen.read(tmp_path / "seen.csv").among(data, "train")
        == data.tables["train"]["file_name"][:2].tolist()
    )
