"""What the cells of a smear look like, as numbers: one row of distributions per cell type.

Lengths are in µm, angles in radians, densities of dye in optical density, all else is a ratio. Sizes are those of cells
spread and dried on a slide, as textbooks of haematology give them (Bain, *Blood Cells*; Wintrobe's *Clinical
Hematology*), beside red cells of 7 to 8 µm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from balancer.errors import unknown_name

Normal = tuple[float, float]
"""Mean and standard deviation of a normal distribution, cut at 2.5 standard deviations and at 0."""

MAX_LOBES = 5
PATIENT_SHARE = 0.25
"""Intraclass correlation: the share of a parameter's variance that lies between patients."""


@dataclass(frozen=True)
class CellType:
    """Distributions of the morphological parameters of one cell type.

    The nucleus is a chain of `lobes` lobes along a bent line: one lobe is a round nucleus, a few lobes without
    constriction a kidney or a band, with full constriction a segmented nucleus whose lobes hang on filaments.
    """

    cell_diameter_um: Normal  # of the disc with the cell's area
    nc_ratio: Normal  # nucleus area / cell area
    lobes: tuple[float, ...] = (1.0,)  # probabilities of 1, 2, … lobes
    lobe_spacing: Normal = (1.2, 0.15)  # between neighbouring lobe centres, in lobe radii
    bend: Normal = (1.5, 0.5)  # angle that the chain of lobes turns through
    constriction: Normal = (0.2, 0.08)  # 0: as wide between the lobes as in them; 1: a filament
    nucleus_irregularity_um: Normal = (0.18, 0.06)  # amplitude of the outline's deviation
    nucleus_offset: Normal = (0.4, 0.2)  # 0: central; 1: against the cell's edge
    cell_elongation: Normal = (1.06, 0.04)  # long axis / short axis
    cell_irregularity_um: Normal = (0.2, 0.07)
    cell_edge_um: Normal = (0.25, 0.05)  # width over which the outline fades
    chromatin_od: Normal = (0.66, 0.08)  # mean density of the nucleus
    chromatin_clumping: Normal = (0.34, 0.06)  # amplitude of the texture relative to the mean
    chromatin_coarseness: Normal = (0.5, 0.12)  # share of 0.8 µm clumps against 0.4 µm grains
    nucleoli: float = 0.0  # expected number
    nucleolus_radius_um: Normal = (0.6, 0.1)
    nucleolus_contrast: Normal = (0.45, 0.12)  # share of the chromatin that is missing there
    basophilia: Normal = (0.07, 0.02)  # blue of RNA in the cytoplasm
    acidophilia: Normal = (0.08, 0.02)  # pink of the cytoplasm itself
    frost: Normal = (0.12, 0.04)  # amplitude of the cytoplasm's ground-glass texture
    halo: Normal = (0.0, 0.0)  # paleness around the nucleus (Golgi zone)
    granules_per_um2: Normal = (0.0, 0.0)
    granule_radius_um: Normal = (0.2, 0.03)
    granule_eosin: Normal = (0.0, 0.0)  # dye in a granule
    granule_azure: Normal = (0.0, 0.0)
    granule_cover: float = 0.0  # how much of the nucleus granules hide: 0 none, 1 as on the cytoplasm
    vacuoles: float = 0.0  # expected number
    vacuole_radius_um: Normal = (0.55, 0.12)
    auer_rods: float = 0.0  # probability of an Auer rod


# Neutrophil granules: fine, pink-lilac, all over the cytoplasm.
_FINE: dict[str, Any] = {
    "granules_per_um2": (1.4, 0.3),
    "granule_radius_um": (0.16, 0.02),
    "granule_eosin": (0.08, 0.03),
    "granule_azure": (0.13, 0.04),
}

CELL_TYPES: dict[str, CellType] = {
    # 2-5 lobes on filaments, clumped dark chromatin, pale pink cytoplasm; N:C about 1:3.
    "segmented neutrophil": CellType(
        (12.3, 1.0), (0.36, 0.05), lobes=(0, 0.22, 0.43, 0.27, 0.08), lobe_spacing=(1.85, 0.2), bend=(3.0, 1.0),
        nucleus_irregularity_um=(0.26, 0.08), constriction=(0.75, 0.12), chromatin_od=(0.71, 0.08), chromatin_coarseness=(0.6, 0.12), vacuoles=0.05, **_FINE,
    ),
    # The same cell before segmentation: a sausage or horseshoe, nowhere a filament.
    "band neutrophil": CellType(
        (12.6, 1.0), (0.40, 0.05), lobes=(0, 0, 0.4, 0.6), lobe_spacing=(1.3, 0.12), bend=(3.2, 0.7),
        constriction=(0.22, 0.1), chromatin_od=(0.67, 0.08), chromatin_coarseness=(0.55, 0.12), **_FINE,
    ),
    # Small cell, round dense nucleus that all but fills it, rim of clear sky-blue cytoplasm.
    "lymphocyte": CellType(
        (9.4, 1.1), (0.70, 0.08), lobes=(0.75, 0.25), lobe_spacing=(0.55, 0.15), bend=(0.6, 0.3),
        chromatin_od=(0.71, 0.08), chromatin_clumping=(0.30, 0.06), chromatin_coarseness=(0.55, 0.12),
        cell_irregularity_um=(0.3, 0.14), cell_elongation=(1.10, 0.07), basophilia=(0.20, 0.06),
        acidophilia=(0.02, 0.01), frost=(0.22, 0.1), halo=(0.2, 0.1), nucleoli=0.1,
    ),
    # Largest normal cell: folded kidney nucleus with loose lacy chromatin, grey-blue ground-glass cytoplasm, vacuoles.
    "monocyte": CellType(
        (14.8, 1.4), (0.50, 0.07), lobes=(0.12, 0.38, 0.4, 0.1), lobe_spacing=(0.95, 0.2), bend=(2.3, 0.8),
        constriction=(0.25, 0.15), nucleus_irregularity_um=(0.4, 0.14), chromatin_od=(0.56, 0.08),
        chromatin_clumping=(0.28, 0.06), chromatin_coarseness=(0.35, 0.15), cell_irregularity_um=(0.55, 0.25),
        cell_elongation=(1.12, 0.08), basophilia=(0.16, 0.05), acidophilia=(0.05, 0.02), frost=(0.22, 0.07), vacuoles=2.2, vacuole_radius_um=(0.65, 0.15),
    ),
    # Mostly two lobes; large round orange-red granules pack the cytoplasm.
    "eosinophil": CellType(
        (12.7, 1.0), (0.35, 0.05), lobes=(0, 0.72, 0.26, 0.02), lobe_spacing=(1.75, 0.2), bend=(2.2, 0.8),
        constriction=(0.78, 0.12), chromatin_od=(0.66, 0.08), chromatin_coarseness=(0.6, 0.12),
        basophilia=(0.04, 0.02), acidophilia=(0.16, 0.03), granules_per_um2=(2.6, 0.5), granule_radius_um=(0.36, 0.04),
        granule_eosin=(0.18, 0.04), granule_azure=(0.04, 0.015), granule_cover=0.15, vacuoles=0.15,
    ),
    # Coarse purple-black granules of uneven size that hide an S-shaped or bilobed nucleus.
    "basophil": CellType(
        (11.2, 1.0), (0.44, 0.07), lobes=(0.15, 0.5, 0.35), lobe_spacing=(1.35, 0.25), bend=(2.2, 0.8),
        constriction=(0.5, 0.2), nucleus_irregularity_um=(0.35, 0.1), chromatin_od=(0.66, 0.08),
        cell_irregularity_um=(0.25, 0.1), acidophilia=(0.07, 0.02), granules_per_um2=(1.5, 0.4),
        granule_radius_um=(0.38, 0.07), granule_eosin=(0.02, 0.01), granule_azure=(0.55, 0.12), granule_cover=0.8,
        vacuoles=0.05,
    ),
    # Lymphoblast (FAB L1 to L2): scant basophilic cytoplasm, smooth fine chromatin, nucleoli hard to see, clefts.
    "lymphoblast": CellType(
        (11.4, 1.6), (0.80, 0.06), lobes=(0.6, 0.4), lobe_spacing=(0.5, 0.15), bend=(0.8, 0.4),
        nucleus_irregularity_um=(0.26, 0.1), nucleus_offset=(0.4, 0.2), chromatin_od=(0.57, 0.07),
        chromatin_clumping=(0.20, 0.05), chromatin_coarseness=(0.3, 0.12), nucleoli=0.9, nucleolus_radius_um=(0.6, 0.1),
        nucleolus_contrast=(0.25, 0.08), basophilia=(0.26, 0.08), acidophilia=(0.02, 0.01), frost=(0.15, 0.05), vacuoles=0.3,
    ),
    # Myeloblast: larger, more cytoplasm, fine chromatin, 2-4 prominent nucleoli, few azurophil granules, Auer rods.
    "myeloblast": CellType(
        (13.6, 1.6), (0.70, 0.07), lobes=(0.65, 0.35), lobe_spacing=(0.55, 0.15), bend=(0.9, 0.4),
        nucleus_irregularity_um=(0.26, 0.1), chromatin_od=(0.52, 0.07), chromatin_clumping=(0.17, 0.05),
        chromatin_coarseness=(0.25, 0.12), nucleoli=2.3, nucleolus_radius_um=(0.85, 0.15), nucleolus_contrast=(0.55, 0.12),
        basophilia=(0.23, 0.07), acidophilia=(0.03, 0.01), halo=(0.15, 0.1), granules_per_um2=(0.12, 0.08),
        granule_radius_um=(0.19, 0.03), granule_eosin=(0.08, 0.03), granule_azure=(0.30, 0.08), auer_rods=0.3,
        cell_irregularity_um=(0.28, 0.1),
    ),
    # Chronic lymphocytic leukaemia: small mature lymphocyte, chromatin clumped like a football, fragile faded edges.
    "CLL lymphocyte": CellType(
        (9.1, 0.9), (0.79, 0.06), lobes=(0.85, 0.15), lobe_spacing=(0.45, 0.12), bend=(0.5, 0.3),
        chromatin_od=(0.69, 0.08), chromatin_clumping=(0.41, 0.08), chromatin_coarseness=(0.85, 0.1),
        cell_irregularity_um=(0.25, 0.14), cell_edge_um=(0.5, 0.15), basophilia=(0.14, 0.05),
        acidophilia=(0.02, 0.01), frost=(0.12, 0.05), halo=(0.05, 0.04), nucleoli=0.15,
    ),
    # Promyelocyte: the largest of the line, primary (azurophil) granules also over the nucleus.
    "promyelocyte": CellType(
        (15.4, 1.3), (0.62, 0.06), lobes=(0.8, 0.2), lobe_spacing=(0.5, 0.12), nucleus_offset=(0.6, 0.2),
        chromatin_od=(0.54, 0.07), chromatin_clumping=(0.23, 0.05), chromatin_coarseness=(0.3, 0.12), nucleoli=1.3,
        nucleolus_radius_um=(0.75, 0.12), basophilia=(0.22, 0.06), halo=(0.4, 0.15), granules_per_um2=(0.9, 0.3),
        granule_radius_um=(0.21, 0.03), granule_eosin=(0.06, 0.03), granule_azure=(0.34, 0.08), granule_cover=0.5,
    ),
    # Myelocyte: round or oval eccentric nucleus, pink secondary granules on a cytoplasm still a little blue.
    "myelocyte": CellType(
        (13.8, 1.3), (0.50, 0.07), lobes=(0.75, 0.25), lobe_spacing=(0.6, 0.15), nucleus_offset=(0.65, 0.2),
        chromatin_od=(0.61, 0.08), chromatin_clumping=(0.30, 0.06), chromatin_coarseness=(0.45, 0.12), nucleoli=0.15,
        basophilia=(0.13, 0.04), halo=(0.25, 0.15), **_FINE,
    ),
    # Metamyelocyte: kidney-shaped nucleus.
    "metamyelocyte": CellType(
        (13.3, 1.2), (0.45, 0.06), lobes=(0, 0.6, 0.4), lobe_spacing=(0.95, 0.12), bend=(1.9, 0.5),
        nucleus_offset=(0.6, 0.2), chromatin_od=(0.64, 0.08), chromatin_coarseness=(0.5, 0.12), basophilia=(0.09, 0.03), **_FINE,
    ),
}  # fmt: skip

CLASSES: dict[str, dict[str, float]] = {
    "neutrophil": {"segmented neutrophil": 0.85, "band neutrophil": 0.15},
    "lymphocyte": {"lymphocyte": 1.0},
    "monocyte": {"monocyte": 1.0},
    "eosinophil": {"eosinophil": 1.0},
    "basophil": {"basophil": 1.0},
    "ALL": {"lymphoblast": 1.0},
    "AML": {"myeloblast": 0.9, "promyelocyte": 0.1},
    "CLL": {"CLL lymphocyte": 0.92, "lymphocyte": 0.08},
    # Chronic phase: the granulocytic line from the promyelocyte on, most of it myelocytes, and some basophilia.
    "CML": {
        "promyelocyte": 0.12, "myelocyte": 0.40, "metamyelocyte": 0.24,
        "band neutrophil": 0.14, "segmented neutrophil": 0.07, "basophil": 0.03,
    },
}  # fmt: skip
"""Class label → its cell types and their shares."""

LEUKAEMIAS = ("ALL", "AML", "CLL", "CML")

CONTINUOUS = tuple(field.name for field in fields(CellType) if field.type == "Normal")


def sample_cells(label: str, patient: np.ndarray, seed: list[int]) -> pd.DataFrame:
    """Draw the true parameters of len(patient) cells of class `label`, one row a cell.

    `patient` holds patient numbers; cells of one patient are alike (`PATIENT_SHARE`). Columns: `subtype` (the cell
    type), `cell_seed` (of everything that rendering draws), `x_um`, `y_um` (of the cell's centre from the
    image's), the fields of `CellType` with drawn numbers in place of distributions, `cell_area_um2` and
    `nucleus_area_um2`. Deterministic in `seed`. Raises InputError for an unknown class.
    """
    if label not in CLASSES:
        raise unknown_name("class", label, CLASSES)
    rng = np.random.default_rng(seed)
    n = len(patient)
    patients, patient = np.unique(patient, return_inverse=True)
    shape = (len(patients), len(CONTINUOUS))
    between = rng.standard_normal(shape)[patient]
    within = rng.standard_normal((n, len(CONTINUOUS)))
    z = np.sqrt(PATIENT_SHARE) * between + np.sqrt(1 - PATIENT_SHARE) * within
    subtype = rng.choice(list(CLASSES[label]), n, p=list(CLASSES[label].values()))
    types = [CELL_TYPES[name] for name in subtype]

    cells = pd.DataFrame({"subtype": subtype, "cell_seed": rng.integers(2**32, size=n)})
    cells[["x_um", "y_um"]] = rng.normal(0, 0.5, (n, 2)).clip(-1, 1)
    for i, name in enumerate(CONTINUOUS):
        mean, deviation = np.array([getattr(t, name) for t in types]).reshape(n, 2).T
        cells[name] = (mean + deviation * z[:, i].clip(-2.5, 2.5)).clip(min=0)
    cells["cell_elongation"] = cells["cell_elongation"].clip(lower=1)
    cells["constriction"] = cells["constriction"].clip(upper=1)
    cells["nc_ratio"] = cells["nc_ratio"].clip(upper=0.9)
    cells["cell_area_um2"] = np.pi / 4 * cells["cell_diameter_um"] ** 2
    cells["nucleus_area_um2"] = cells["nc_ratio"] * cells["cell_area_um2"]
    shares = np.array([np.pad(t.lobes, (0, MAX_LOBES - len(t.lobes))) for t in types]).reshape(n, MAX_LOBES)
    cells["lobes"] = 1 + (rng.random((n, 1)) > shares.cumsum(1) - 1e-9).sum(1)
    for name, most in (("nucleoli", 4), ("vacuoles", 10)):
        cells[name] = rng.poisson([getattr(t, name) for t in types]).clip(max=most)
    cells["auer_rods"] = (rng.random(n) < [t.auer_rods for t in types]).astype(int)
    cells["granules"] = rng.poisson(cells["granules_per_um2"] * cells["cell_area_um2"])
    cells["granule_cover"] = [t.granule_cover for t in types]
    return cells
