"""The classifier run on disk: what was trained, on what, and how it did on test images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_csv, write_json
from balancer.progress import note
from classifier.arms import Arm
from classifier.checkpoints import FORMAT, SEEN, WEIGHTS, save_weights
from classifier.models import resolve_size
from classifier.prediction import evaluate, prediction_table
from classifier.provenance import check_synthetic
from classifier.training import TrainingConfig, fit, predict_probabilities
from classifier.transforms import Transform


def train_run(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    out: Path,
    overwrite: bool = False,
) -> Path:
    """Train on the train split and the synthetic images, judge on test once, and write the run to `out`.

    The run appears whole at its end: config.json, metrics.jsonl (a line per evaluation), classifier.safetensors
    (config in its metadata), seen.csv (source_sha256, label and split of the train and validation images),
    evaluation.json and predictions.csv of the test split. Returns `out`. Raises InputError for an `out` that exists,
    for synthetic sets that `check_synthetic` refuses, and where a split is empty or `fit` cannot go on.
    """
    out = Path(out)
    refuse_existing(out, overwrite, [data.root, *(images.root for images in synthetic)])
    check_synthetic(data, synthetic)
    for images in synthetic:
        if images.table.empty:
            note(f"Nothing in {images.root} passed the gate, so that it adds no image.")
    for split in ("train", "validation", "test"):
        if data.tables[split].empty:
            raise InputError(
                f"{data.root / split} has no images; prepare a dataset with more images per class."
            )
    train, train_labels = Arm("All there is to train on.", adds="synthetic").train_split(data, synthetic)
    with (
        new_directory(out, overwrite) as folder,
        (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics,
    ):
        fitted = fit(
            config,
            train,
            train_labels,
            data.images("validation"),
            data.labels("validation"),
            len(data.classes),
            on_metrics=lambda entry: metrics.write(json.dumps(entry) + "\n"),
        )
        described = _describe(data, synthetic, config, fitted.model.transform, fitted.best_step)
        write_json(folder / "config.json", described)
        save_weights(folder / WEIGHTS, fitted.model, described)
        write_csv(folder / SEEN, _seen(data))
        probabilities = predict_probabilities(fitted.model, data.images("test"))
        write_json(folder / "evaluation.json", evaluate(probabilities, data, "test"))
        write_csv(folder / "predictions.csv", prediction_table(probabilities, data, "test"))
    return out


def _seen(data: PreparedDataset) -> pd.DataFrame:
    splits = ("train", "validation")
    seen = [data.tables[split][["source_sha256", "label"]].assign(split=split) for split in splits]
    return pd.concat(seen, ignore_index=True)


def _describe(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    transform: Transform,
    best_step: int,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "classifier",
        "arch": config.arch,
        "size": resolve_size(config.arch, config.size, data.resolution, config.pretrained),
        "classes": list(data.classes),
        "resolution": data.resolution,
        "crop": data.info.get("crop", "crop"),
        "to_um_per_pixel": data.info.get("to_um_per_pixel"),
        "stain": data.info.get("stain"),
        "transform": asdict(transform),
        "training": asdict(config),
        "best_step": best_step,
        "data": {
            "path": str(data.root.absolute()),
            "fingerprint": data.fingerprint,
            "source": data.source,
            "counts": data.counts("train"),
        },
        "synthetic": [
            {
                "path": str(images.root.absolute()),
                "source": images.source,
                "generator": images.info.get("generator"),
                "counts": {str(label): int(n) for label, n in images.table["label"].value_counts().items()},
            }
            for images in synthetic
        ],
    }
