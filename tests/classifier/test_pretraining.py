from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image

import cli
from balancer.data import PreparedDataset
from balancer.errors import InputError
from balancer.files import kind_of
from classifier import pretrained, state
from classifier.checkpoints import load_run, seen_images
from classifier.compare import compare
from classifier.config import TrainingConfig
from classifier.models import create_model
from classifier.prediction import evaluate_run
from classifier.pretrained import ENCODER, PretrainedEncoder, checked_encoder
from classifier.pretraining import PretrainingConfig, fit_autoencoder, pretrain
from classifier.runs import train_run
from classifier.training import fit
from classifier.transforms import Transform

QUICK = PretrainingConfig(steps=4, batch_size=8)
COUNTS = {
    "train": {"a": 20, "b": 12},
    "validation": {"a": 6, "b": 6},
    "test": {"a": 6, "b": 6},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:  # fmt: skip
    return make_dataset(tmp_path_factory.mktemp("pretraining") / "data", COUNTS)


@pytest.fixture(scope="module")
def run(data: PreparedDataset) -> Path:
    return pretrain(data, QUICK, data.root.parent / "run")


def test_the_loss_falls_and_the_same_seed_gives_the_same_numbers(data: PreparedDataset) -> None:
    images = data.images("train")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    once = fit_autoencoder(replace(QUICK, steps=40), images)
    assert torch.equal(torch.rand(1), expected)
    assert len(once.history) == 20
    assert once.history[-1]["loss"] < 0.8 * once.history[0]["loss"]
    assert not once.model.training
    quick, again, other = (fit_autoencoder(replace(QUICK, seed=seed), images) for seed in (0, 0, 1))
    assert quick.history == again.history
    assert all(
        torch.equal(a, b) for a, b in zip(quick.model.parameters(), again.model.parameters(), strict=True)
    )
    assert quick.history != other.history


@pytest.mark.parametrize("steps", [1, 9])  # 9: a warm-up of one step, counted with the end
def test_few_steps_pretrain(steps: int, data: PreparedDataset) -> None:
    fitted = fit_autoencoder(replace(QUICK, steps=steps), data.images("train"))
    assert [entry["step"] for entry in fitted.history] == list(range(1, steps + 1))


def test_a_run_says_what_it_is_and_what_it_has_seen(run: Path, data: PreparedDataset) -> None:
    config = json.loads((run / "config.json").read_text())
    assert {name: config[name] for name in ("kind", "arch", "size", "resolution", "patch", "grid")} == {
        "kind": "pretraining",
        "arch": "fcmae-wpat",
        "size": "micro",
        "resolution": 32,
        "patch": 8,
        "grid": 8,
    }
    assert config["data"]["fingerprint"] == data.fingerprint
    assert kind_of(run) == "pretraining"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    seen = pd.read_csv(run / "seen.csv")
    assert set(seen["source_sha256"]) == set(data.tables["train"]["source_sha256"])
    encoder = PretrainedEncoder.load(run)
    assert encoder.config == config
    with Image.open(run / "samples" / "reconstructions.png") as sheet:
        assert sheet.size == (3 * 64, 8 * 64)
        pixels = np.asarray(sheet)
    first = np.asarray(Image.open(data.paths("train")[0]).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(pixels[:64, :64].astype(int) - first).mean() < 3
    hidden = np.abs(pixels[:, 64:128].astype(int) - pixels[:, :64]).max(axis=2) > 2
    assert 0.5 < hidden.mean() < 0.62  # of the disc's image, less what is as grey as what is hidden
    visible = ~hidden
    np.testing.assert_array_equal(pixels[:, 128:][visible], pixels[:, :64][visible])


@pytest.mark.parametrize("arch", ["fcmae-wpat", "convnextv2"])
def test_a_classifier_starts_from_the_encoder(arch: str, run: Path) -> None:
    network = create_model(arch, 2, 32)
    encoder = PretrainedEncoder.load(run)
    encoder.start(network, 32)
    for name, value in network.pyramid.state_dict().items():
        assert torch.equal(value, encoder.weights[name])


def test_training_starts_from_the_encoder(run: Path, data: PreparedDataset) -> None:
    def first_loss(init: str | None) -> float:
        config = TrainingConfig(
            arch="fcmae-wpat", init=init, steps=1, batch_size=8, evaluations=1, learning_rate=1e-9
        )
        splits = (data.images("train"), data.labels("train"), data.images("validation"))
        fitted = fit(config, *splits, data.labels("validation"), 2)
        state = fitted.model.network.pyramid.state_dict()
        weights = PretrainedEncoder.load(run).weights
        name = "body.stages_2.blocks.0.conv_dw.weight"
        return (state[name] - weights[name]).abs().max().item()

    assert first_loss(str(run)) < 1e-6
    assert first_loss(None) > 1e-3


def test_an_encoder_that_does_not_fit_is_refused_with_a_sentence(run: Path) -> None:
    encoder = PretrainedEncoder.load(run)
    with pytest.raises(InputError, match="fcmae-wpat and convnextv2 can start from"):
        encoder.start(create_model("resnet18", 2, 32), 32)
    with pytest.raises(InputError, match="fcmae-wpat and convnextv2 can start from"):
        encoder.start(create_model("swin", 2, 32), 32)
    with pytest.raises(InputError, match="pretrained on images of 32 px, these have 64 px"):
        encoder.start(create_model("fcmae-wpat", 2, 64), 64)
    with pytest.raises(InputError, match="encoder of size micro .* give --size micro"):
        encoder.start(create_model("fcmae-wpat", 2, 32, "atto"), 32)
    with pytest.raises(InputError, match="give one of the two"):
        TrainingConfig(arch="fcmae-wpat", pretrained=True, init=str(run))


def test_what_is_no_run_is_refused_with_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pretraining run"):
        PretrainedEncoder.load(tmp_path)
    (tmp_path / ENCODER).write_bytes((run / ENCODER).read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read as a pretrained encoder"):
        PretrainedEncoder.load(tmp_path)
    weights = safetensors.torch.load_file(run / ENCODER)
    config = PretrainedEncoder.load(run).config
    for changed, sentence in (
        ({"format": 2}, "update hemabalance"),
        ({"data": None}, "does not say"),
        ({"data": 5}, "does not say"),
        ({"data": {"fingerprint": 5}}, "does not say"),
        ({"size": []}, "does not say"),
        ({"format": []}, "cannot be read"),
    ):
        told = {name: value for name, value in (config | changed).items() if value is not None}
        safetensors.torch.save_file(weights, tmp_path / ENCODER, metadata={"config": json.dumps(told)})
        with pytest.raises(InputError, match=sentence):
            PretrainedEncoder.load(tmp_path)
    safetensors.torch.save_file(weights, tmp_path / ENCODER)
    with pytest.raises(InputError, match="cannot be read as a pretrained encoder"):
        PretrainedEncoder.load(tmp_path)
    ruined = {name: value * float("nan") for name, value in weights.items()}
    safetensors.torch.save_file(ruined, tmp_path / ENCODER, metadata={"config": json.dumps(config)})
    with pytest.raises(InputError, match="no finite numbers"):
        PretrainedEncoder.load(tmp_path)


def exchanged(data: PreparedDataset) -> PreparedDataset:
    """The data with train and test exchanged."""
    tables = data.tables | {"train": data.tables["test"], "test": data.tables["train"]}
    return replace(data, tables=tables, fingerprint="another")


def test_an_encoder_that_has_seen_judging_images_is_refused(
    run: Path,
    data: PreparedDataset,
    tmp_path: Path,
    make_dataset: Callable[..., PreparedDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(pretrained, "note", notes.append)
    assert checked_encoder(None, data) is None
    assert checked_encoder(str(run), data) is not None
    assert not notes
    with pytest.raises(InputError, match=r"pretrained on 32 images of .*test .*a/train_0000.png.*, …"):
        checked_encoder(str(run), exchanged(data))
    config = TrainingConfig(arch="fcmae-wpat", init=str(run), steps=1, batch_size=8)
    with pytest.raises(InputError, match="pretrained on 32 images"):
        train_run(exchanged(data), [], config, tmp_path / "out")
    with pytest.raises(InputError, match="pretrained on 32 images"):
        compare(exchanged(data), [], tmp_path / "out", config=config)
    treated = replace(data, info=data.info | {"stain": {"name": "clahe"}})
    origin = PretrainedEncoder.load(run)
    origin.config["data"]["treatment"] = data.treatment
    with pytest.raises(InputError, match=r"treated otherwise .*\(--stain\)"):
        origin.check(treated)
    other = make_dataset(tmp_path / "other", COUNTS, seed=9)
    checked_encoder(str(run), other)
    assert len(notes) == 1
    assert "pretrained on other data" in notes[0]


def test_a_classifier_has_seen_what_its_encoder_has(
    run: Path, data: PreparedDataset, tmp_path: Path, make_dataset: Callable[..., PreparedDataset]
) -> None:
    other = make_dataset(tmp_path / "other", COUNTS, seed=9)
    config = TrainingConfig(arch="fcmae-wpat", init=str(run), steps=2, batch_size=8, evaluations=1)
    out = train_run(other, [], config, tmp_path / "classifier")
    pretrained_on = set(data.tables["train"]["source_sha256"])
    assert pretrained_on < seen_images(out).files
    described = json.loads((out / "config.json").read_text())
    assert described["init"]["data"]["fingerprint"] == data.fingerprint
    assert described["init"]["sha256"] == hashlib.sha256((run / ENCODER).read_bytes()).hexdigest()
    card = (out / "MODEL_CARD.md").read_text()
    assert f"Started from the pretraining run {run}" in card and "on 32 real train images" in card
    assert data.fingerprint in card and str(data.root) in card
    assert "which the temperature was chosen by" in card  # 6 validation images of a class
    assert "The weights are those after the last step: a class has fewer than 10" in card
    with pytest.raises(InputError, match="32 of the 32 images"):
        evaluate_run(load_run(out), exchanged(data))


def test_runs_appear_whole_or_not_at_all(run: Path, data: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        pretrain(data, QUICK, run)
    with pytest.raises(InputError, match="take a learning_rate below"):
        pretrain(data, replace(QUICK, learning_rate=1e30, clip=1e30), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    empty = replace(data, tables=data.tables | {"train": data.tables["heldout"]})
    with pytest.raises(InputError, match="train has no images"):
        pretrain(empty, QUICK, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"mask_ratio": 1.0}, "mask_ratio is the share"),
        ({"mask_ratio": float("nan")}, "mask_ratio is the share"),
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"augmentation": "flip"}, "Did you mean 'flips'"),
        ({"precision": "float16"}, "no precision 'float16'"),
    ],
)
def test_impossible_settings_get_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PretrainingConfig(**values)


def test_the_commands_pretrain_and_train_from_it(data: PreparedDataset, tmp_path: Path) -> None:
    def invoke(*words: object) -> Any:
        return CliRunner().invoke(cli.classifier, [str(word) for word in words])

    out = tmp_path / "pretrained"
    short = ("--data", data.root, "--steps", 2, "--batch-size", 8)
    planned = invoke("pretrain", *short, "--out", out, "--mask-ratio", 0.5, "--dry-run")
    assert json.loads(planned.stdout)["mask_ratio"] == 0.5
    done = invoke("pretrain", *short, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"Pretraining run: {out} (trained on 32 real images" in done.stdout
    assert invoke("pretrain", *short, "--out", out).exit_code == 2
    assert invoke("pretrain", *short, "--out", out, "--overwrite").exit_code == 0
    trained = invoke("train", *short, "--arch", "fcmae-wpat", "--init", out, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    refused = invoke("train", *short, "--arch", "hybrid", "--init", out, "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert "can start from" in refused.stderr
    from_itself = invoke("train", *short, "--arch", "fcmae-wpat", "--init", out, "--out", out, "--overwrite")
    assert from_itself.exit_code == 2 and "is read here" in from_itself.stderr
    assert (out / ENCODER).is_file()


@pytest.mark.slow
def test_the_loss_falls_on_blood_cells(real_data: Path) -> None:
    files = sorted((real_data / "pbc").glob("*/*"))[::20]
    images = []
    for path in files:
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX)))
    history = fit_autoencoder(PretrainingConfig(steps=100), np.stack(images)).history
    assert history[-1]["loss"] < 0.65 * history[0]["loss"]


def test_a_pretraining_goes_on_exactly_and_refuses_another(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(QUICK, steps=6)
    whole = pretrain(data, config, tmp_path / "whole")
    monkeypatch.setattr(state, "SECONDS", 0.0)
    augment, calls = Transform.augment, []

    def interrupted(self, pixels, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return augment(self, pixels, generator)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Transform, "augment", interrupted)
        pretrain(data, config, tmp_path / "parts")
    with pytest.raises(InputError, match="was interrupted; give --resume"):
        pretrain(data, config, tmp_path / "parts")
    with pytest.raises(InputError, match="other settings.*seed 0, not 1"):
        pretrain(data, replace(config, seed=1), tmp_path / "parts", resume=True)
    parts = pretrain(data, config, tmp_path / "parts", resume=True)
    for name in ("encoder.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert not (parts / state.STATE).exists()
    assert pretrain(data, config, parts, resume=True) == parts
    with pytest.raises(InputError, match="other settings"):
        pretrain(data, replace(config, steps=7), parts, resume=True)
