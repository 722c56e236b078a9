"""The classifier run on disk: what was trained, on what, and how it did on test images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from balancer.data import PreparedDataset, SyntheticSet
from balancer.data.dataset import read_table
from balancer.data.seen import seen_rows
from balancer.devices import choose_device
from balancer.errors import InputError
from balancer.files import claimed, new_directory, write_csv, write_json, write_text
from balancer.generators.processes import processes
from balancer.progress import note
from classifier.arms import Arm
from classifier.attributes import calibrate_attributes, evaluate_attributes
from classifier.calibration import UNSEEN_SHARE
from classifier.checkpoints import FORMAT, SEEN, WEIGHTS, ClassifierRun, load_run, save_weights
from classifier.config import TrainingConfig
from classifier.language import Language, check_language, known_attributes, language_for
from classifier.model_card import model_card
from classifier.models import resolve_size
from classifier.models.vision_language import CLASS, READ_ATTRIBUTES
from classifier.optimisation import make_optimizer
from classifier.prediction import evaluate, prediction_table, trust
from classifier.pretrained import PretrainedEncoder, checked_encoder
from classifier.provenance import check_synthetic
from classifier.reliability import answers, calibrate
from classifier.state import STATE, StateFile
from classifier.training import Fitted, build_network, fit
from classifier.transforms import Images, Transform

_ALL = Arm("All there is to train on.", adds="synthetic")


def train_run(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    out: Path,
    overwrite: bool = False,
    resume: bool = False,
) -> Path:
    """Train on the train split and the synthetic images, judge on test once, and write the run to `out`.

    The run appears whole at its end: config.json, metrics.jsonl (a line per evaluation), classifier.safetensors
    (config in its metadata), seen.csv (source_sha256, label, split and perceptual_hash of the train and validation images, and
    of those that the encoder it started from was pretrained on),
    evaluation.json and predictions.csv of the test split, and MODEL_CARD.md. Until then `out` holds the state of a longer training, from
    which `resume` goes on. Several processes (`torchrun`) share the training, and the first writes. Returns `out`.
    Raises InputError for an `out` that exists or, with `resume`, is of another training, finished or not, for synthetic sets that
    `check_synthetic` refuses, and where a split is empty or `fit` cannot go on.
    """
    out, config, group = Path(out), config.resolved(), processes(choose_device(None))
    with claimed(out) if group.is_main_process else nullcontext():
        _train(data, synthetic, config, out, overwrite, resume)
    group.wait_for_everyone()
    return out


def check_run(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    out: Path,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainingConfig:
    """The settings that `train_run` would train with, their size resolved; nothing is written.

    Raises InputError for what `train_run` refuses before its first step, less text encoders, what measuring finds, and the state that `resume` finds.
    """
    config = config.resolved()
    if not resume:
        StateFile(out, {}, overwrite).refuse(_inputs(data, synthetic, config))
    _checked(data, synthetic, config)
    if config.head != CLASS:
        check_language(config, _ALL.rows(data, synthetic), data.classes, data.root)
    with torch.random.fork_rng():
        make_optimizer(config, build_network(config, len(data.classes), data.resolution))
    return replace(config, size=resolve_size(config.arch, config.size, data.resolution, config.pretrained))


def _inputs(data: PreparedDataset, synthetic: Sequence[SyntheticSet], config: TrainingConfig) -> list[Path]:
    """What a training reads."""
    named = [Path(place) for place in (config.init, config.sentences) if place is not None]
    return [data.root, *(images.root for images in synthetic), *named]


def _checked(
    data: PreparedDataset, synthetic: Sequence[SyntheticSet], config: TrainingConfig
) -> PretrainedEncoder | None:
    """The encoder to start from, if there is one; InputError where images may not be trained on or judged by."""
    check_synthetic(data, synthetic)
    encoder = checked_encoder(config.init, data)
    for images in synthetic:
        if images.table.empty:
            note(f"Nothing in {images.root} passed the gate, so that it adds no image.")
    for split in ("train", "validation", "test"):
        if data.tables[split].empty:
            raise InputError(
                f"{data.root / split} has no images; prepare a dataset with more images per class."
            )
    return encoder


def _train(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    out: Path,
    overwrite: bool,
    resume: bool,
) -> None:
    group = processes()
    going_on = resume and any((out / name).is_file() for name in (STATE, WEIGHTS))
    if not going_on:  # before anything is measured, or asked of language models
        StateFile(out, {}, overwrite).refuse(_inputs(data, synthetic, config))
        encoder = _checked(data, synthetic, config)
    rows = _ALL.rows(data, synthetic)
    language = language_for(
        config,
        rows,
        lambda: _ALL.train_split(data, synthetic)[0],
        data.classes,
        data.root,
    )
    for label in sorted(set(data.classes) - set(rows["label"])):
        how = f"which the head {config.head} will never answer"
        if config.head in ("text", "contrastive"):
            how = (
                "which is known by its sentences alone: it will be given what is like them and unlike the train images, "
                f"{UNSEEN_SHARE:.0%} of the images of other classes among it, and many more of images that look otherwise, as "
                "from another laboratory"
            )
        note(f"No train image is of {label}, {how}.")
    state = StateFile(out, _training_of(data, synthetic, config, language), overwrite, resume)
    if resume and (out / WEIGHTS).is_file():
        state.check_begun(_trained_with(load_run(out), data))
        note(f"{out} has been trained to its end already; nothing is left to do.")
        return
    state.refuse(_inputs(data, synthetic, config))
    if going_on:  # what differs from the state is told first
        encoder = _checked(data, synthetic, config)
    train, train_labels = _ALL.train_split(data, synthetic)
    test = data.images("test")  # before the training, so that a damaged image does not end it
    group.wait_for_everyone()  # all have seen whether `out` may be written, before it is
    fitted = fit(
        config,
        train,
        train_labels,
        data.images("validation"),
        data.labels("validation"),
        len(data.classes),
        state=state,
        language=language,
    )
    if group.is_main_process:
        with new_directory(out, overwrite or state.path.is_file()) as folder:
            _write(folder, data, synthetic, encoder, config, fitted, language, test)


def _training_of(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    config: TrainingConfig,
    language: Language | None,
) -> dict[str, Any]:
    """What a resume has to agree with."""
    return {
        "data": {
            "fingerprint": data.fingerprint,
            "resolution": data.resolution,
            "treatment": data.treatment,
        },
        "language": language.digest() if language else None,
        "synthetic": {str(images.root.absolute()): _counts(images) for images in synthetic},
        "training": config.to_json(),
    }


def _trained_with(run: ClassifierRun, data: PreparedDataset) -> dict[str, Any]:
    """`_training_of` a finished run. The treatment, in runs of before it was recorded, is taken to be that of `data`."""
    origin = run.config["data"]
    return {
        "data": {
            "fingerprint": origin["fingerprint"],
            "resolution": run.resolution,
            "treatment": origin.get("treatment", data.treatment),
        },
        "language": run.config["language"]["sha256"] if run.config.get("language") else None,
        "synthetic": {images["path"]: images["counts"] for images in run.config["synthetic"]},
        "training": run.config["training"],
    }


def _counts(images: SyntheticSet) -> dict[str, int]:
    return {str(label): int(n) for label, n in images.table["label"].value_counts().items()}


def _write(
    folder: Path,
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    encoder: PretrainedEncoder | None,
    config: TrainingConfig,
    fitted: Fitted,
    language: Language | None,
    test: Images,
) -> None:
    write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in fitted.history))
    reliability = calibrate(fitted.model, fitted.validation_probabilities, data)
    if config.head in READ_ATTRIBUTES:
        calibrate_attributes(
            fitted.model, data.images("validation"), known_attributes(config, data, "validation")
        )
    described = _describe(data, synthetic, encoder, config, fitted.model.transform, fitted.best_step)
    if language is not None:
        described["language"] = {
            "reader": language.reader.to_json(),
            "sentences": dict(zip(data.classes, language.sentences, strict=True)),
            "described": dict(zip(data.classes, map(list, language.described), strict=True)),
            "given": list(language.given),
            "sha256": language.digest(),
        }
    write_json(folder / "config.json", described)
    save_weights(folder / WEIGHTS, fitted.model, described, reliability)
    write_csv(folder / SEEN, _seen(data, synthetic, encoder))
    found = answers(fitted.model, test)
    probabilities = found.probabilities
    evaluation = evaluate(probabilities, data, "test") | trust(
        found, data.labels("test"), fitted.model.temperature, reliability
    )
    attributes = evaluate_attributes(fitted.model, test, data, "test")
    if attributes is not None:
        evaluation["attributes"] = attributes
    write_json(folder / "evaluation.json", evaluation)
    write_csv(folder / "predictions.csv", prediction_table(probabilities, data, "test"))
    best = next(entry for entry in fitted.history if entry["step"] == fitted.best_step)
    write_text(folder / "MODEL_CARD.md", model_card(described, evaluation, best, data))


def _seen(
    data: PreparedDataset, synthetic: Sequence[SyntheticSet], encoder: PretrainedEncoder | None
) -> pd.DataFrame:
    """Every image that the run was fitted to or selected by, itself or through synthetic images and pretraining."""
    seen = [seen_rows(data, split) for split in ("train", "validation")]
    seen += [read_table(s.root / SEEN, ["source_sha256"]).assign(split="generator") for s in synthetic]
    if encoder is not None:
        seen.append(encoder.seen().assign(split="pretraining"))
    return pd.concat(seen, ignore_index=True).drop_duplicates("source_sha256", ignore_index=True)


def _describe(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    encoder: PretrainedEncoder | None,
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
        "white_level": data.info.get("white_level"),
        "stain": data.info.get("stain"),
        "transform": asdict(transform),
        "training": config.to_json(),
        "init": encoder.to_json() if encoder else None,
        "best_step": best_step,
        "data": {
            "path": str(data.root.absolute()),
            "fingerprint": data.fingerprint,
            "source": data.source,
            "treatment": data.treatment,
            "counts": data.counts("train"),
        },
        "synthetic": [
            {
                "path": str(images.root.absolute()),
                "source": images.source,
                "generator": images.info.get("generator"),
                "counts": _counts(images),
            }
            for images in synthetic
        ],
    }
