"""What normalising the stain does to segmentation: Dice with and without it, on sets whose masks are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from balancer.errors import InputError
from balancer.imaging import stain
from balancer.imaging.segmentation import segment
from balancer.progress import track
from benchmarks.imaging.segmentation import both_regions, dice, one_region, read_set

# The reference is of another laboratory's images (PBC), as where scanners are mixed; none of the judged images is in it.
REFERENCE, REFERENCE_IMAGES, SEED = "pbc", 200, 0
SETS = {"segwbc": both_regions, "all_idb2": one_region}
_SUFFIXES = {".png", ".jpg"}

Image8 = np.ndarray


def table(sets: Path) -> str:
    """A markdown table of mean Dice by set and normalisation; the spread of stain between images beside it."""
    rng = np.random.default_rng(SEED)
    files = sorted(path for path in (sets / REFERENCE).rglob("*") if path.suffix in _SUFFIXES)
    chosen = rng.choice(len(files), min(REFERENCE_IMAGES, len(files)), replace=False)
    reference = [_read(files[i]) for i in chosen]
    judged = {name: read_set(sets / name, sets / f"{name}_masks") for name in SETS}
    rows = []
    for method in ("none", *stain.STAINS):
        statistics = stain.reference_of(method, reference) if method != "none" else {}
        cells = [method]
        for name, (originals, truths) in judged.items():
            left = 0

            def treat(
                image: Image8, method: str = method, statistics: stain.Reference = statistics
            ) -> Image8:
                return image if method == "none" else stain.normalise(method, image, statistics)

            images = []
            for image in track(originals, f"{name}, {method}"):
                try:
                    images.append(treat(image))
                except InputError:
                    images.append(image)
                    left += 1
            regions = SETS[name]([one.mask for one in segment(images)], truths)
            cells.append(_mean_dice(*regions["nucleus"]))
            if name == "segwbc":
                cells.append(_mean_dice(*regions["cell"]))
            cells.append(f"{_spread(images):.1f}")
            if left:
                cells[-1] += f" ({left} left as they are)"
        rows.append(cells)
    head = ["stain", "segwbc nucleus", "segwbc cell", "segwbc spread", "all_idb2 nucleus", "all_idb2 spread"]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + (
        f"\n\nMean Dice (standard error) of {' and '.join(f'{len(truths)} images of {n}' for n, (_, truths) in judged.items())}, brought to "
        f"the stain of {len(reference)} images of {REFERENCE}; spread: standard deviation between images of their mean "
        "colour, in grey levels, mean over the channels. A normalisation that lowers Dice takes away what segmentation goes by."
    )


def _read(path: Path) -> Image8:
    return np.asarray(Image.open(path).convert("RGB"))


def _mean_dice(found: list[np.ndarray], drawn: list[np.ndarray]) -> str:
    scores = [dice(a, b) for a, b in zip(found, drawn, strict=True)]
    return f"{np.mean(scores):.3f} ({np.std(scores) / np.sqrt(len(scores)):.3f})"


def _spread(images: list[Image8]) -> float:
    return float(np.std([image.mean((0, 1)) for image in images], axis=0).mean())
