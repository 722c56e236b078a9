"""Example images of each class that was synthesised: real beside accepted beside rejected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.data import ImageStore, PreparedDataset, SyntheticSet
from balancer.files import new_directory

KINDS = ("real", "accepted", "rejected")
_EACH = 10


def save_examples(data: PreparedDataset, synthetic: Sequence[SyntheticSet], out: Path) -> None:
    """Write `out/{real,accepted,rejected}/<label>.png`, each a row of up to 10 images (nothing where there are none).

    `real` shows train images, which are what the generator learned from.
    """
    labels = [label for label in data.classes if any(label in images.gate["classes"] for images in synthetic)]
    with new_directory(out, overwrite=True) as folder:
        for label in labels:
            real = [path for path in data.paths("train") if path.parent.name == label]
            accepted = [path for images in synthetic for path in images.paths() if path.parent.name == label]
            rejected = [
                p for images in synthetic for p in sorted((images.root / "rejected" / label).glob("*.png"))
            ]
            for kind, paths in zip(KINDS, (real, accepted, rejected), strict=True):
                if paths:
                    (folder / kind).mkdir(exist_ok=True)
                    _row(paths, data.resolution).save(folder / kind / f"{label}.png")


def _row(paths: Sequence[Path], resolution: int) -> Image.Image:
    """Up to 10 of the images, evenly spread over the list, side by side."""
    spread = np.unique(np.linspace(0, len(paths) - 1, min(_EACH, len(paths))).round().astype(int))
    images = ImageStore([paths[i] for i in spread], resolution)[:]
    return Image.fromarray(np.concatenate(list(images), axis=1))
