"""What differs from patient to patient on a slide: the stain, the light, the focus, the red cells."""

from __future__ import annotations

import numpy as np
import pandas as pd

CREAM = np.array([255.0, 240.0, 216.0])
COOL_WHITE = np.array([236.0, 233.0, 238.0])


def sample_patients(n: int, seed: list[int]) -> pd.DataFrame:
    """Draw the slides of `n` patients, one row a patient; deterministic in `seed`.

    Columns: gains of the four dyes (`eosin_gain` …) and of the densities seen by the camera's channels
    (`red_gain` …), factors around 1; `light_red` … the empty background's grey levels (0-255); `light_gradient`
    the relative fall of light across the field; `focus_um` the standard deviation of the blur; `grain` the
    sensor noise in grey levels; `red_cell_diameter_um`, `red_cell_pallor` (0 none, 1 that of a biconcave disc),
    `red_cell_density` (share of the free places taken) and `platelets` (expected number in a field).
    """
    rng = np.random.default_rng(seed)
    table = {f"{dye}_gain": rng.lognormal(0, 0.13, n) for dye in ("eosin", "azure", "blue", "haemoglobin")}
    table |= {f"{channel}_gain": rng.lognormal(0, 0.05, n) for channel in ("red", "green", "blue_channel")}
    warmth = rng.beta(1.6, 0.9, (n, 1))
    light = (warmth * CREAM + (1 - warmth) * COOL_WHITE) * rng.uniform(0.95, 1.0, (n, 1))
    table |= {f"light_{channel}": light[:, i] for i, channel in enumerate(("red", "green", "blue"))}
    return pd.DataFrame(
        table
        | {
            "light_gradient": rng.uniform(0, 0.08, n),
            "focus_um": rng.uniform(0.08, 0.28, n),
            "grain": rng.uniform(0.6, 2.0, n),
            "red_cell_diameter_um": rng.normal(7.3, 0.3, n).clip(6.5, 8.1),
            "red_cell_pallor": rng.uniform(0.85, 1.35, n),
            "red_cell_density": rng.uniform(0.45, 0.95, n),
            "platelets": rng.uniform(0.2, 2.0, n),
        }
    )
