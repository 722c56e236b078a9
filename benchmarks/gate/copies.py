"""Which share of altered train images is found as copies, and which share of other real images is taken for copies.

Half of at most `MOST` images of each class count as train images, the others as new ones; near-duplicates are not kept apart,
so that what is found among new images may be the same cell indeed. Features are not looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.transform import SimilarityTransform, warp

from balancer.imaging.duplicates import find_copies
from balancer.imaging.same_cell import look, pictures, same_cell_in
from benchmarks.gate.defects import read_class
from benchmarks.parts import markdown_table

SETS = ("pbc", "segwbc", "all_idb2", "all4")
RESOLUTION = 128
MOST, COPIED = 800, 40  # images of a class, and train images of it that are altered
FEWEST = 20
# Degrees turned, either way; scale; shift in any direction and σ of the blur as shares of the side.
ALTERED = {
    "turned by 20°": (20, 1, 0, 0),
    "turned by 35°": (35, 1, 0, 0),
    "turned by 70°": (70, 1, 0, 0),
    "scale 0.9": (0, 0.9, 0, 0),
    "scale 1.15": (0, 1.15, 0, 0),
    "scale 0.75": (0, 0.75, 0, 0),
    "shift 5 %": (0, 1, 0.05, 0),
    "shift 12 %": (0, 1, 0.12, 0),
    "blur 0.8 %": (0, 1, 0, 0.008),
    "blur 1.5 %": (0, 1, 0, 0.015),
    "turned by 35°, blur 0.8 %": (35, 1, 0, 0.008),
    "turned by 35°, blur 1.5 %": (35, 1, 0, 0.015),
    "turned by 50°, scale 0.9, shift 6 %, blur 0.6 %": (50, 0.9, 0.06, 0.006),
}


def _altered(
    image: np.ndarray, rng: np.random.Generator, turn: float, scale: float, shift: float, blur: float
) -> np.ndarray:
    """The image moved, its rim filled with its mirror image, and blurred: uint8 R×R×3."""
    middle, angle = np.full(2, (len(image) - 1) / 2), rng.uniform(0, 2 * np.pi)
    change = (
        SimilarityTransform(translation=-middle)
        + SimilarityTransform(scale=scale, rotation=np.deg2rad(turn * rng.choice([-1, 1])))
        + SimilarityTransform(
            translation=middle + shift * len(image) * np.array([np.cos(angle), np.sin(angle)])
        )
    )
    pixels = 255 * warp(image, change.inverse, mode="reflect", order=3)
    width = blur * len(image)
    return np.rint(gaussian_filter(pixels, (width, width, 0)).clip(0, 255)).astype(np.uint8)


def judge(root: Path) -> dict[str, list[tuple[int, int, int]]]:
    """For each row, class by class: images, those found in pixels, and those found there or as the same cell.

    An altered image counts as found where its own train image is named.
    """
    rows: dict[str, list[tuple[int, int, int]]] = {name: [] for name in (*ALTERED, "other real images")}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        images = read_class(folder, RESOLUTION, MOST)
        if len(images) < FEWEST:
            continue
        half = len(images) // 2
        train, new = np.stack(images[:half]), np.stack(images[half:])
        cells = look(pictures(train))
        in_pixels, as_cell = find_copies(new, train)[0], same_cell_in(look(pictures(new)), cells)
        rows["other real images"].append(
            (len(new), int((in_pixels >= 0).sum()), int(((in_pixels >= 0) | (as_cell >= 0)).sum()))
        )
        rng = np.random.default_rng(0)
        for name, how in ALTERED.items():
            copies = np.stack([_altered(image, rng, *how) for image in train[:COPIED]])
            in_pixels, as_cell = find_copies(copies, train)[0], same_cell_in(look(pictures(copies)), cells)
            either = np.where(in_pixels >= 0, in_pixels, as_cell)
            right = np.arange(len(copies))
            rows[name].append((len(copies), int((in_pixels == right).sum()), int((either == right).sum())))
    return rows


def table(sets: Path) -> str:
    """The table, as markdown."""
    names = [name for name in SETS if (sets / name).is_dir()]
    judged = {name: judge(sets / name) for name in names}
    header = [f"{RESOLUTION} px"]
    for name in names:
        header += [f"{name}: images", "in pixels", "with cells"]
    lines = []
    for row in (*ALTERED, "other real images"):
        cells = [row]
        for name in names:
            total, pixels, either = np.sum(judged[name][row], axis=0, dtype=int)
            cells += [f"{total}", f"{pixels / total:.1%}", f"{either / total:.1%}"]
        lines.append(cells)
    missing = [f"Not found under {sets}: {name}." for name in SETS if name not in names]
    return "\n\n".join([markdown_table(header, lines), *missing])
