"""Two processes train as one does that takes the same chunks one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from balancer.errors import InputError
from balancer.generators import GeneratorConfig, registry, stylegan2_ada, train
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.batches import Batches
from balancer.generators.checkpoints import load_tensors

CONFIG = GeneratorConfig(
    kimg=0.048,
    batch_size=8,
    ticks=3,
    accumulate=2,
    ada_target=-2,
    channel_base=128,
    channel_max=16,
    latent=16,
)
COUNTS = {"train": {"a": 30, "b": 6}}

# What each process runs; float32, for bfloat16 makes much of the last bit of a sum.
DRIVER = """
import json, os, sys
from pathlib import Path
import torch
from balancer.data import PreparedDataset
from balancer.generators import GeneratorConfig, stylegan2_ada, train
from balancer.generators.checkpoints import collect_state, save_tensors

stylegan2_ada.computes_bfloat16 = lambda device: False
data, out, config = sys.argv[1:]
made = []
new = stylegan2_ada.StyleGAN2Adversaries.__init__
def init(self, *args):
    new(self, *args)
    made.append(self)
stylegan2_ada.StyleGAN2Adversaries.__init__ = init
train(PreparedDataset.load(Path(data)), GeneratorConfig(**json.loads(config)), Path(out))
rank = os.environ["RANK"]
save_tensors(Path(f"{out}-{rank}"), collect_state(made[0].modules, made[0].optimizers), {})
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "discs", COUNTS, resolution=16)


def test_two_processes_are_one_with_twice_the_accumulation(data, tmp_path, monkeypatch):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    settings = json.dumps(replace(CONFIG, accumulate=1).to_json())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"PYTHONPATH": str(Path(registry.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, driver, data.root, tmp_path / "two", settings],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    ranks = [load_tensors(tmp_path / f"two-{rank}")[0] for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])

    monkeypatch.setattr(stylegan2_ada, "computes_bfloat16", lambda device: False)
    one, two = train(data, CONFIG, tmp_path / "one"), tmp_path / "two"
    logs = [pd.read_json(path / "metrics.jsonl", lines=True) for path in (one, two)]
    columns = ["step", "loss_g", "loss_d", "real_sign", "augmentation_p"]
    np.testing.assert_allclose(logs[1][columns], logs[0][columns], rtol=1e-5, atol=1e-6)

    states = [load_tensors(path / "state.safetensors")[0] for path in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        if (
            name.startswith("module/") and "w_avg" not in name
        ):  # moves once a chunk, here one of two at a time
            torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-4, msg=name)
    assert states[0]["module/ada/observed"] == 16
    assert states[0]["module/augment/p"] > 0


def test_the_shares_of_the_processes_are_the_batch(data):
    images, labels = data.images("train"), data.labels("train")
    config = replace(CONFIG, batch_size=16)
    whole = Batches(images, labels, config)
    shares = [Batches(images, labels, replace(config, accumulate=1), rank, 2) for rank in range(2)]
    for whole_part, *parts in zip(whole[3], *(share[3] for share in shares), strict=True):
        assert torch.equal(whole_part, torch.cat(parts))
    cpu = torch.device("cpu")
    one = whole.chunks(3, cpu)
    two = [chunk for share in shares for chunk in share.chunks(3, cpu)]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.real, b.real)
        assert torch.equal(torch.rand(3, generator=a.rng), torch.rand(3, generator=b.rng))
    assert not torch.equal(torch.rand(3, generator=one[0].rng), torch.rand(3, generator=one[1].rng))


@pytest.mark.parametrize(("batch", "accumulate", "processes"), [(16, 1, 3), (16, 2, 4), (24, 1, 4)])
def test_a_batch_that_does_not_divide_is_a_sentence(data, batch, accumulate, processes):
    config = replace(CONFIG, batch_size=batch, accumulate=accumulate)
    with pytest.raises(InputError, match=f"over {processes} processes"):
        Batches(data.images("train"), data.labels("train"), config, 0, processes)


class Regression(Adversaries):
    """A linear model with a squared loss, as plain as adversaries can be."""

    def __init__(self, config):
        model = torch.nn.Linear(3, 1)
        super().__init__(config, {"G": model}, {"G": torch.optim.SGD(model.parameters(), lr=0.1)})

    def step(self, step, chunks):
        losses = (self.modules["G"](chunk.real).square().mean() for chunk in chunks)
        return {"loss": self.update("G", losses)}


def test_accumulated_updates_are_those_of_the_whole_batch():
    x, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(16)
    results = []
    for accumulate in (1, 2, 4):
        torch.manual_seed(0)
        model = Regression(replace(CONFIG, batch_size=16, accumulate=accumulate))
        chunks = [Chunk(part, labels, labels, torch.Generator()) for part in x.chunk(accumulate)]
        loss = model.step(0, chunks)["loss"]
        results.append((loss, model.modules["G"].weight.detach()))
    for loss, weight in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(weight, results[0][1])
