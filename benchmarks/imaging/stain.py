"""What normalising the stain does to segmentation: Dice with and without it, on sets whose masks are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from balancer.errors import InputError
from balancer.imaging import stain
from balancer.imaging.masks import NUCLEUS
from balancer.imaging.segmentation import segment
from balancer.progress import track

# The reference is of another laboratory's images (PBC), as where scanners are mixed; none of the judged images is in it.
REFERENCE, REFERENCE_IMAGES, SEED = "pbc", 200, 0
SETS = ("segwbc", "all_idb2")
_SUFFIXES = {".png", ".jpg"}

Image8 = np.ndarray


def table(sets: Path) -> str:
    """A markdown table of mean Dice by set and normalisation; the spread of stain between images beside it."""
    rng = np.random.default_rng(SEED)
    files = sorted(path for path in (sets / REFERENCE).rglob("*") if path.suffix in _SUFFIXES)
    chosen = rng.choice(len(files), min(REFERENCE_IMAGES, len(files)), replace=False)
    reference = [_read(files[i]) for i in chosen]
    judged = {name: _pairs(sets, name) for name in SETS}
    rows = []
    for method in ("none", *stain.STAINS):
        statistics = stain.reference_of(method, reference) if method != "none" else {}
        cells = [method]
        for name, pairs in judged.items():
            left = 0

            def treat(
                image: Image8, method: str = method, statistics: stain.Reference = statistics
            ) -> Image8:
                return image if method == "none" else stain.normalise(method, image, statistics)

            images = []
            for image, _ in track(pairs, f"{name}, {method}"):
                try:
                    images.append(treat(image))
                except InputError:
                    images.append(image)
                    left += 1
            masks = [one.mask for one in segment(images)]
            truths = [mask for _, mask in pairs]
            cells.append(_mean_dice(masks, truths, lambda mask: mask == NUCLEUS))
            if name == "segwbc":
                cells.append(_mean_dice(masks, truths, lambda mask: mask > 0))
            cells.append(f"{_spread(images):.1f}")
            if left:
                cells[-1] += f" ({left} left as they are)"
        rows.append(cells)
    head = ["stain", "segwbc nucleus", "segwbc cell", "segwbc spread", "all_idb2 nucleus", "all_idb2 spread"]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + (
        f"\n\nMean Dice (standard error) of {' and '.join(f'{len(p)} images of {n}' for n, p in judged.items())}, brought to "
        f"the stain of {len(reference)} images of {REFERENCE}; spread: standard deviation between images of their mean "
        "colour, in grey levels, mean over the channels. A normalisation that lowers Dice takes away what segmentation goes by."
    )


def _read(path: Path) -> Image8:
    return np.asarray(Image.open(path).convert("RGB"))


def _pairs(sets: Path, name: str) -> list[tuple[Image8, np.ndarray]]:
    """Images with their masks, uint8 H×W with 255 nucleus, 128 cytoplasm, from files with the same place and stem."""
    pairs = []
    for path in sorted((sets / name).rglob("*")):
        mask = (sets / f"{name}_masks" / path.relative_to(sets / name)).with_suffix(".png")
        if path.suffix in _SUFFIXES and mask.is_file():
            pairs.append((_read(path), np.asarray(Image.open(mask).convert("L"))))
    return pairs


def _mean_dice(
    masks: list[np.ndarray], truths: list[np.ndarray], region: Callable[[np.ndarray], np.ndarray]
) -> str:
    dice = []
    for mask, truth in zip(masks, truths, strict=True):
        # True masks may have been resized: 255 and 128 give way to values near them.
        a, b = region(mask), region(np.where(truth > 191, NUCLEUS, np.where(truth > 63, 128, 0)))
        dice.append(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))
    return f"{np.mean(dice):.3f} ({np.std(dice) / np.sqrt(len(dice)):.3f})"


def _spread(images: list[Image8]) -> float:
    return float(np.std([image.mean((0, 1)) for image in images], axis=0).mean())
