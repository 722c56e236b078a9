"""A folder of rendered smears that `prepare` reads like any other: class folders, masks, metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.errors import InputError, unknown_name
from balancer.files import new_directory, refuse_existing, write_csv, write_mark
from balancer.progress import track
from balancer.smear.attributes import describe
from balancer.smear.parameters import CLASSES, LEUKAEMIAS, sample_cells
from balancer.smear.patients import sample_patients
from balancer.smear.render import FIELD_UM, render

_CHUNK = 64  # images rendered between two steps of the progress bar


def draw_cells(counts: Mapping[str, int], seed: int, patients_per_class: int = 10) -> pd.DataFrame:
    """Draw patients and their cells: everything of a smear set but the pixels, a row per image.

    `counts` maps class labels to numbers of images. There are `patients_per_class` patients for each leukaemia among
    the labels and as many healthy ones; leukaemic cells come from patients with that leukaemia, normal cells from
    all, spread evenly. Columns: `label`, `patient_id`, `diagnosis`, then those of `sample_patients` and `sample_cells`: what
    `render` wants. A class's morphology does not depend on the other classes' counts. Raises InputError for an
    unknown class, a negative count or fewer than one patient.
    """
    for label, count in counts.items():
        if label not in CLASSES:
            raise unknown_name("class", label, CLASSES)
        if count < 0:
            raise InputError(f"The count of class {label} is {count}; give 0 or more.")
    if patients_per_class < 1:
        raise InputError(f"patients_per_class is {patients_per_class}; give 1 or more.")
    diagnoses = ["healthy", *(label for label in LEUKAEMIAS if label in counts)]
    patients = pd.concat(
        sample_patients(patients_per_class, [seed, 0, ("healthy", *LEUKAEMIAS).index(d)]).assign(
            patient_id=[f"{d}-{i + 1:02d}" for i in range(patients_per_class)], diagnosis=d
        )
        for d in diagnoses
    ).reset_index(drop=True)

    tables = []
    for i, label in enumerate(CLASSES):
        if not counts.get(label):
            continue
        own = patients.index[patients["diagnosis"] == label] if label in LEUKAEMIAS else patients.index
        order = np.random.default_rng([seed, 1, i]).permutation(own)
        patient = order[np.arange(counts[label]) % len(order)]
        slides = patients.loc[patient].reset_index(drop=True)
        cells = sample_cells(label, patient, [seed, 2, i])
        tables.append(pd.concat([slides, cells], axis=1).assign(label=label))
    if not tables:
        raise InputError("No images were asked for; give at least one class a count above 0.")
    front = ["label", "patient_id", "diagnosis"]
    cells = pd.concat(tables, ignore_index=True)
    return cells[front + [name for name in cells if name not in front]]


def write_source(
    folder: Path,
    counts: Mapping[str, int],
    resolution: int,
    seed: int,
    patients_per_class: int = 10,
    overwrite: bool = False,
) -> None:
    """Render a smear set into `folder`: `<label>/<name>.png`, `masks/<label>/<name>.png` and `metadata.csv`.

    The metadata's columns are `file_name`, `label`, `source` ("rendered", as in each PNG's text chunk of that name),
    `patient_id`, `um_per_pixel`, `diagnosis`, the attributes of `describe`, then the true parameters of slide and cell,
    from which `render` makes the same images again. The same seed gives the same cells at every resolution. Arguments
    as for `draw_cells`; raises InputError as it and `render` do, and where `folder` exists and `overwrite` is false.
    """
    refuse_existing(folder, overwrite)
    cells = draw_cells(counts, seed, patients_per_class)
    number = cells.groupby("label").cumcount() + 1
    names = cells["label"] + "/" + cells["label"] + "-" + number.map("{:05d}".format) + ".png"
    front = pd.DataFrame(
        {
            "file_name": names,
            "label": cells["label"],
            "source": "rendered",
            "patient_id": cells["patient_id"],
            "um_per_pixel": FIELD_UM / resolution,
            "diagnosis": cells["diagnosis"],
        }
    )
    truth = cells.drop(columns=["label", "patient_id", "diagnosis"])
    with new_directory(folder, overwrite) as new:
        for label in cells["label"].unique():
            (new / label).mkdir()
            (new / "masks" / label).mkdir(parents=True)
        for name, image, mask in track(_rendered(cells, names, resolution), "Rendering smears", len(cells)):
            info = PngInfo()
            info.add_text("source", "rendered")
            Image.fromarray(image).save(new / name, pnginfo=info)
            Image.fromarray(mask).save(new / "masks" / name, pnginfo=info)
        write_csv(new / "metadata.csv", pd.concat([front, describe(cells), truth], axis=1))
        write_mark(new, "rendered")


def _rendered(
    cells: pd.DataFrame, names: pd.Series, resolution: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for start in range(0, len(cells), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield from zip(names[part], *render(cells[part], resolution), strict=True)
