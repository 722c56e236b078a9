"""Whatever is registered as a generator learns, samples, is saved and goes on exactly where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from balancer.errors import InputError
from balancer.generators import GeneratorConfig, load_generator, registry, train
from balancer.generators.adversaries import Chunk
from balancer.generators.checkpoints import collect_state, load_tensors, restore_state
from balancer.generators.training import Batches

CPU = torch.device("cpu")
MEASURES = {
    "no augmentation": {"augmentation": "none"},
    "every operation": {"augmentation": "bgcfnc", "augmentation_p": 0.5},
    "diffaugment": {"augmentation": "diffaugment"},
    "freeze-d": {"freeze_discriminator": 1},
    "ramp": {"unconditional_kimg": 0.016, "ramp_kimg": 0.032},
    "classless layers": {"classless_resolution": 8},
    "noise": {"embedding_noise": 0.5},
    "noisy twins": {"embedding_noise": 0.5, "decorrelation": 0.1},
}
COUNTS = {"train": {"a": 30, "b": 6}, "validation": {"a": 4, "b": 2}, "test": {"a": 4, "b": 2}}
RESOLUTION = 16


@pytest.fixture(scope="module", params=registry.FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def config(name):
    small = GeneratorConfig(
        name, kimg=0.064, batch_size=8, ticks=2, channel_base=128, channel_max=16, latent=16
    )
    return registry.family(name).resolve(small, RESOLUTION)


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), COUNTS, RESOLUTION)


@pytest.fixture(scope="module")
def run(data, config, tmp_path_factory):
    return train(data, config, tmp_path_factory.mktemp("runs") / "run")


def new_adversaries(config):
    torch.manual_seed(0)
    return registry.family(config.generator).adversaries(config, 2, RESOLUTION, CPU)


@pytest.fixture
def batch(data, config):
    real, labels, fake_labels = Batches(data.images("train"), data.labels("train"), config)[0]

    def step(adversaries, number=0):
        return adversaries.step(number, [Chunk(real, labels, fake_labels, torch.Generator().manual_seed(0))])

    return SimpleNamespace(step=step)


def test_defaults_are_complete_and_leave_what_was_chosen(name):
    family = registry.family(name)
    config = family.resolve(GeneratorConfig(name), 64)
    open_on_purpose = {"augmentation_p"}  # None stands for adaptive, or for the family's schedule
    if name == "projected":
        open_on_purpose |= {"gamma"}  # it has no gradient penalty
    if name == "r3gan":
        open_on_purpose |= {"mapping_layers"}  # it has no mapping
    assert {k for k, v in config.to_json().items() if v is None} <= open_on_purpose
    chosen = family.resolve(GeneratorConfig(name, learning_rate=0.1, channel_max=24, latent=7), 64)
    assert (chosen.learning_rate, chosen.channel_max, chosen.latent) == (0.1, 24, 7)
    assert family.resolve(config, 64) == config


def test_a_step_moves_every_network_and_logs_numbers(config, batch):
    adversaries = new_adversaries(config)
    before = {
        k: {n: p.clone() for n, p in adversaries.modules[k].named_parameters()} for k in ("G", "D", "G_ema")
    }
    for number in range(2):  # what begins at zero hides the gradient of what is before it in the first step
        logged = batch.step(adversaries, number)
    assert {"loss_g", "loss_d", "real_sign", "augmentation_p"} <= logged.keys()
    assert all(np.isfinite(float(value.detach())) for value in logged.values())
    for network, parameters in before.items():
        after = dict(adversaries.modules[network].named_parameters())
        still = [n for n, p in parameters.items() if torch.equal(p, after[n])]
        assert len(still) < 0.25 * len(parameters), (network, still)


@pytest.mark.parametrize(("held", "loss"), [("G", "loss_d"), ("D", "loss_g")])
def test_a_network_gets_better_against_an_opponent_that_is_held(config, batch, monkeypatch, held, loss):
    adversaries = new_adversaries(config)
    monkeypatch.setattr(adversaries.optimizers[held], "step", lambda: None)
    values = [float(batch.step(adversaries)[loss].detach()) for _ in range(12)]
    assert values[-1] < values[0]


def steps(config, batch, number):
    """The adversaries after so many steps of that configuration, and what the last one logged."""
    adversaries = new_adversaries(config)
    logs = [batch.step(adversaries, i) for i in range(number)]
    return adversaries, {name: float(value.detach()) for name, value in logs[-1].items()}


@pytest.fixture(scope="module")
def plain(config):
    """Settings with a p above 0, so that another augmentation tells."""
    return replace(config, augmentation="bgc", augmentation_p=0.5)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_every_measure_tells_or_is_refused(plain, batch, measure):
    try:
        changed = registry.family(plain.generator).resolve(replace(plain, **measure), RESOLUTION)
        adversaries, logged = steps(changed, batch, 5)
    except InputError as refusal:
        assert plain.generator not in ("stylegan2-ada", "acdb")
        assert str(refusal).endswith(".")
        return
    assert all(np.isfinite(value) for value in logged.values())
    reference = steps(plain, batch, 5)[0]
    for network in ("G", "D"):
        before, after = (a.modules[network].state_dict() for a in (reference, adversaries))
        assert any(not torch.equal(before[k], after[k]) for k in before), network


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_chosen_p_stays(config, batch, p):
    chosen = replace(config, augmentation="bgc", augmentation_p=p, ada_target=-1.0, ada_kimg=0.01)
    assert steps(chosen, batch, 5)[1]["augmentation_p"] == pytest.approx(p)


def test_frozen_blocks_keep_their_weights_and_there_are_so_many(config, batch):
    def moved(number):
        before = new_adversaries(replace(config, freeze_discriminator=number)).modules["D"].state_dict()
        after = steps(replace(config, freeze_discriminator=number), batch, 2)[0].modules["D"].state_dict()
        return {k for k in before if not torch.equal(before[k], after[k])}

    with pytest.raises(InputError, match="blocks that can be frozen, not 9"):
        new_adversaries(replace(config, freeze_discriminator=9))
    if config.generator == "projected":
        pytest.skip("Its discriminators have no blocks that see the image first.")
    by_number = [moved(number) for number in range(3)]
    assert by_number[0] > by_number[1] > by_number[2] > set()


def test_a_classless_generator_is_rebuilt_from_its_file(config, data, tmp_path):
    try:
        registry.family(config.generator).resolve(replace(config, classless_resolution=8), RESOLUTION)
    except InputError:
        pytest.skip(f"{config.generator} refuses it.")
    path = train(data, replace(config, classless_resolution=8), tmp_path / "run")
    generator = load_generator(path)
    assert generator.info["network"]["classless_resolution"] == 8
    assert not np.array_equal(generator.generate("a", [1]), generator.generate("b", [1]))


def test_state_is_saved_and_restored_to_the_bit(config, batch, tmp_path):
    one, two = new_adversaries(config), new_adversaries(config)
    batch.step(one)
    restore_state(collect_state(one.modules, one.optimizers), two.modules, two.optimizers, tmp_path)
    logs = [batch.step(adversaries, 1) for adversaries in (one, two)]
    assert {k: float(v.detach()) for k, v in logs[0].items()} == {
        k: float(v.detach()) for k, v in logs[1].items()
    }
    states = [collect_state(adversaries.modules, adversaries.optimizers) for adversaries in (one, two)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_run_keeps_the_settings_it_was_trained_with(run, config):
    assert json.loads((run / "config.json").read_text())["training"] == config.to_json()
    assert load_generator(run).info["config"] == config.to_json()


def test_the_saved_generator_gives_images_by_seed_and_class(run):
    generator = load_generator(run)
    images = generator.generate("a", [1, 2, 3])
    assert images.shape == (3, RESOLUTION, RESOLUTION, 3)
    assert images.dtype == np.uint8
    assert np.abs(generator.generate("a", [3])[0].astype(int) - images[2]).max() <= 1
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images, generator.generate("b", [1, 2, 3]))
    spread = [generator.generate("a", list(range(32)), psi).astype(float).std(0).mean() for psi in (1.0, 0.3)]
    assert spread[1] < spread[0]


def test_a_resumed_run_equals_an_uninterrupted_one(run, data, config, tmp_path, train_until):
    train_until(6, data, config, tmp_path / "run")
    train(data, config, tmp_path / "run", resume=True)
    whole, resumed = (load_tensors(path / "state.safetensors")[0] for path in (run, tmp_path / "run"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    uninterrupted, interrupted = (
        pd.read_json(path / "metrics.jsonl", lines=True).drop(columns="images_per_second")
        for path in (run, tmp_path / "run")
    )
    pd.testing.assert_frame_equal(uninterrupted, interrupted)


def test_a_resolution_that_is_no_power_of_two_is_refused(name):
    family = registry.family(name)
    with pytest.raises(InputError, match="power of two"):
        family.network_config(family.resolve(GeneratorConfig(name), 48), 2, 48)
