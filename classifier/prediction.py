"""What a trained classifier says about image files and about the images of a prepared dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balancer.data import PreparedDataset
from balancer.data.decode import read_any_image
from balancer.errors import InputError
from balancer.imaging import stain
from balancer.imaging.scale import check_scale
from balancer.progress import note
from classifier import evaluation
from classifier.checkpoints import ClassifierRun, seen_images
from classifier.provenance import check_judges
from classifier.training import predict_probabilities

_BATCH = 64


def predict_files(
    run: ClassifierRun, paths: Iterable[Path], um_per_pixel: float | None = None
) -> Iterator[dict[str, Any]]:
    """Classify image files of any kind and size, made square, resized and normalised as the training images were.

    `um_per_pixel` is the scale of the files, which has to be known where the training images were brought to one.
    Yields, in order, {"file_name": path as given, "predicted": label, "probabilities": {label: p}}. A file that
    cannot be read as an image is named in a note and left out. Raises InputError at the end when none could be read, and
    where the scale is missing or impossible.
    """
    check_scale("--um-per-pixel", um_per_pixel)
    read_image = _reader(run, um_per_pixel)
    paths = list(paths)
    read = 0
    for start in range(0, len(paths), _BATCH):
        batch: list[Path] = []
        pixels: list[np.ndarray] = []
        for path in paths[start : start + _BATCH]:
            try:
                pixels.append(read_image(Path(path)))
                batch.append(path)
            except InputError as error:
                note(f"Left out: {error}")
        if not batch:
            continue
        read += len(batch)
        for path, p in zip(batch, predict_probabilities(run.model, np.stack(pixels)), strict=True):
            yield {
                "file_name": str(path),
                "predicted": run.classes[int(p.argmax())],
                "probabilities": {label: float(value) for label, value in zip(run.classes, p, strict=True)},
            }
    if paths and not read:
        none = "The file cannot" if len(paths) == 1 else f"None of the {len(paths)} files can"
        raise InputError(f"{none} be read as an image; give image files.")


def _reader(run: ClassifierRun, um_per_pixel: float | None) -> Callable[[Path], np.ndarray]:
    """Reads an image file as `prepare` read those that the run was trained on."""
    crop, to_um_per_pixel = run.config["crop"], run.config.get("to_um_per_pixel")
    if to_um_per_pixel is not None and um_per_pixel is None:
        raise InputError(
            f"{run.root} was trained on images brought to {to_um_per_pixel:g} µm per pixel; give the scale of these files "
            "with --um-per-pixel."
        )
    if um_per_pixel is not None and to_um_per_pixel is None:
        note(f"{run.root} was trained on images of any scale: --um-per-pixel changes nothing.")

    def read(path: Path) -> np.ndarray:
        return _normalised(
            run, read_any_image(path, run.resolution, crop, um_per_pixel, to_um_per_pixel), path
        )

    return read


def _normalised(run: ClassifierRun, pixels: np.ndarray, path: Path) -> np.ndarray:
    """uint8 R×R×3 in the stain that the run was trained on; as it is where that cannot be, with a note."""
    normalisation = run.config.get("stain")
    if normalisation is None:
        return pixels
    try:
        return stain.normalise(normalisation["name"], pixels, normalisation["reference"])
    except InputError as error:
        note(f"{path} stays as it is: {error}.")
        return pixels


def evaluate_run(run: ClassifierRun, data: PreparedDataset, split: str = "test") -> dict[str, Any]:
    """Judge a run on one split of a prepared dataset: what `evaluate` returns.

    A run that was trained on images of a normalised stain normalises those of a dataset that was prepared without
    `--stain`, by the reference it was trained on. Raises InputError when classes or resolution differ from those that the
    run was trained on, the stain was normalised to another reference, the split is empty, or one of its images is
    synthetic or was seen in training (`check_judges`).
    """
    if run.classes != data.classes:
        raise InputError(
            f"{run.root} knows the classes {', '.join(run.classes)}, {data.root} has {', '.join(data.classes)}; "
            "prepare the data with the same classes (`--map`)."
        )
    if run.resolution != data.resolution:
        raise InputError(
            f"{run.root} takes images of {run.resolution} px, {data.root} has {data.resolution} px; "
            f"prepare the data with --resolution {run.resolution}."
        )
    trained_in, own = run.config.get("stain"), data.info.get("stain")
    if trained_in and own and trained_in != own:
        raise InputError(
            f"{data.root} was brought to a stain of its own ({own['name']}), and {run.root} was trained on another "
            f"({trained_in['name']}, to its train images); prepare the data without --stain: it is then normalised as the "
            "training images were."
        )
    if own and not trained_in:
        note(
            f"{run.root} was trained on images whose stain was not normalised, as it was in {data.root}: its result speaks of that too."
        )
    if run.config.get("to_um_per_pixel") != data.info.get("to_um_per_pixel"):
        note(
            f"{run.root} was trained on images that `balancer prepare` brought to another scale than those of {data.root} "
            "(--to-um-per-pixel): its result speaks of that too."
        )
    if data.tables[split].empty:
        raise InputError(f"{data.root / split} has no images to judge on.")
    check_judges(data, [split], seen_images(run.root))
    images = data.images(split)
    if trained_in and not own:
        note(
            f"The images of {data.root} are normalised as those were that {run.root} was trained on ({trained_in['name']})."
        )
        normalised = [_normalised(run, images[[k]][0], path) for k, path in enumerate(data.paths(split))]
        return evaluate(predict_probabilities(run.model, np.stack(normalised)), data, split)
    return evaluate(predict_probabilities(run.model, images), data, split)


def evaluate(probabilities: np.ndarray, data: PreparedDataset, split: str) -> dict[str, Any]:
    """Metrics of probabilities float N×K on a split, as JSON values.

    macro_f1, balanced_accuracy (means over the classes that have images) and accuracy; per class recall, precision,
    F1, and the number of images; the confusion matrix with true classes in rows. A ratio of a class without images
    is null.
    """
    labels, predicted = data.labels(split), probabilities.argmax(axis=1)
    matrix = evaluation.confusion(labels, predicted, len(data.classes))
    support = matrix.sum(axis=1)
    ratios = {
        "recall": evaluation.recall(matrix),
        "precision": evaluation.precision(matrix),
        "f1": evaluation.f1(matrix),
    }
    return {
        "format": 1,
        "data": {"path": str(data.root.absolute()), "fingerprint": data.fingerprint, "split": split},
        "images": len(labels),
        "macro_f1": float(evaluation.score(matrix, "macro_f1")),
        "balanced_accuracy": float(evaluation.score(matrix, "balanced_accuracy")),
        "accuracy": float((labels == predicted).mean()),
        "per_class": {
            label: {name: float(values[k]) if support[k] else None for name, values in ratios.items()}
            | {"images": int(support[k])}
            for k, label in enumerate(data.classes)
        },
        "confusion": {"classes": list(data.classes), "matrix": matrix.tolist()},
    }


def prediction_table(probabilities: np.ndarray, data: PreparedDataset, split: str) -> pd.DataFrame:
    """One row per image: file_name (in the split's folder), label, predicted, and p_<class> for every class."""
    table = data.tables[split][["file_name", "label"]].reset_index(drop=True)
    table["predicted"] = np.array(data.classes)[probabilities.argmax(axis=1)]
    for k, label in enumerate(data.classes):
        table[f"p_{label}"] = probabilities[:, k]
    return table
