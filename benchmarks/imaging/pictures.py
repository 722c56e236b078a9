"""Draw the pictures of docs/imaging.md from rendered cells: segmentations, the worst ones, and one cell's morphology.

python -m benchmarks.imaging.pictures --out docs/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from balancer.imaging.masks import NUCLEUS
from balancer.imaging.morphology import measure
from balancer.imaging.segmentation import segment
from balancer.smear import CLASSES, FIELD_UM, draw_cells, render
from benchmarks.imaging.segmentation import dice

CELLS, SEED, RESOLUTION = 60, 2, 128  # of each class; the tables are of other seeds
WORST, OF_A_CLASS = 9, 2  # cells shown as failed, and how many of one class at most
MEASURED = "AML"  # class of the cell whose morphology is shown
FOUND, TRUE = {"colors": ["yellow", "cyan"], "linewidths": 1.1}, {"colors": "red", "linewidths": 0.9}
TILE, DPI, COLOURS = 1.24, 100, 160  # inches, dots per inch, colours of the palette
SHOWN = {  # measured column → true parameter, where the renderer has one
    "cell_area_um2": "cell_area_um2",
    "nucleus_area_um2": "nucleus_area_um2",
    "nc_ratio": "nc_ratio",
    "nucleus_solidity": None,
    "lobes": "lobes",
    "membrane_sharpness_per_um": None,
    "membrane_closedness": None,
    "chromatin_density": None,
    "chromatin_clumping_medium": None,
    "nucleoli": "nucleoli",
    "nucleolus_contrast": "nucleolus_contrast",
    "granules": "granules",
    "vacuoles": "vacuoles",
    "cytoplasm_colour_b": None,
    "other_nuclei": None,
}

Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    truth = draw_cells(dict.fromkeys(CLASSES, CELLS), seed=SEED)
    images, masks = render(truth, RESOLUTION)
    found = np.stack([one.mask for one in segment(list(images))])
    truth["nucleus_dice"] = [dice(a == NUCLEUS, b == NUCLEUS) for a, b in zip(found, masks, strict=True)]
    truth["cell_dice"] = [dice(a > 0, b > 0) for a, b in zip(found, masks, strict=True)]
    truth["least"] = truth[["nucleus_dice", "cell_dice"]].min(axis=1)

    usual = truth.groupby("label", sort=False)["least"].apply(lambda one: one.sort_values().index[CELLS // 2])
    worst = truth.sort_values("least").groupby("label").head(OF_A_CLASS).index[:WORST]
    _save(_pairs(truth, images, masks, found, list(usual)), out / "segmentation.png")
    _save(_pairs(truth, images, masks, found, list(worst)), out / "segmentation-failed.png")
    cell = usual[MEASURED]
    _save(_morphology(truth.loc[cell], images[cell], found[cell]), out / "morphology.png")


def _pairs(truth: pd.DataFrame, images: Array, masks: Array, found: Array, chosen: list[int]) -> Figure:
    """Images above, below them the same with outlines: found nucleus and cell, and the true ones in red."""
    figure, axes = plt.subplots(2, len(chosen), figsize=(TILE * len(chosen), 2 * TILE + 0.45), squeeze=False)
    for (above, below), cell in zip(axes.T, chosen, strict=True):
        row = truth.loc[cell]
        above.imshow(images[cell])
        above.set_title(f"{row.label}\n{row.nucleus_dice:.2f} / {row.cell_dice:.2f}", fontsize=8, pad=3)
        below.imshow(images[cell])
        _outline(below, masks[cell], TRUE)
        _outline(below, found[cell], FOUND)
    _bare(figure)
    return figure


def _morphology(row: pd.Series, image: Array, mask: Array) -> Figure:
    """A cell with its outline, and a list of what is measured of it beside what is true."""
    values = measure(image, mask, FIELD_UM / RESOLUTION)
    lines = [f"{'':<28}{'measured':>9}{'true':>8}"]
    for name, parameter in SHOWN.items():
        value = values[name]
        true = "" if parameter is None else f"{row[parameter]:.3g}"
        lines.append(f"{name:<28}{'–' if value is None else f'{value:.3g}':>9}{true:>8}")
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.6), width_ratios=(2.6, 3.0))
    left.imshow(image)
    _outline(left, mask, FOUND)
    right.text(0, 0.5, "\n".join(lines), family="monospace", fontsize=7.5, va="center")
    _bare(figure)
    return figure


def _outline(axes: Axes, mask: Array, style: dict[str, Any]) -> None:
    """Contours of cell and nucleus: between the grey levels 0, 128 and 255."""
    if mask.any():
        axes.contour(mask, levels=[64, 192], **style)


def _bare(figure: Figure) -> None:
    for axes in figure.axes:
        axes.axis("off")
    figure.set_dpi(DPI)
    figure.tight_layout(pad=0.2, w_pad=0.3, h_pad=0.3)


def _save(figure: Figure, path: Path) -> None:
    """As PNG with a palette, a third of the size of full colour."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    palette = Image.fromarray(pixels).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
    plt.close(figure)


if __name__ == "__main__":
    main()
