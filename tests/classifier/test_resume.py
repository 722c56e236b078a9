"""An interrupted training that goes on gives to the bit what one gives that was never interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from balancer.data import PreparedDataset, SyntheticSet
from balancer.data.catalogue import find_runs
from balancer.errors import InputError
from balancer.files import kind_of
from classifier import checkpoints, runs, state, training
from classifier.checkpoints import load_run
from classifier.config import TrainingConfig
from classifier.runs import train_run
from classifier.state import STATE, StateFile
from classifier.training import Fitted, fit

CONFIG = TrainingConfig(
    arch="convnextv2", steps=9, batch_size=8, accumulate=2, evaluations=3, mixing="cutmix", ema=0.9, augmentation="stain"
)  # fmt: skip
Prepared = Callable[..., PreparedDataset]
Synthetic = Callable[..., SyntheticSet]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with all that could go astray: running statistics and dropout. A state is written at every step."""

    def network(name: str, classes: int, resolution: int, *args: object) -> nn.Module:
        features = [nn.AvgPool2d(resolution // 4), nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.3)]
        return nn.Sequential(*features, nn.Linear(48, classes))

    for module in (training, checkpoints):
        monkeypatch.setattr(module, "create_model", network)
    monkeypatch.setattr(state, "SECONDS", 0.0)


def run(config: TrainingConfig, file: StateFile | None) -> Fitted:
    rng = np.random.default_rng(0)
    train, labels = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    held, held_labels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 3
    return fit(config, train, labels, held, held_labels, 3, state=file)


@pytest.mark.parametrize(
    "values", [{}, {"loss": "logit-adjustment", "mixing": "none"}, {"loss": "ldam", "ema": 0.0}]
)
def test_a_training_goes_on_exactly(
    small: None, values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    config = replace(CONFIG, **values)  # type: ignore[arg-type]
    whole = run(config, None)
    update = training.update
    for stop in (0, 4, 4, 8):  # before the first state, twice in the middle, before the last step

        def stopping(session: training.Training, *args: object, stop: int = stop) -> None:
            if session.step == stop:
                raise KeyboardInterrupt
            update(session, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(training, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config, StateFile(tmp_path / "run", {}, resume=True))
        assert (tmp_path / "run" / STATE).is_file() == (stop > 0)
    monkeypatch.setattr(training, "update", update)
    resumed = run(config, StateFile(tmp_path / "run", {}, resume=True))
    assert resumed.history == whole.history
    assert resumed.best_step == whole.best_step
    weights, others = resumed.model.state_dict(), whole.model.state_dict()
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    np.testing.assert_array_equal(resumed.validation_probabilities, whole.validation_probabilities)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, *args: object, **options: object) -> None:
    """Interrupt `train_run` when `step` steps are done."""
    update = training.update

    def stopping(session: training.Training, *given: object) -> None:
        if session.step == step:
            raise KeyboardInterrupt
        update(session, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "update", stopping)
        train_run(*args, **options)  # type: ignore[arg-type]


def test_an_unfinished_run_says_so_and_what_differs(
    small: None, make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    notes: list[str] = []
    for module in (runs, state):
        monkeypatch.setattr(module, "note", notes.append)
    data, out = make_prepared(), tmp_path / "run"
    synthetic = make_synthetic(data)

    interrupt(monkeypatch, 0, data, [synthetic], CONFIG, out)
    assert not out.exists()
    interrupt(monkeypatch, 3, data, [synthetic], CONFIG, out, resume=True)
    assert notes == [f"There is no state of a training at {out} to go on from: it begins now."]
    assert sorted(path.name for path in out.iterdir()) == [".hemabalance.json", STATE]
    assert kind_of(out) == "unfinished"
    assert find_runs(tmp_path) == []

    with pytest.raises(InputError, match="give the command that began it, with --resume, to go on"):
        load_run(out)
    with pytest.raises(InputError, match="holds a training that was interrupted; give --resume"):
        train_run(data, [synthetic], CONFIG, out)
    with pytest.raises(InputError, match="give one of the two"):
        train_run(data, [synthetic], CONFIG, out, overwrite=True, resume=True)
    with pytest.raises(InputError, match=r"other settings \(steps 9, not 10, seed 0, not 1\)"):
        train_run(data, [synthetic], replace(CONFIG, steps=10, seed=1), out, resume=True)
    with pytest.raises(
        InputError, match=r"other synthetic images \(.*synthetic \{'neutrophil': 20\}, not None\)"
    ):
        train_run(data, [], CONFIG, out, resume=True)
    with pytest.raises(InputError, match=r"other data \(fingerprint .*, not .*\)"):
        train_run(make_prepared("other"), [synthetic], CONFIG, out, resume=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / STATE).write_bytes((out / STATE).read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        train_run(data, [synthetic], CONFIG, tmp_path / "broken", resume=True)

    train_run(data, [synthetic], CONFIG, out, resume=True)
    assert notes[-1] == f"Going on with {out} after step 3."
    train_run(data, [synthetic], CONFIG, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for name in ("classifier.safetensors", "metrics.jsonl", "predictions.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    train_run(data, [synthetic], CONFIG, out, resume=True)
    assert notes[-1] == f"{out} has been trained to its end already; nothing is left to do."

    card = (out / "MODEL_CARD.md").read_text()
    assert "the running average up to it (decay 0.9 a step)" in card
    assert "mixing cutmix" in card and "batches in 2 passes" in card and "layer decay 1.0" in card
    assert "which the weights and the temperature were chosen by" in card and "pretraining" not in card

    told, before = len(notes), (out / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"other settings \(steps 9, not 10\)"):
        train_run(data, [synthetic], replace(CONFIG, steps=10), out, resume=True)
    with pytest.raises(InputError, match="other synthetic images"):
        train_run(data, [], CONFIG, out, resume=True)
    with pytest.raises(InputError, match=r"other data \(fingerprint"):
        train_run(make_prepared("third"), [synthetic], CONFIG, out, resume=True)
    with pytest.raises(InputError, match=r"other data \(treatment"):
        stained = replace(data, info=data.info | {"stain": {"name": "reinhard"}})
        train_run(stained, [synthetic], CONFIG, out, resume=True)
    with pytest.raises(InputError, match="give one of the two"):
        train_run(data, [synthetic], CONFIG, out, overwrite=True, resume=True)
    assert len(notes) == told and (out / "config.json").read_bytes() == before


def test_overwrite_begins_anew(
    small: None, make_prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_prepared(), tmp_path / "run"
    interrupt(monkeypatch, 3, data, [], replace(CONFIG, seed=1), out)
    train_run(data, [], CONFIG, out, overwrite=True)
    train_run(data, [], CONFIG, tmp_path / "whole")
    assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


# Trains in a process of its own that kills itself with SIGKILL when so many steps are done, or where the k-th state is
# put in its place, after half of it was written.
DRIVER = """
import json, os, pathlib, signal, sys
import torch
from balancer.data import PreparedDataset
from classifier import state, training
from classifier.config import TrainingConfig
from classifier.runs import train_run

data, config, threads, out, moment, k = json.loads(sys.argv[1])
replace, update, count = pathlib.Path.replace, training.update, 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def killing_replace(self, target):
    global count
    count += pathlib.Path(target).name == state.STATE
    if count == k and moment == "half":
        os.truncate(self, os.path.getsize(self) // 2)
        die()
    return replace(self, target)

def killing_update(session, *args):
    if session.step == k and moment == "step":
        die()
    update(session, *args)

pathlib.Path.replace, training.update, state.SECONDS = killing_replace, killing_update, 0.0
torch.set_num_threads(threads)
config = TrainingConfig(**{**config, "preprocessing": tuple(config["preprocessing"])})
train_run(PreparedDataset.load(pathlib.Path(data)), [], config, pathlib.Path(out), resume=True)
"""


@pytest.mark.slow
def test_a_killed_process_is_made_up_for(make_prepared: Prepared, tmp_path: Path) -> None:
    data = make_prepared(side=16)
    whole = train_run(data, [], CONFIG, tmp_path / "whole")
    for moment, k in (("step", 0), ("half", 1), ("step", 2), ("half", 4), ("step", 8)):
        out = tmp_path / f"{moment}-{k}"
        job = json.dumps([str(data.root), asdict(CONFIG), torch.get_num_threads(), str(out), moment, k])
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, job],
            env={"PYTHONPATH": str(Path(runs.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == -9, done.stderr
        assert (out / STATE).is_file() == ((moment, k) not in {("step", 0), ("half", 1)})
        train_run(data, [], CONFIG, out, resume=True)
        for name in ("classifier.safetensors", "metrics.jsonl", "predictions.csv"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), (moment, k)
        assert not [path for path in tmp_path.iterdir() if "aside" in path.name]
