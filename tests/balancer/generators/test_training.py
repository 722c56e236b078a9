"""The training loop: it learns, writes the contract's files, and resumes to the bit."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from balancer.errors import InputError
from balancer.files import kind_of
from balancer.generators import GeneratorConfig, read_source, train
from balancer.generators.checkpoints import load_generator, load_tensors
from balancer.generators.training import Batches, plan

CONFIG = GeneratorConfig(kimg=0.096, batch_size=8, ticks=3, channel_base=128, channel_max=16, latent=16)
COUNTS = {"train": {"a": 30, "b": 6}, "validation": {"a": 4, "b": 2}, "test": {"a": 4, "b": 2}}


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), COUNTS, resolution=16)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(data, CONFIG, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_holds_what_the_contract_names(run, data):
    config = json.loads((run / "config.json").read_text())
    assert config["kind"] == kind_of(run) == "generator"
    assert config["data"]["fingerprint"] == data.fingerprint
    metrics = pd.read_json(run / "metrics.jsonl", lines=True)
    assert metrics["step"].tolist() == [4, 8, 12]
    assert np.isfinite(metrics[["loss_g", "loss_d", "augmentation_p"]]).all(axis=None)
    assert len(list((run / "samples").glob("*.png"))) == 3
    seen = pd.read_csv(run / "seen.csv")["source_sha256"]
    assert set(seen) == set(data.tables["train"]["source_sha256"])
    assert not set(seen) & set(data.tables["test"]["source_sha256"])


def test_images_are_a_function_of_their_seed(run):
    generator = load_generator(run)
    images = generator.generate("a", [1, 2, 3])
    assert images.shape == (3, 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.abs(generator.generate("a", [3])[0].astype(int) - images[2]).max() <= 1
    assert not np.array_equal(images[0], images[1])


def test_same_seed_same_weights_and_another_seed_others(run, data, tmp_path):
    again = load_tensors(train(data, CONFIG, tmp_path / "again") / "state.safetensors")[0]
    first = load_tensors(run / "state.safetensors")[0]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = load_tensors(train(data, replace(CONFIG, seed=1), tmp_path / "other") / "state.safetensors")[0]
    assert not torch.equal(first["module/G/mapping.fc0.weight"], other["module/G/mapping.fc0.weight"])


@pytest.mark.parametrize("stop_at", [2, 5, 11])
def test_a_resumed_run_equals_an_uninterrupted_one(run, data, tmp_path, train_until, stop_at):
    train_until(stop_at, data, CONFIG, tmp_path / "run")
    train(data, CONFIG, tmp_path / "run", resume=True)
    whole, resumed = (load_tensors(path / "state.safetensors")[0] for path in (run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    columns = ["step", "loss_g", "loss_d", "real_sign", "augmentation_p"]
    logs = [pd.read_json(path / "metrics.jsonl", lines=True)[columns] for path in (run, tmp_path / "run")]
    pd.testing.assert_frame_equal(*logs)


def test_classes_are_drawn_evenly_and_turned(data):
    images = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
    batches = Batches(images, np.array([0, 0, 0, 1]), replace(CONFIG, batch_size=400, kimg=1))
    real, labels, fake_labels = batches[0]
    assert abs(labels.float().mean() - 0.5) < 0.1
    assert abs(fake_labels.float().mean() - 0.5) < 0.1
    views = {tuple(x.flatten().tolist()) for x in real[labels == 1]}
    assert len(views) == 8
    assert torch.equal(batches[0][0], real)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_goes_from_natural_to_even(balance):
    sizes = np.array([64, 16, 4])
    labels = np.repeat([0, 2, 5], sizes)
    images = np.arange(84, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    config = replace(CONFIG, batch_size=20000, kimg=100, balance=balance, symmetries=False)
    real, drawn, fake = Batches(images, labels, config)[0]
    expected = sizes ** (1 - balance) / (sizes ** (1 - balance)).sum()
    for of in (drawn, fake):
        assert np.bincount(of, minlength=6)[[0, 2, 5]] / 20000 == pytest.approx(expected, abs=0.02)
    index = ((real[:, 0, 0, 0] + 1) * 127.5).round().long().numpy()
    assert (labels[index] == drawn.numpy()).all()
    assert len(np.unique(index)) == 84


def test_only_the_named_classes_are_trained_on(data, tmp_path):
    run = train(data, replace(CONFIG, kimg=0.016, ticks=1, only=("b",)), tmp_path / "run")
    seen = pd.read_csv(run / "seen.csv")
    assert seen["label"].tolist() == ["b"] * 6
    config = json.loads((run / "config.json").read_text())
    assert (config["classes"], config["known"]) == (["a", "b"], ["b"])
    generator = load_generator(run)
    assert generator.info["known"] == ["b"]
    assert generator.network.c_dim == 2
    labels = Batches(data.images("train")[30:], data.labels("train")[30:], CONFIG)[0][1:]
    assert all((of == 1).all() for of in labels)


def test_the_discriminator_learns_and_its_generator_follows(make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", {"train": {"a": 40, "b": 40}}, resolution=16)
    config = replace(CONFIG, kimg=4.8, batch_size=16, ticks=2, learning_rate=0.005)
    generator = load_generator(train(data, config, tmp_path / "run"))
    for label in ("a", "b"):
        real, _ = data.images_of(label, ["train"])
        fake = generator.generate(label, list(range(64)))
        untrained = np.full_like(real, 128)
        assert (
            np.abs(fake.mean((0, 1, 2)) - real.mean((0, 1, 2))).max()
            < 0.5 * np.abs(untrained.mean((0, 1, 2)) - real.mean((0, 1, 2))).max()
        )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 6}, "does not divide"),
        ({"kimg": 0}, "above 0"),
        ({"kimg": 0.001}, "less than one batch"),
        ({"generator": "stylegan"}, "Did you mean 'stylegan2-ada'"),
        ({"only": ("a", "c")}, "no class 'c'"),
        ({"balance": 1.5}, "balance must be from 0"),
        ({"augmentation": "bcg"}, "no augmentation 'bcg'"),
        ({"augmentation": "none", "augmentation_p": 0.5}, "augmentation_p does nothing"),
        ({"freeze_discriminator": 99}, "blocks that can be frozen, not 99"),
        ({"generator": "r3gan", "style_mixing": 0.5}, "style_mixing mixes intermediate latents"),
        ({"kimg": 1e300}, "kimg must be at most 1e\\+09"),
        *(
            ({name: value}, f"{name} must be a finite number, not {value}")
            for value in (math.nan, math.inf)
            for name in (
                "kimg",
                "learning_rate",
                "gamma",
                "balance",
                "unconditional_kimg",
                "ramp_kimg",
                "embedding_noise",
                "decorrelation",
            )
        ),
    ],
)
def test_wrong_settings_are_refused_before_any_work(data, tmp_path, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        train(data, GeneratorConfig(**({"batch_size": 8, "kimg": 0.1} | wrong)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_ticks_than_steps_are_a_tick_per_step(data, tmp_path):
    run = train(data, replace(CONFIG, kimg=0.016, ticks=10**12), tmp_path / "run")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_plan_is_what_a_run_begins_with_and_writes_nothing(data, run, tmp_path):
    planned = plan(data, CONFIG, tmp_path / "new" / "run")
    assert (planned.start, planned.resume, list(tmp_path.iterdir())) == (0, False, [])
    config = json.loads((run / "config.json").read_text())
    assert planned.run.config.to_json() == config["training"]
    assert plan(data, CONFIG, run, resume=True).start == 12


@pytest.mark.parametrize("options", [{}, {"resume": True, "overwrite": True}])
def test_a_plan_refuses_what_the_run_refuses(data, run, options):
    for do in (plan, train):
        with pytest.raises(InputError, match="--resume .* --overwrite"):
            do(data, CONFIG, run, **options)


def test_a_resume_keeps_the_weights_that_the_run_began_from(data, run, tmp_path):
    source, config = read_source(run, 16), replace(CONFIG, kimg=0.016, ticks=1)
    with pytest.raises(InputError, match="was begun from scratch, not from"):
        plan(data, CONFIG, run, init=source, resume=True)
    tuned = train(data, config, tmp_path / "tuned", init=source)
    assert plan(data, config, tuned, init=source, resume=True).start == 2
    with pytest.raises(InputError, match=f"was begun from {run}, not from {tuned}"):
        plan(data, config, tuned, init=read_source(tuned, 16), resume=True)


def test_divergence_names_the_checkpoint_that_there_is(data, tmp_path, monkeypatch):
    train(data, replace(CONFIG, kimg=0.032, ticks=1), tmp_path / "late")
    fetch = Batches.__getitem__

    def no_numbers(self, step):
        images, *labels = fetch(self, step)
        return images * math.nan, *labels

    monkeypatch.setattr(Batches, "__getitem__", no_numbers)
    with pytest.raises(RuntimeError, match="has no checkpoint yet"):
        train(data, CONFIG, tmp_path / "early")
    with pytest.raises(RuntimeError, match="the checkpoint in .* is from before"):
        train(data, CONFIG, tmp_path / "late", resume=True)


def test_a_class_without_train_images_cannot_be_trained_on_alone(make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", {"train": {"a": 4}, "test": {"c": 1}}, resolution=16)
    with pytest.raises(InputError, match="no train images of class c"):
        train(data, replace(CONFIG, only=("a", "c")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_only_with_its_own_data_and_settings(run, data, make_dataset, tmp_path):
    with pytest.raises(InputError, match="another learning_rate"):
        train(data, replace(CONFIG, learning_rate=0.1), run, resume=True)
    with pytest.raises(InputError, match="begun with --generator stylegan2-ada, not acdb; give the command"):
        train(data, replace(CONFIG, generator="acdb"), run, resume=True)
    other = make_dataset(tmp_path / "other", COUNTS, resolution=16, seed=1)
    with pytest.raises(InputError, match="other data"):
        train(other, CONFIG, run, resume=True)
    stained = replace(data, info=data.info | {"stain": {"name": "clahe", "reference": {}}})
    with pytest.raises(InputError, match=r"treated otherwise than those of .*\(--stain\)"):
        train(stained, CONFIG, run, resume=True)
    with pytest.raises(InputError, match="give --resume"):
        train(data, CONFIG, run)
    with pytest.raises(InputError, match="is read here"):
        train(data, CONFIG, data.root, overwrite=True)


def test_a_run_whose_configuration_is_damaged_is_not_resumed(data, tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "generator"}')
    with pytest.raises(InputError, match=r"config\.json is damaged \(no data, resolution, training\)"):
        train(data, CONFIG, tmp_path, resume=True)


def test_a_damaged_line_of_metrics_within_is_a_sentence(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: line 1 is no JSON"):
        train(data, CONFIG, tmp_path / "run", resume=True)


def test_resuming_a_run_that_never_began_begins_it(data, run, tmp_path):
    fresh = train(data, CONFIG, tmp_path / "run", resume=True)
    assert (fresh / "generator.safetensors").read_bytes() == (run / "generator.safetensors").read_bytes()


def test_a_truncated_checkpoint_is_a_sentence(run, tmp_path):
    (tmp_path / "generator.safetensors").write_bytes((run / "generator.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        load_generator(tmp_path)


def test_what_the_first_weights_saw_of_judging_images_is_said_beforehand(data, run, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("balancer.generators.training.note", notes.append)
    source = read_source(run, 16)
    plan(data, CONFIG, tmp_path / "a", init=source)
    assert not any("will refuse" in sentence for sentence in notes)
    both = pd.concat([source.seen, data.tables["test"].iloc[:2][["source_sha256", "label", "file_name"]]])
    plan(data, CONFIG, tmp_path / "b", init=replace(source, seen=both))
    assert "outside its train split (2 of test)" in notes[-1] and "will refuse" in notes[-1]
