"""The true parameters of cells in the words of WBCAtt (Tsutsui et al. 2023), where its vocabulary has words for them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def describe(cells: pd.DataFrame) -> pd.DataFrame:
    """Name the eleven attributes of cells as drawn by `parameters.sample_cells`, a row per cell.

    Columns and values are those of WBCAtt: `cell_size` (big, small), `cell_shape` (round, irregular), `nucleus_shape`
    (unsegmented-round, -indented, -band, segmented-bilobed, -multilobed, irregular), `nuclear_cytoplasmic_ratio`
    (low, high), `chromatin_density` (densely, loosely), `cytoplasm_vacuole` (no, yes), `cytoplasm_texture` (clear,
    frosted), `cytoplasm_colour` (light blue, blue, purple blue), `granule_type` (small, round, coarse, nil),
    `granule_colour` (pink, red, purple, nil) and `granularity` (no, yes). The thresholds are ours.
    """
    c = cells
    lobes, segmented = c["lobes"], c["constriction"] > 0.5
    chain = (lobes - 1) * c["lobe_spacing"]  # length of the nucleus beyond one lobe, in lobe radii
    blue = c["basophilia"] > 0.12
    none, large = c["granules"] < 5, c["granule_radius_um"] > 0.27
    return pd.DataFrame(
        {
            "cell_size": _first((c["cell_diameter_um"] > 12.0, "big"), otherwise="small"),
            "cell_shape": _first(
                (c["cell_irregularity_um"] > 0.4, "irregular"),
                (c["cell_elongation"] > 1.2, "irregular"),
                otherwise="round",
            ),
            "nucleus_shape": _first(
                (c["nucleus_irregularity_um"] > 0.5, "irregular"),
                (segmented & (lobes > 2), "segmented-multilobed"),
                (segmented & (lobes == 2), "segmented-bilobed"),
                (chain > 2.2, "unsegmented-band"),
                (chain > 0.7, "unsegmented-indented"),
                otherwise="unsegmented-round",
            ),
            "nuclear_cytoplasmic_ratio": _first((c["nc_ratio"] > 0.6, "high"), otherwise="low"),
            "chromatin_density": _first((c["chromatin_od"] > 0.58, "densely"), otherwise="loosely"),
            "cytoplasm_vacuole": _first((c["vacuoles"] > 0, "yes"), otherwise="no"),
            "cytoplasm_texture": _first((c["frost"] > 0.18, "frosted"), otherwise="clear"),
            "cytoplasm_colour": _first(
                (blue & (c["acidophilia"] > 0.045), "purple blue"), (blue, "blue"), otherwise="light blue"
            ),
            "granule_type": _first(
                (none, "nil"),
                (~large, "small"),
                (c["granule_azure"] > c["granule_eosin"], "coarse"),
                otherwise="round",
            ),
            "granule_colour": _first(
                (none, "nil"), (c["granule_azure"] > 0.25, "purple"), (large, "red"), otherwise="pink"
            ),
            "granularity": _first((none, "no"), otherwise="yes"),
        },
        index=cells.index,
    )


def _first(*rules: tuple[pd.Series, str], otherwise: str) -> np.ndarray:
    """For each cell the word of the first condition that holds."""
    return np.select([condition.to_numpy() for condition, _ in rules], [word for _, word in rules], otherwise)
