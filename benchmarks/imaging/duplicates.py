"""Finding the same cell twice: known pairs, altered copies of real images, what is found on PBC, and the time it takes."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import SimilarityTransform, warp

from balancer.data.decode import decode, make_square
from balancer.imaging.same_cell import pictures, same_cell_pairs
from balancer.progress import track

SIDE = 128
ORIGINALS, COPIES, SEED = 1000, 150, 0
SIZES = (1000, 2000, 4000, 8000)
# Pairs of segwbc that were seen to be the same cell; the last is under two labels.
KNOWN = (
    *(("lymphocyte", a, "lymphocyte", b) for a, b in ((112, 139), (51, 73), (70, 72), (19, 75))),
    *(("neutrophil", a, "neutrophil", b) for a, b in ((167, 169), (166, 171), (157, 158))),
    *(
        ("monocyte", a, "monocyte", b)
        for a, b in ((71, 84), (54, 91), (56, 92), (30, 86), (26, 89), (21, 82))
    ),
    ("monocyte", 90, "neutrophil", 60),
)
# What is done to a copy: largest shift (of the side), range of scales, largest turn (degrees), largest change of brightness.
ALTERED = {
    "JPEG 50": (0, (1, 1), 0, 0),
    "brightness ±20 %": (0, (1, 1), 0, 0.2),
    "any turn": (0, (1, 1), 180, 0),
    "scale 0.8 to 1.25": (0, (0.8, 1.25), 0, 0),
    "shift to 12 %": (0.12, (1, 1), 0, 0),
    "shift to 25 %": (0.25, (1, 1), 0, 0),
    "all, shift to 12 %": (0.12, (0.8, 1.25), 180, 0.2),
    "all, shift to 25 %": (0.25, (0.8, 1.25), 180, 0.2),
}


def table(sets: Path) -> str:
    """Markdown tables; CPU seconds, since wall time depends on what else runs."""
    parts = []
    if (sets / "segwbc").is_dir():
        parts.append(_known(sets / "segwbc"))
    if (sets / "pbc").is_dir():
        images = _read(_files(sets / "pbc"))
        parts += [_recall(images), _time(images), _found(images)]
    return "\n\n".join(parts) or f"No segwbc and no pbc in {sets}."


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg"})


def _read(files: list[Path]) -> np.ndarray:
    return np.stack([make_square(decode(file), SIDE, "crop") for file in track(files, "Reading images")])


def _known(folder: Path) -> str:
    files = _files(folder)
    position = {(file.parent.name, int(file.stem)): i for i, file in enumerate(files)}
    known = {tuple(sorted((position[a, m], position[b, n]))) for a, m, b, n in KNOWN}
    found = set(same_cell_pairs(pictures(_read(files))))
    return (
        f"segwbc: {len(known & found)} of {len(known)} known pairs found, {len(found - known)} other pairs "
        f"among {len(files)} images."
    )


def _recall(images: np.ndarray) -> str:
    rng = np.random.default_rng(SEED)
    originals = images[rng.choice(len(images), ORIGINALS, replace=False)]
    rows = ["| copy | found | other pairs |", "|---|---|---|"]
    for name, how in ALTERED.items():
        copies = np.stack([_altered(image, rng, *how) for image in originals[:COPIES]])
        pairs = same_cell_pairs(pictures(np.concatenate([originals, copies])))
        hits = sum(j == i + ORIGINALS for i, j in pairs)
        rows.append(f"| {name} | {hits / COPIES:.2f} | {len(pairs) - hits} |")
    head = f"{COPIES} altered copies among {ORIGINALS} PBC images, all saved as JPEG 50, the rim filled with its edge:"
    return f"{head}\n\n" + "\n".join(rows)


def _altered(
    image: np.ndarray,
    rng: np.random.Generator,
    shift: float,
    scales: tuple[float, float],
    turn: float,
    brightness: float,
) -> np.ndarray:
    size = len(image)
    middle = (size - 1) / 2
    moved = middle + rng.uniform(-shift, shift, 2) * size
    change = (
        SimilarityTransform(translation=(-middle, -middle))
        + SimilarityTransform(
            scale=np.exp(rng.uniform(*np.log(scales))), rotation=np.deg2rad(rng.uniform(-turn, turn))
        )
        + SimilarityTransform(translation=moved)
    )
    pixels = warp(image, change.inverse, mode="edge") * 255 * (1 + rng.uniform(-brightness, brightness))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def _time(images: np.ndarray) -> str:
    order = np.random.default_rng(SEED).permutation(len(images))
    sizes = [size for size in SIZES if size <= len(images)]
    seconds = []
    for size in sizes:
        start = time.process_time()
        same_cell_pairs(pictures(images[order[:size]]))
        seconds.append(time.process_time() - start)
    rows = ["| images | CPU seconds | per image and log₂ n, µs |", "|---|---|---|"]
    rows += [
        f"| {size} | {spent:.1f} | {1e6 * spent / size / np.log2(size):.0f} |"
        for size, spent in zip(sizes, seconds, strict=True)
    ]
    power = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    return "\n".join(rows) + f"\n\nTime grows as n to the {power:.2f}."


def _found(images: np.ndarray) -> str:
    pairs = same_cell_pairs(pictures(images))
    inside = len({i for pair in pairs for i in pair})
    return f"PBC: {len(pairs)} pairs, {inside} of {len(images)} images in them."
