"""How well nucleus and cell are found, against masks drawn by people and against the renderer's own, beside plain Otsu.

Plain Otsu thresholds green: three classes (multi-Otsu), the darkest being nucleus, the two darker ones cell, of the
part that lies under the image's centre or else nearest to it, holes filled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_multiotsu
from skimage.segmentation import find_boundaries

from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.imaging.segmentation import segment
from balancer.smear import CLASSES, draw_cells, render

Array = np.ndarray
TOLERANCE = 2  # pixels by which a boundary may miss
RENDERED = 25  # cells of each class
HOLD_OUT_SEED = 0  # on segwbc the constants were chosen on the other half


def dice(a: Array, b: Array) -> float:
    """2|A∩B| / (|A|+|B|) of two bool regions; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def boundary_f1(a: Array, b: Array, tolerance: float = TOLERANCE) -> float:
    """Harmonic mean of the shares of either inner boundary within `tolerance` pixels of the other (Csurka et al. 2013)."""
    edges = [find_boundaries(region, mode="inner") for region in (a, b)]
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    near = [ndimage.distance_transform_edt(~edge) <= tolerance for edge in edges]
    precision, recall = near[1][edges[0]].mean(), near[0][edges[1]].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def central(region: Array) -> Array:
    """The part of a bool region under the image's centre, or else nearest to it."""
    labels, count = ndimage.label(region)
    if count < 2:
        return region
    rows, columns = np.indices(region.shape)
    off = np.hypot(rows - (region.shape[0] - 1) / 2, columns - (region.shape[1] - 1) / 2)
    return labels == labels.ravel()[np.where(labels > 0, off, np.inf).argmin()]


def plain_otsu(image: Array) -> Array:
    """Mask of one image uint8 H×W×3 by multi-Otsu on green, uint8 H×W."""
    green = ndimage.gaussian_filter(image[..., 1].astype(np.float32), 1)
    dark, pale = threshold_multiotsu(green, 3)
    cell = ndimage.binary_fill_holes(central(green < pale))
    return np.where(cell & (green < dark), NUCLEUS, np.where(cell, CYTOPLASM, 0)).astype(np.uint8)


def read_set(folder: Path, masks: Path) -> tuple[list[Array], list[Array]]:
    """Images uint8 H×W×3 and masks uint8 H×W, of files with the same place and stem."""
    images, truth = [], []
    for mask in sorted(masks.rglob("*.png")):
        path = next((folder / mask.relative_to(masks).parent).glob(f"{mask.stem}.*"))
        images.append(np.asarray(Image.open(path).convert("RGB")))
        truth.append(np.asarray(Image.open(mask).convert("L")))
    return images, truth


def both_regions(found: list[Array], truth: list[Array]) -> dict[str, tuple[list[Array], list[Array]]]:
    """The bool regions to compare, found and drawn, where nucleus and cytoplasm were drawn."""
    return {
        "nucleus": ([mask == NUCLEUS for mask in found], [mask == NUCLEUS for mask in truth]),
        "cell": ([mask > 0 for mask in found], [mask > 0 for mask in truth]),
    }


def one_region(found: list[Array], truth: list[Array]) -> dict[str, tuple[list[Array], list[Array]]]:
    """The same where one region was drawn: masks of ALL-IDB2 hold other cells at the edge, so the central one counts."""
    drawn = [central(mask > 127) for mask in truth]
    return {
        "nucleus": ([mask == NUCLEUS for mask in found], drawn),
        "cell": ([mask > 0 for mask in found], drawn),
    }


def _rendered() -> tuple[list[Array], list[Array]]:
    cells = draw_cells(dict.fromkeys(CLASSES, RENDERED), seed=0)
    images, masks = render(cells, 128)
    return list(images), list(masks)


def _rows(
    name: str,
    images: list[Array],
    truth: list[Array],
    compare: Callable[[list[Array], list[Array]], dict[str, tuple[list[Array], list[Array]]]],
) -> Iterator[str]:
    held = np.random.default_rng(HOLD_OUT_SEED).permutation(len(images))[len(images) // 2 :]
    methods: dict[str, Callable[[], list[Array]]] = {
        "hemabalance": lambda: [result.mask for result in segment(images)],
        "plain Otsu": lambda: [plain_otsu(image) for image in images],
    }
    for method, run in methods.items():
        wall, cpu = time.perf_counter(), time.process_time()
        found = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for region, (got, drawn) in compare(found, truth).items():
            scores = np.array([dice(a, b) for a, b in zip(got, drawn, strict=True)])
            edges = np.array([boundary_f1(a, b) for a, b in zip(got, drawn, strict=True)])
            yield (
                f"| {name} | {region} | {method} | {len(images)} | {scores.mean():.3f} | {np.median(scores):.3f} | "
                f"{f'{scores[held].mean():.3f}' if name == 'segwbc' else '–'} | {(scores < 0.9).mean():.0%} | {edges.mean():.3f} | "
                f"{len(images) / wall:.0f} | {len(images) / cpu:.0f} |"
            )


def table(sets: Path) -> str:
    """The table, as markdown."""
    lines = [
        f"| set | region | method | images | Dice mean | median | hold-out half | below 0.9 | boundary F1 ({TOLERANCE} px) | images/s | images/s of one core's time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    missing = []
    for name, compare in (("segwbc", both_regions), ("all_idb2", one_region)):
        if (sets / f"{name}_masks").is_dir():
            lines += _rows(name, *read_set(sets / name, sets / f"{name}_masks"), compare)
        else:
            missing.append(name)
    lines += _rows("rendered", *_rendered(), both_regions)
    lines += [
        "",
        "Hold-out half: the half of segwbc on which the constants were not scanned; the channel and the way to threshold were "
        "chosen with all of the set in view. The masks of all_idb2, given as nuclei, "
        "enclose the cytoplasm of mature cells too, so that they are compared with both regions.",
    ]
    if missing:
        lines.append(f"Not found under {sets}: {', '.join(missing)}.")
    return "\n".join(lines)
