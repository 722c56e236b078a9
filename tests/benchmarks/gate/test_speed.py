from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from balancer.errors import InputError
from balancer.quality.features import Inception
from benchmarks.gate import speed

LABELS = ("lymphocyte", "neutrophil")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, write_set: Callable[..., None]) -> Path:
    """A folder with one set of two rendered classes."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "pbc", LABELS, 24)
    return root


def test_torch_fidelity_has_the_same_weights(tmp_path: Path) -> None:
    torch.save(speed.for_torch_fidelity(), tmp_path / "weights.pth")
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    (found,) = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(Inception()(images), found.numpy(), atol=1e-4)


def test_both_sides_hold_other_images_of_the_set(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "RESOLUTION", 64)
    assert speed.write_folders(sets / "pbc", tmp_path, 12) == list(LABELS)
    for label in LABELS:
        sources = {image.tobytes() for image in read(sets / "pbc" / label)}
        real, synthetic = (read(tmp_path / side / label) for side in speed.SIDES)
        assert len(real) == len(synthetic) == 12
        written = {image.tobytes() for image in real} | {image[:, ::-1].tobytes() for image in synthetic}
        assert written == sources
    with pytest.raises(InputError, match="24 images, fewer than two times 13"):
        speed.write_folders(sets / "pbc", tmp_path / "more", 13)


def test_table_holds_every_way_and_class(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(*_: Any) -> dict[str, float]:
        return {"frechet_inception_distance": 2.0}

    def summed(_: Inception, images: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(0).normal(size=(images[0].size, 2048))
        return np.asarray(images.reshape(len(images), -1) / 255 @ rows, dtype=np.float32)

    monkeypatch.setattr(speed, "RESOLUTION", 64)
    monkeypatch.setattr(speed, "_torch_fidelity", quick)
    monkeypatch.setattr(Inception, "__call__", summed)
    text = speed.table(sets, 12)
    for name in ("gate, first call", "gate, second call", "torch-fidelity", *LABELS):
        assert f"| {name} | " in text
    first, second = (
        [float(cell) for cell in line.split("|")[2:-1]] for line in text.splitlines() if "call |" in line
    )
    assert first[2] > 0 and first[3] > 0  # features, cells
    assert second[2] == 0 and second[3] < first[3]  # from the cache
    assert "Not found" in speed.table(sets / "pbc", 12)


def test_time_of_processes_that_ended_counts() -> None:
    import subprocess
    import sys

    def busy() -> None:
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import time\nwhile time.process_time() < 0.3: pass",
            ],
            check=True,
        )

    run: Callable[[], None] = busy
    _, (clock, processor) = speed.timed(run)
    assert clock > 0 and processor >= 0.3


def read(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
