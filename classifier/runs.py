"""The classifier run on disk: what was trained, on what, and how it did on test images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_csv, write_json
from classifier.arms import Arm
from classifier.models import create_model, resolve_size
from classifier.models.classifier import Classifier
from classifier.prediction import evaluate, prediction_table
from classifier.provenance import check_synthetic
from classifier.training import TrainingConfig, fit, predict_probabilities
from classifier.transforms import Transform

__all__ = ["FORMAT", "ClassifierRun", "check_synthetic", "load_run", "train_run"]

FORMAT = 1
_WEIGHTS = "classifier.safetensors"


@dataclass(frozen=True)
class ClassifierRun:
    """A classifier run, opened. `config` is what `config.json` holds."""

    root: Path
    model: Classifier  # in eval mode
    classes: tuple[str, ...]
    resolution: int
    config: dict[str, Any]


def train_run(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    out: Path,
    overwrite: bool = False,
) -> Path:
    """Train on the train split and the synthetic images, judge on test once, and write the run to `out`.

    The run appears whole at its end: config.json, metrics.jsonl (a line per evaluation), classifier.safetensors
    (config in its metadata), evaluation.json and predictions.csv of the test split. Returns `out`. Raises
    InputError for an `out` that exists, for synthetic sets that `check_synthetic` refuses, and where a split is
    empty or `fit` cannot go on.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    check_synthetic(data, synthetic)
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
        save_weights(folder / _WEIGHTS, fitted.model, described)
        probabilities = predict_probabilities(fitted.model, data.images("test"))
        write_json(folder / "evaluation.json", evaluate(probabilities, data, "test"))
        write_csv(folder / "predictions.csv", prediction_table(probabilities, data, "test"))
    return out


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


def save_weights(path: Path, model: Classifier, config: dict[str, Any]) -> None:
    """Write the weights as safetensors with `config` as JSON in the metadata, so that the file explains itself."""
    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    safetensors.torch.save_file(weights, os.fspath(path), metadata={"config": json.dumps(config)})


def load_run(run: Path) -> ClassifierRun:
    """Open a classifier run from its weights file alone; InputError when it is none, newer, or damaged."""
    path = Path(run) / _WEIGHTS
    if not path.is_file():
        raise InputError(f"{run} is no classifier run (no {_WEIGHTS}); make one with `classifier train`.")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            config = json.loads((file.metadata() or {})["config"])
        if config.get("format", 0) > FORMAT:
            raise InputError(
                f"{run} has classifier format {config['format']}, this version reads up to {FORMAT}; "
                "update hemabalance."
            )
        classes, resolution = tuple(config["classes"]), int(config["resolution"])
        network = create_model(config["arch"], len(classes), resolution, config["size"])
        network.load_state_dict(safetensors.torch.load_file(path))
        transform = Transform(**config["transform"])
    except InputError:
        raise
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a classifier ({error}); train it again.") from None
    return ClassifierRun(Path(run), Classifier(network, transform).eval(), classes, resolution, config)
