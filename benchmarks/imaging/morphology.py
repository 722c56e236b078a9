"""What measured morphology is worth: against the renderer's true parameters, and against attributes that people gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from balancer.imaging.morphology import measure
from balancer.imaging.segmentation import segment
from balancer.smear import CLASSES, FIELD_UM, draw_cells, render

RESOLUTION = 128
CELLS = 60  # rendered, of each class
IMAGES = 1500  # of PBC, those with attributes
DEFINED = 0.7  # of the images on either side, or the measure is not judged there

TRUE_OF = {
    "cell_area_um2": "cell_area_um2",
    "nucleus_area_um2": "nucleus_area_um2",
    "nc_ratio": "nc_ratio",
    "cell_eccentricity": "cell_elongation",
    "cell_circularity": "cell_irregularity_um",
    "cell_solidity": "cell_irregularity_um",
    "nucleus_eccentricity": "chain",
    "nucleus_circularity": "constriction",
    "nucleus_solidity": "chain",
    "lobes": "segments",
    "membrane_sharpness_per_um": "focus_um",
    "chromatin_density": "chromatin_od",
    "chromatin_clumping_fine": "chromatin_clumping",
    "chromatin_clumping_medium": "chromatin_clumping",
    "chromatin_clumping_coarse": "chromatin_clumping",
    "chromatin_frequency_per_um": "chromatin_coarseness",
    "nucleoli": "nucleoli",
    "nucleolus_contrast": "nucleolus_contrast",
    "cytoplasm_colour_lightness": "basophilia",
    "cytoplasm_colour_a": "acidophilia",
    "cytoplasm_colour_b": "basophilia",
    "cytoplasm_texture": "frost",
    "granules": "granules",
    "granule_density_per_um2": "granules_per_um2",
    "granule_radius_um": "granule_radius_um",
    "granule_contrast": "granule_azure",
    "granule_colour_lightness": "granule_azure",
    "granule_colour_a": "granule_eosin",
    "granule_colour_b": "granule_azure",
    "vacuoles": "vacuoles",
    "vacuole_share": "vacuoles",
    "background_colour_red": "light_red",
    "background_colour_green": "light_green",
    "background_colour_blue": "light_blue",
    "red_cell_colour_lightness": "haemoglobin_gain",
    "red_cell_colour_a": "haemoglobin_gain",
    "red_cell_colour_b": "light_blue",
}
"""Measured column → the true parameter that it is meant to follow; for the rest the closest one is printed."""

MADE_FOR = {
    "cell_size": "cell_area_px2",
    "cell_shape": "cell_circularity",
    "nucleus_shape": "nucleus_solidity",
    "nuclear_cytoplasmic_ratio": "nc_ratio",
    "chromatin_density": "chromatin_density",
    "cytoplasm_vacuole": "vacuoles",
    "cytoplasm_texture": "cytoplasm_texture",
    "cytoplasm_colour": "cytoplasm_colour_b",
    "granule_type": "granules",
    "granule_colour": "granule_colour_b",
    "granularity": "granules",
}
"""Attribute of WBCAtt → the measured column that was made for it."""


def table(sets: Path) -> str:
    """Return both tables as markdown; `sets` is the folder of the real image sets, of which `pbc` is read."""
    return f"{rendered()}\n\n{attributes(sets / 'pbc')}"


def rendered() -> str:
    """Rank correlation of each measure with the renderer's true parameters, measured on the renderer's own masks."""
    truth = draw_cells(dict.fromkeys(CLASSES, CELLS), seed=1)
    images, masks = render(truth, RESOLUTION)
    measured = pd.DataFrame(
        [measure(i, m, FIELD_UM / RESOLUTION) for i, m in zip(images, masks, strict=True)], dtype=float
    )
    truth["chain"] = (truth["lobes"] - 1) * truth["lobe_spacing"]  # the nucleus's length, in lobe radii
    truth["segments"] = truth["lobes"].where(truth["constriction"] > 0.5, 1)
    truth.loc[truth["nucleoli"] == 0, "nucleolus_contrast"] = np.nan  # drawn for all, seen where there is one
    truth.loc[truth["granules"] < 20, ["granule_radius_um", "granule_azure", "granule_eosin"]] = np.nan
    parameters = truth.select_dtypes("number").drop(columns="cell_seed")
    parameters = parameters.loc[:, parameters.nunique() > 1]
    rows = []
    for name, values in measured.items():
        meant = TRUE_OF.get(str(name))
        if meant is None:
            every = {p: _rank(values, parameters[p]) for p in parameters}
            meant = max(every, key=lambda p: np.nan_to_num(abs(every[p])))
        within = [
            _rank(values[own], parameters.loc[own, meant]) for own in truth.groupby("label").groups.values()
        ]
        closest = "" if name in TRUE_OF else " (closest)"
        within_text = f"{np.nanmedian(within):+.2f}" if np.isfinite(within).any() else "–"
        overall = _rank(values, parameters[meant])
        rows.append(
            f"| `{name}` | `{meant}`{closest} | {overall:+.2f} | {within_text} |"
            if np.isfinite(overall)
            else f"| `{name}` | – | constant | – |"
        )
    return "\n".join(
        [
            f"{len(truth)} rendered cells, {CELLS} of each class, {RESOLUTION} px, the renderer's masks: Spearman's ρ with the true "
            "parameter that the measure is meant to follow (or the closest one), over all cells, and the median within classes.",
            "",
            "| measured | true parameter | ρ, all | ρ, within a class |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def attributes(pbc: Path) -> str:
    """Which measure separates which of the eleven attributes of WBCAtt on PBC: AUROC, one value against the others.

    The measure is chosen on one half of the images and judged on the other, on masks by segmentation.
    """
    known = pd.read_csv(pbc / "metadata.csv").dropna(subset=["cell_size"])
    known = known.sample(min(IMAGES, len(known)), random_state=0).reset_index(drop=True)
    images = [np.asarray(Image.open(pbc / file).convert("RGB")) for file in known["file_name"]]
    rows = [measure(image, found.mask) for image, found in zip(images, segment(images), strict=True)]
    measured = pd.DataFrame(rows, dtype=float)
    choosing = np.arange(len(known)) % 2 == 0
    lines = []
    for attribute, meant in MADE_FOR.items():
        values = sorted(known[attribute].unique())
        for value in values if len(values) > 2 else values[-1:]:
            is_value = (known[attribute] == value).to_numpy()
            chosen = pd.Series(
                {name: _auroc(column[choosing], is_value[choosing]) for name, column in measured.items()}
            )
            texts = []
            for name in (meant, *(chosen - 0.5).abs().nlargest(3).index):
                more = chosen[name] > 0.5
                judged = _auroc(measured[name][~choosing], is_value[~choosing])
                known_text = f"{'↑' if more else '↓'} {judged if more else 1 - judged:.2f}"
                texts.append(f"`{name}` {known_text if np.isfinite(judged + chosen[name]) else '–'}")
            lines.append(f"| {attribute} | {value} | {is_value.sum()} | {' | '.join(texts)} |")
    return "\n".join(
        [
            f"{len(known)} images of PBC, a fixed random subset of those with WBCAtt's attributes, masks by segmentation: how well the "
            "measure that was made for an attribute separates a value from the others (AUROC; ↑ the value has more of it, ↓ less), and "
            "the three that separate it best, direction and choice from one half of the images, AUROC from the other. Attributes go "
            "with cell types here, and so do measures: the best may know the type, not the attribute.",
            "",
            "| attribute | value | images | made for it | best | second | third |",
            "|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


def _rank(values: pd.Series, other: pd.Series) -> float:
    """Spearman's ρ where both are known; NaN on fewer than ten cells or where one is constant."""
    known = values.notna() & other.notna()
    if known.sum() < 10 or values[known].nunique() < 2 or other[known].nunique() < 2:
        return float("nan")
    return float(spearmanr(values[known], other[known])[0])


def _auroc(values: pd.Series, positive: np.ndarray) -> float:
    """AUROC of a measure; NaN where it is not defined on nearly all images of either side."""
    known = values.notna().to_numpy()
    if min(known[positive].mean(), known[~positive].mean()) < DEFINED:
        return float("nan")
    return float(roc_auc_score(positive[known], values[known]))
