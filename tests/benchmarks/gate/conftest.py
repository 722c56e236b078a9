"""Sets of rendered cells, as the benchmarks of the gate read real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from balancer.smear import draw_cells, render


@pytest.fixture(scope="session")
def write_set() -> Callable[[Path, Sequence[str], int], None]:
    """Write a folder of class folders with so many rendered cells of 64 px each."""

    def write(folder: Path, labels: Sequence[str], count: int) -> None:
        for label in labels:
            (folder / label).mkdir(parents=True)
            images, _ = render(draw_cells({label: count}, seed=0), 64)
            for i, image in enumerate(images):
                Image.fromarray(image).save(folder / label / f"{i:03d}.png")

    return write
