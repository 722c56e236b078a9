"""The classifier on disk: weights in safetensors with the configuration in the metadata, so that it explains itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch

from balancer.data.attributes import ATTRIBUTES
from balancer.data.decode import Crop
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.files import kind_of
from balancer.generators.checkpoints import write_tensors
from balancer.imaging.scale import valid_scale
from classifier.imbalance import LDAM_SCALE
from classifier.models import create_model
from classifier.models.classifier import Classifier
from classifier.models.heads import with_cosine_head
from classifier.models.vision_language import CLASS, WIDTH, VisionLanguage
from classifier.reliability import Reliability, answers
from classifier.text_encoders import Reader, reader_from_json
from classifier.transforms import Transform, check_reference

FORMAT = 1
WEIGHTS = "classifier.safetensors"
SEEN = "seen.csv"
_RELIABILITY = "reliability/"  # what is no weight begins with it
_LARGEST = 1024  # px, the most that `balancer prepare` makes: a network for many more would fill the memory


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


# All that is read of a run's description, by dotted names, and what holds of it; what is missing is None.
_DESCRIPTION: dict[str, Callable[[Any], bool]] = {
    "format": _is(int, NoneType),
    "arch": _is(str),
    "size": _is(str),
    "classes": lambda v: isinstance(v, list) and all(map(_is(str), v)) and len(set(v)) == len(v),
    "resolution": lambda v: isinstance(v, int) and v <= _LARGEST,
    "crop": lambda v: v in get_args(Crop),
    "to_um_per_pixel": lambda v: v is None or (isinstance(v, int | float) and valid_scale(v)),
    "stain": _is(dict, NoneType),
    "white_level": lambda v: v is None or (isinstance(v, int | float) and v > 0),
    "transform": _is(dict),
    "training.loss": _is(str),
    "training.head": _is(str, NoneType),
    "language": _is(dict, NoneType),
    "data.path": _is(str),
    "data.fingerprint": _is(str),
    "data.source": _is(str),
    "data.treatment": _is(dict, NoneType),
    "synthetic": lambda v: (
        isinstance(v, list) and all(isinstance(s, dict) and {"path", "counts"} <= s.keys() for s in v)
    ),
}


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
    weights = model.network.state_dict()
    weights[f"{_RELIABILITY}temperature"] = torch.tensor(model.temperature, dtype=torch.float64)
    if reliability is not None:
        tensors = reliability.tensors()
        weights |= {f"{_RELIABILITY}{name}": torch.from_numpy(value) for name, value in tensors.items()}
    write_tensors(path, weights, {"config": json.dumps(config)})


def load_run(run: Path) -> ClassifierRun:
    """Open a classifier run from its weights file alone; InputError when it is none, newer, or damaged."""
    path = Path(run) / WEIGHTS
    if not path.is_file():
        if kind_of(Path(run)) == "unfinished":
            raise InputError(
                f"The training of {run} was interrupted; give the command that began it, with --resume, to go on."
            )
        raise InputError(f"{run} is no classifier run (no {WEIGHTS}); make one with `classifier train`.")
    try:
        return _opened(Path(run), path)
    except _Newer as error:
        raise InputError(
            f"{run} has classifier format {error}, this version reads up to {FORMAT}; update hemabalance."
        ) from None
    # Whatever building and trying a network that is described wrongly may raise.
    except (
        safetensors.SafetensorError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = lines[:2][-1].strip().rstrip(".")  # torch says what is wrong in its second line
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        raise InputError(f"{path} cannot be read as a classifier ({reason}); train it again.") from error


class _Newer(Exception):
    """The format of a file that this version does not know."""


def _opened(root: Path, path: Path) -> ClassifierRun:
    with safetensors.safe_open(os.fspath(path), framework="pt") as file:
        config = _described(json.loads((file.metadata() or {})["config"]))
    classes, resolution = tuple(config["classes"]), config["resolution"]
    network = create_model(config["arch"], len(classes), resolution, config["size"])
    if config["training"]["loss"] == "ldam":
        network = with_cosine_head(network, len(classes), LDAM_SCALE)
    tensors = safetensors.torch.load_file(path)
    if not all(t.isfinite().all() for t in tensors.values()):
        raise ValueError("its weights are no finite numbers")
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
    if isinstance(network, VisionLanguage) and not (network.attribute_temperature > 0).all():
        raise ValueError("the temperature of an attribute is not above 0")
    temperature = float(measured.pop("temperature", 1.0))
    if temperature <= 0:
        raise ValueError(f"its temperature is {temperature}")
    reliability = Reliability.from_tensors(measured) if measured else None
    model = Classifier(network, Transform.from_json(config["transform"]), temperature).eval()
    # What does not fit together, as a mask that the network does not read, shows in the first image.
    found = answers(model, np.full((1, resolution, resolution, 3), 128, np.uint8))
    if reliability is not None:
        reliability.unlike_training(found)
    return ClassifierRun(root, model, classes, resolution, config, reliability, reader)


def _described(config: Any) -> dict[str, Any]:
    """`config`, when it describes a classifier; ValueError with what of it is missing or impossible."""

    def field(name: str) -> Any:
        value = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    if isinstance(version := field("format"), int) and version > FORMAT:
        raise _Newer(version)
    if wrong := [name for name, holds in _DESCRIPTION.items() if not holds(field(name))]:
        raise ValueError(f"no valid {', '.join(wrong)}")
    if config["training"].get("head", CLASS) != CLASS and not _says(config["language"], config["classes"]):
        raise ValueError("no valid language")
    if config.get("stain") is not None:
        check_reference(config["stain"]["name"], config["stain"]["reference"])
    return config


def _says(language: Any, classes: list[str]) -> bool:
    """Whether that is what a run knows of language: for each class its sentences and the attributes that it learned."""
    if not isinstance(language, dict):
        return False
    sentences, learned, given = (language.get(name) for name in ("sentences", "described", "given"))
    return (
        _of_each(sentences, classes)
        and all(sentences.values())
        and _of_each(learned, classes)
        and all(name in ATTRIBUTES for names in learned.values() for name in names)
        and isinstance(given, list)
        and set(classes).issuperset(given)
    )


def _of_each(texts: Any, classes: list[str]) -> TypeGuard[dict[str, list[str]]]:
    """Whether these are lists of texts by class."""
    return (
        isinstance(texts, dict)
        and texts.keys() == set(classes)
        and all(isinstance(of, list) and all(isinstance(text, str) for text in of) for of in texts.values())
    )


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
