"""The speed table: its figures follow from the seconds measured, and plain steps compute what ours do."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from balancer.generators import GeneratorConfig, registry
from balancer.generators.batches import Batches
from benchmarks import generators
from benchmarks.generators import (
    CHECK_LAST,
    Variant,
    agreement,
    by_turns,
    final_losses,
    main,
    measure,
    summary,
)
from benchmarks.plain import float32, plain, plain_networks

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"batch_size": 8, "channel_base": 128, "channel_max": 16, "latent": 16}


def small(name: str) -> GeneratorConfig:
    config = GeneratorConfig(generator=name, augmentation_p=0.5, **SMALL)
    return registry.family(name).resolve(config, 16)


def batches(config: GeneratorConfig) -> Batches:
    rng = np.random.default_rng(0)
    return Batches(rng.integers(0, 256, (12, 16, 16, 3), np.uint8), np.arange(12) % 2, config)


class Convolutions(TorchDispatchMode):
    """Notes precision, layout and groups of every convolution, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()
        self.groups: set[int] = set()
        self.channels_last = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            images = [a for a in args if isinstance(a, torch.Tensor) and a.ndim == 4]
            self.dtypes |= {x.dtype for x in images}
            self.groups.add(next(a for a in reversed(args) if type(a) is int))
            self.channels_last |= any(x.stride(1) == 1 and min(x.shape[1:]) > 1 for x in images)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", registry.FAMILIES)
def test_a_plain_step_computes_what_ours_computes_in_float32(name):
    config = small(name)
    ours, bare = (Variant(context, config, 2, 16, CPU) for context in (float32, plain_networks))
    data = batches(config)
    seen = {}
    for variant in (ours, bare):
        with Convolutions() as seen[variant]:
            losses = [variant.step(step, data.chunks(step, CPU)) for step in range(2)]  # the first with R1
            seen[variant].losses = [float(x[key]) for x in losses for key in ("loss_g", "loss_d")]
    assert seen[bare].losses[:2] == pytest.approx(seen[ours].losses[:2], rel=1e-5)
    # Adam's first step is the sign of a gradient: one that is zero but for rounding moves its weight either way.
    assert seen[bare].losses[2:] == pytest.approx(seen[ours].losses[2:], rel=5e-3)
    assert seen[bare].dtypes == {torch.float32}
    assert not seen[bare].channels_last
    assert seen[ours].channels_last
    if name != "r3gan":
        assert config.batch_size in seen[bare].groups  # a convolution per sample


@pytest.mark.parametrize(
    ("name", "ours", "bare"), [("stylegan2-ada", 1, 2), ("acdb", 1, 2), ("projected", 1, 1)]
)
def test_a_plain_step_generates_images_for_each_update(name, ours, bare):
    config = small(name)
    data = batches(config)
    for context, passes in ((float32, ours), (plain, bare)):
        variant, seen = Variant(context, config, 2, 16, CPU), []
        variant.adversaries.G.synthesis.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        variant.step(1, data.chunks(1, CPU))
        assert len(seen) == passes


@pytest.mark.parametrize("name", registry.FAMILIES)
def test_plain_images_are_the_same_images(name):
    ours, bare = (Variant(context, small(name), 2, 16, CPU) for context in (nullcontext, plain))
    with torch.no_grad():
        for variant in (ours, bare):
            rng = torch.Generator().manual_seed(1)
            for p in variant.adversaries.modules["G_ema"].parameters():  # no bias or noise strength at zero
                p.add_(0.1 * torch.randn(p.shape, generator=rng))
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(ours.sample(z, labels), bare.sample(z, labels), rtol=1e-3, atol=1e-3)


def test_nothing_stays_replaced():
    with plain():
        pass
    assert torch.channels_last is not torch.contiguous_format


def test_figures_follow_from_the_seconds():
    ours = np.array([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]])  # by the clock, of processor time
    bare = np.array([[3.0, 2.0], [8.0, 2.0], [8.0, 2.0]])
    figures = summary(ours, bare, images=16)
    assert figures["images_per_second"] == 8
    assert figures["plain_images_per_second"] == 2
    assert figures["ratio"] == 3  # of the ratios 3, 4 and 2
    assert figures["ratio_quartiles"] == (2.5, 3.5)
    assert figures["processor_ratio"] == 2


def test_variants_take_turns_and_the_first_is_not_counted():
    order = []

    def work(name, turn):
        order.append((name, turn))
        return np.array(100.0 * turn)

    results = by_turns([lambda t: work("a", t), lambda t: work("b", t)], turns=2)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert results.tolist() == [[100.0, 200.0], [100.0, 200.0]]


def test_a_training_step_is_the_mean_over_the_cycle_of_the_penalty(monkeypatch):
    def scripted(work, device):
        """No clock: 17 seconds for a step with R1, 1 for every other piece of work."""
        training = work.func.__name__ == "step"
        return np.full(2, 17.0 if training and work.args[0] % 16 == 0 else 1.0)

    monkeypatch.setattr(generators, "seconds", scripted)
    training, synthesis = measure(GeneratorConfig(generator="stylegan2-ada", **SMALL), 16, 1, CPU)
    assert training.images_per_second == SMALL["batch_size"] / 2
    assert training.ratio == synthesis.ratio == 1
    training, _ = measure(GeneratorConfig(generator="r3gan", **SMALL), 16, 1, CPU)
    assert training.images_per_second == SMALL["batch_size"]


def test_the_command_prints_ratios(capsys):
    main(["--resolutions", "16", "--generators", "r3gan", "--steps", "1", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["machine"]["threads"] == torch.get_num_threads()
    assert [row["what"] for row in printed["rows"]] == ["training", "synthesis"]
    for row in printed["rows"]:
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["plain_images_per_second"])
        assert row["ratio"] > 0


def test_a_resolution_that_cannot_be_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--resolutions", "24", "--generators", "stylegan2-ada"])
    assert stopped.value.code == 2
    assert "power of two" in capsys.readouterr().err


def test_final_losses_depend_on_the_seed_alone():
    config = GeneratorConfig(kimg=0.016, **SMALL)
    first, again = (final_losses(nullcontext, config, 16, CHECK_LAST, CPU) for _ in range(2))
    assert first == again
    assert np.isfinite(list(first.values())).all()


def test_agreement_is_judged_by_the_spread_of_the_seeds():
    same = agreement("r3gan", "loss_d", [1.0, 1.1, 0.9], [1.05, 0.95, 1.1])
    assert same.agrees
    other = agreement("r3gan", "loss_d", [1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert not other.agrees
    assert other.difference == pytest.approx(-1)
    # Equal spread and sizes: Welch's interval is Student's, t(0.975, 4) = 2.776 times 0.1·√(2/3).
    assert other.interval == pytest.approx(
        (-1 - 2.776 * 0.1 * (2 / 3) ** 0.5, -1 + 2.776 * 0.1 * (2 / 3) ** 0.5), abs=1e-3
    )
