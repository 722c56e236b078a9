"""Finding the same cell twice, and copies of train images: known pairs, altered copies, different cells, time."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import SimilarityTransform, warp

from balancer.data.decode import decode, make_square
from balancer.imaging.duplicates import apply_transform, find_copies, near_duplicate_pairs
from balancer.imaging.same_cell import pictures, same_cell_pairs
from balancer.progress import track
from balancer.smear import CLASSES, draw_cells, render

SIDE = 128
ORIGINALS, COPIES, SEED = 1000, 150, 0
SIZES = (1000, 2000, 4000, 8000)
UNSEEN = ("all_idb2", "all4")  # sets on which no threshold of `same_cell` was chosen
RENDERED = 333  # cells of each class
COPIED, TRAIN, OTHERS = 300, 2000, 2000  # PBC images for `find_copies`
RESOLUTIONS = (32, 64, 128)
MARGIN = 12  # pixels of 128 by which a copy's frame may move, so that what comes into it is real
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
# What is done to a candidate that copies a train image, at the train images' resolution: largest shift in pixels along
# each axis, whether it is turned or flipped, largest change of brightness, σ of the blur in pixels, quality as JPEG.
CANDIDATES: dict[str, tuple[int, bool, float, float, int | None]] = {
    "as it is": (0, False, 0, 0, None),
    "flipped or turned": (0, True, 0, 0, None),
    "brightness ±20 %": (0, False, 0.2, 0, None),
    "JPEG 75": (0, False, 0, 0, 75),
    "JPEG 30": (0, False, 0, 0, 30),
    "blur 0.5 px": (0, False, 0, 0.5, None),
    "blur 1 px": (0, False, 0, 1, None),
    "blur 1.5 px": (0, False, 0, 1.5, None),
    "shift 1 px": (1, False, 0, 0, None),
    "shift 2 px": (2, False, 0, 0, None),
    "shift 3 px": (3, False, 0, 0, None),
    "all: turn, shift 2 px, brightness, blur 0.5 px, JPEG 75": (2, True, 0.2, 0.5, 75),
}
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
    parts, found = (
        [],
        {name: _read(_files(sets / name)) for name in ("pbc", *UNSEEN) if (sets / name).is_dir()},
    )
    if (sets / "segwbc").is_dir():
        parts.append(_known(sets / "segwbc"))
    if found:
        parts.append(_recall(found))
    parts.append(_different(sets, found))
    if "pbc" in found:
        parts += [_time(found["pbc"]), _found(found["pbc"]), _copies(found["pbc"])]
    return "\n\n".join(parts)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg"})


def _read(files: list[Path]) -> np.ndarray:
    return np.stack([make_square(decode(file), SIDE, "crop") for file in track(files, "Reading images")])


def _known(folder: Path) -> str:
    files = _files(folder)
    position = {(file.parent.name, int(file.stem)): i for i, file in enumerate(files)}
    known = {tuple(sorted((position[a, m], position[b, n]))) for a, m, b, n in KNOWN}
    images = _read(files)
    found = set(same_cell_pairs(pictures(images)))
    same_picture = {(i, j) for i, j, _ in near_duplicate_pairs(images)}
    return (
        f"segwbc: {len(known & found)} of {len(known)} known pairs found as the same cell, {len(found - known)} other pairs "
        f"among {len(files)} images. As the same picture {len(known & same_picture)} known pairs, "
        f"{len(same_picture - known)} other pairs."
    )


def _recall(sets: dict[str, np.ndarray]) -> str:
    head = ["copy", *(f"{name}: found | other pairs" for name in sets)]
    rows = ["| " + " | ".join(head) + " |", "|---" * (1 + 2 * len(sets)) + "|"]
    rng = np.random.default_rng(SEED)
    originals = {
        name: images[rng.choice(len(images), min(ORIGINALS, len(images)), replace=False)]
        for name, images in sets.items()
    }
    own = {name: set(same_cell_pairs(pictures(images))) for name, images in originals.items()}
    for name, how in ALTERED.items():
        cells = [name]
        for one, images in originals.items():
            copies = np.stack([_altered(image, rng, *how) for image in images[:COPIES]])
            pairs = set(same_cell_pairs(pictures(np.concatenate([images, copies]))))
            hits = sum(j == i + len(images) for i, j in pairs)
            # An original that shows the same cell as another one looks like its copy too.
            others = {
                (i, j)
                for i, j in pairs - own[one]
                if j != i + len(images) and tuple(sorted((i % len(images), j % len(images)))) not in own[one]
            }
            cells.append(f"{hits / len(copies):.2f} | {len(others)}")
        rows.append("| " + " | ".join(cells) + " |")
    numbers = ", ".join(f"{min(COPIES, len(x))} among {len(x)} of {name}" for name, x in originals.items())
    return (
        f"Altered copies, {numbers}, all saved as JPEG 50, the rim filled with its edge; other pairs: beyond those that the "
        "originals have among themselves:\n\n" + "\n".join(rows)
    )


def _different(sets: Path, read: dict[str, np.ndarray]) -> str:
    """Pairs that are found where there are none, or where hardly any can be."""
    rendered = render(draw_cells(dict.fromkeys(CLASSES, RENDERED), seed=SEED), SIDE)[0]
    pairs = same_cell_pairs(pictures(rendered))
    sentences = [f"{len(rendered)} rendered cells, all different: {len(pairs)} pairs."]
    names = [name for name in UNSEEN if name in read]
    if names:
        labels = [f"{name}/{file.parent.name}" for name in names for file in _files(sets / name)]
        pairs = same_cell_pairs(pictures(np.concatenate([read[name] for name in names])))
        apart = sum(labels[i] != labels[j] for i, j in pairs)
        sentences.append(
            f"{' and '.join(names)} together, {len(labels)} images: {len(pairs)} pairs, {apart} of them in two sets or under two "
            "labels, where no cell should be."
        )
    return " ".join(sentences)


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
    return _as_jpeg(pixels.clip(0, 255).round().astype(np.uint8), 50)


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


def _copies(images: np.ndarray) -> str:
    """What `find_copies` finds, by what was done to the copy and at which resolution."""
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(images))
    train, others = images[order[:TRAIN]], images[order[TRAIN : TRAIN + OTHERS]]
    rows = ["| candidate | " + " | ".join(f"{size} px" for size in RESOLUTIONS) + " |"]
    rows.append("|---" * (1 + len(RESOLUTIONS)) + "|")
    known = {size: np.stack([_framed(image, size) for image in train]) for size in RESOLUTIONS}
    for name, how in CANDIDATES.items():
        cells = [name]
        for size in RESOLUTIONS:
            made = np.stack([_candidate(image, size, rng, *how) for image in track(train[:COPIED], name)])
            found = find_copies(made, known[size])[0]
            cells.append(f"{(found == np.arange(COPIED)).mean():.3f}")
        rows.append("| " + " | ".join(cells) + " |")
    wrong, seconds = [], []
    for size in RESOLUTIONS:
        framed = np.stack([_framed(image, size) for image in others])
        start = time.process_time()
        found, similarity = find_copies(framed, known[size])
        seconds.append(f"{time.process_time() - start:.1f}")
        wrong.append(f"{(found >= 0).sum()} ({similarity.max():.2f})")
    rows.append(
        f"| {len(others)} other cells: taken for copies (highest correlation) | " + " | ".join(wrong) + " |"
    )
    rows.append(f"| CPU seconds for those {len(others)} | " + " | ".join(seconds) + " |")
    return (
        f"Share found of {COPIED} copies among {TRAIN} train images of PBC, as the gate seeks them:\n\n"
        + "\n".join(rows)
    )


def _framed(image: np.ndarray, size: int, down: float = 0, right: float = 0) -> np.ndarray:
    """The middle of an image at a resolution, seen through a frame that is moved by so many pixels of that resolution."""
    inner = len(image) - 2 * MARGIN
    top, left = MARGIN + down * inner / size, MARGIN + right * inner / size
    box = (left, top, left + inner, top + inner)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box))


def _candidate(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    shift: int,
    turned: bool,
    brightness: float,
    blur: float,
    quality: int | None,
) -> np.ndarray:
    down, right = rng.choice([-shift, shift]), rng.integers(-shift, shift + 1)
    pixels = _framed(image, size, *rng.permutation([down, right]))
    if turned:
        pixels = apply_transform(pixels, int(rng.integers(1, 8)))
    lit = gaussian_filter(pixels.astype(np.float32), (blur, blur, 0)) * (
        1 + rng.uniform(-brightness, brightness)
    )
    made = lit.clip(0, 255).round().astype(np.uint8)
    return made if quality is None else _as_jpeg(made, quality)


def _as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
