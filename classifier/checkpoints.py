"""The classifier on disk: weights in safetensors with the configuration in the metadata, so that it explains itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from balancer.data.seen import Seen
from balancer.errors import InputError
from classifier.imbalance import LDAM_SCALE
from classifier.models import create_model
from classifier.models.classifier import Classifier
from classifier.models.heads import with_cosine_head
from classifier.models.vision_language import CLASS, WIDTH, VisionLanguage
from classifier.reliability import Reliability
from classifier.state import STATE
from classifier.text_encoders import Reader, reader_from_json
from classifier.transforms import Transform

FORMAT = 1
WEIGHTS = "classifier.safetensors"
SEEN = "seen.csv"
_RELIABILITY = "reliability/"  # what is no weight begins with it


@dataclass(frozen=True)
class ClassifierRun:
    """A classifier run, opened. `config` is what `config.json` holds."""

    root: Path
    model: Classifier  # in eval mode
    classes: tuple[str, ...]
    resolution: int
    config: dict[str, Any]
    reliability: Reliability | None  # None for runs of before there was such a measurement
    reader: Reader | None = None  # of texts, where there is language beside the network

    @property
    def language(self) -> VisionLanguage:
        """The network with its language; InputError for a run whose head is `class`."""
        if not isinstance(self.model.network, VisionLanguage):
            raise InputError(
                f"{self.root} was trained without language; train one that has it, with `classifier train --head joint`."
            )
        return self.model.network


def save_weights(
    path: Path, model: Classifier, config: dict[str, Any], reliability: Reliability | None = None
) -> None:
    """Write the weights as safetensors with `config` as JSON in the metadata, so that the file explains itself.

    The temperature and what `reliability` holds lie beside the weights, under names that begin with `reliability/`.
    """
    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    weights[f"{_RELIABILITY}temperature"] = torch.tensor(model.temperature, dtype=torch.float64)
    if reliability is not None:
        tensors = reliability.tensors()
        weights |= {f"{_RELIABILITY}{name}": torch.from_numpy(value) for name, value in tensors.items()}
    safetensors.torch.save_file(weights, os.fspath(path), metadata={"config": json.dumps(config)})


def load_run(run: Path) -> ClassifierRun:
    """Open a classifier run from its weights file alone; InputError when it is none, newer, or damaged."""
    path = Path(run) / WEIGHTS
    if not path.is_file():
        if (Path(run) / STATE).is_file():
            raise InputError(
                f"The training of {run} was interrupted; give the command that began it, with --resume, to go on."
            )
        raise InputError(f"{run} is no classifier run (no {WEIGHTS}); make one with `classifier train`.")
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
        if config["training"]["loss"] == "ldam":
            network = with_cosine_head(network, len(classes), LDAM_SCALE)
        tensors = safetensors.torch.load_file(path)
        head, reader = config["training"].get("head", CLASS), None
        if head != CLASS:
            reader = reader_from_json(config["language"]["reader"])
            sentences, memory = tensors["sentences"], len(tensors["by_sentence.memory"])
            network = VisionLanguage(network, len(classes), head, reader.tower(WIDTH), sentences, memory)
        measured = {
            name.removeprefix(_RELIABILITY): tensors.pop(name).numpy()
            for name in list(tensors)
            if name.startswith(_RELIABILITY)
        }
        network.load_state_dict(tensors)
        temperature = float(measured.pop("temperature", 1.0))
        reliability = Reliability.from_tensors(measured) if measured else None
        transform = Transform.from_json(config["transform"])
    except InputError:
        raise
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a classifier ({error}); train it again.") from None
    model = Classifier(network, transform, temperature).eval()
    return ClassifierRun(Path(run), model, classes, resolution, config, reliability, reader)


def seen_images(run: Path) -> Seen:
    """Every image that a run was fitted to or selected by; InputError when that is not known.

    Runs of before there were perceptual hashes know their images by their files alone.
    """
    path = Path(run) / SEEN
    try:
        return Seen.read(path)
    except InputError:
        raise InputError(
            f"{path} is missing or damaged, and nothing else tells which images this classifier was trained on; "
            "train it again to evaluate it."
        ) from None
