"""Two processes train a classifier as one does that takes the same parts of a batch one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from balancer.data import PreparedDataset
from balancer.errors import InputError
from balancer.generators import processes as group
from classifier import runs
from classifier.compare import compare
from classifier.config import TrainingConfig
from classifier.pretraining import PretrainingConfig, pretrain
from classifier.runs import train_run
from classifier.training import Fitted

# float32, for bfloat16 makes much of the last bit of a sum.
CONFIG = TrainingConfig(
    arch="convnextv2", steps=4, batch_size=16, accumulate=2, evaluations=1, loss="class-weights", mixing="mixup",
    precision="float32", learning_rate=1e-3,
)  # fmt: skip

DRIVER = """
import json, os, sys
from pathlib import Path
import torch
from balancer.data import PreparedDataset
from balancer.generators.checkpoints import save_tensors
from classifier import runs, training
from classifier.config import TrainingConfig

data, out, config = sys.argv[1:]
config = json.loads(config)
fit = runs.fit
def keeping(*args, **options):
    fitted = fit(*args, **options)
    save_tensors(Path(f"{out}-{os.environ['RANK']}"), fitted.model.state_dict(), {})
    return fitted
runs.fit = keeping
config = TrainingConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
runs.train_run(PreparedDataset.load(Path(data)), [], config, Path(out))
torch.distributed.destroy_process_group()
"""


def test_two_processes_are_one_with_twice_the_passes(
    make_prepared: Callable[..., PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_prepared(side=16)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, driver, data.root, tmp_path / "two", json.dumps(asdict(replace(CONFIG, accumulate=1)))],
        env={"PYTHONPATH": str(Path(runs.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / f"two-{rank}") for rank in range(2)]
    assert [name for name in ranks[0] if not torch.equal(ranks[0][name], ranks[1][name])] == []

    fit, alone = runs.fit, []

    def keeping(*args: Any, **options: Any) -> Fitted:
        alone.append(fit(*args, **options))
        return alone[0]

    monkeypatch.setattr(runs, "fit", keeping)
    one, two = train_run(data, [], CONFIG, tmp_path / "one"), tmp_path / "two"
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    logs = [pd.read_json(path / "metrics.jsonl", lines=True) for path in (one, two)]
    pd.testing.assert_frame_equal(logs[1][["step", "loss"]], logs[0][["step", "loss"]], rtol=1e-4)
    for name, tensor in alone[0].model.state_dict().items():
        if (
            "running" not in name and "num_batches" not in name
        ):  # they move once a pass, here one of two at a time
            torch.testing.assert_close(ranks[0][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("batch", "accumulate", "processes"), [(16, 1, 3), (16, 16, 1), (8, 2, 4)])
def test_a_batch_that_does_not_divide_is_a_sentence(batch: int, accumulate: int, processes: int) -> None:
    with pytest.raises(InputError, match="does not divide over"):
        TrainingConfig(batch_size=batch, accumulate=accumulate).share(processes)


def test_a_comparison_is_made_by_one_process(
    make_prepared: Callable[..., PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "processes", lambda device=None: SimpleNamespace(num_processes=2))
    data = make_prepared()
    for make in (
        lambda: compare(data, [], tmp_path / "report"),
        lambda: pretrain(data, PretrainingConfig(), tmp_path / "encoder"),
    ):
        with pytest.raises(InputError, match="made by one process"):
            make()
    assert not (tmp_path / "report").exists() and not (tmp_path / "encoder").exists()
