"""Files that are well-formed and hold what no training wrote: each gets its sentence."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from balancer import smear
from balancer.data import PreparedDataset, prepare
from balancer.errors import InputError
from balancer.files import write_json
from balancer.generators.checkpoints import load_tensors, save_tensors
from balancer.imaging import stain
from classifier import state, training
from classifier.checkpoints import WEIGHTS, load_run
from classifier.compare import PREDICTIONS, report_again
from classifier.config import TrainingConfig
from classifier.prediction import predict_files
from classifier.pretraining import PretrainingConfig, fit_autoencoder
from classifier.runs import train_run
from classifier.state import STATE, StateFile
from classifier.training import fit
from classifier.transforms import Transform

CONFIG = TrainingConfig(arch="cnn11", steps=4, batch_size=8, evaluations=2, preprocessing=("none",))
NAN, INF, MISSING = float("nan"), float("inf"), object()
MACENKO = {"light": [240.0] * 3, "stains": [[0.6, 0.7, 0.3], [0.1, 0.9, 0.4]], "strengths": [1.0, 1.0]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("cells")
    smear.write_source(root / "source", {"lymphocyte": 24, "neutrophil": 24}, 32, seed=0)
    prepare(root / "source", root / "data", resolution=32, ratios=(0.5, 0.25, 0.25))
    return PreparedDataset.load(root / "data")


@pytest.fixture(scope="module")
def trained(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(data, [], CONFIG, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of its own for the test to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def begun(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was interrupted after its third step of four, and evaluated once."""
    out, update = tmp_path_factory.mktemp("begun") / "run", training.update

    def stopping(session: training.Training, *args: object) -> None:
        if session.step == 3:
            raise KeyboardInterrupt
        update(session, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "SECONDS", 0.0)
        patched.setattr(training, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_run(data, [], CONFIG, out)
    return out


@pytest.fixture
def interrupted(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def description(run: Path) -> dict[str, Any]:
    with safetensors.safe_open(run / WEIGHTS, framework="pt") as file:
        return json.loads(file.metadata()["config"])


def described_as(config: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    """`config` with another value at a dotted name, or with none."""
    inner = config = copy.deepcopy(config)
    *place, last = name.split(".")
    for part in place:
        inner = inner[part]
    inner[last] = value
    if value is MISSING:
        del inner[last]
    return config


def check_damaged(run: Path, config: object, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, run / WEIGHTS, {"config": json.dumps(config)})
    with pytest.raises(InputError) as error:
        load_run(run)
    sentence = re.escape(f"{run / WEIGHTS} cannot be read as a classifier (")
    assert re.fullmatch(sentence + r".+\); train it again\.", str(error.value))


@pytest.mark.parametrize("config", [[], None, "text", 3])
def test_a_description_that_is_none_is_a_damaged_file(config: object, run: Path) -> None:
    check_damaged(run, config, load_file(run / WEIGHTS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, values in {
            "format": ("1", [1], 0.5),
            "arch": (None, 3, ["cnn11"], "cnn12", MISSING),
            "size": (3, None, "huge"),
            "classes": (None, "ab", {"a": 1, "b": 2}, [1, 2], ["a", "a"], [["a"], ["b"]], ["a", "b", "c"]),
            "resolution": (0, -8, "32", None, INF, 32.5, 10**6),
            "crop": ("zoom", None, ["crop"], MISSING),
            "to_um_per_pixel": ("0.5", 0, NAN, [1]),
            "stain": (
                "macenko",
                {},
                {"name": "macenko"},
                {"name": "macenko", "reference": {}},
                {"name": "macenko", "reference": MACENKO | {"stains": [1, 2, 3]}},
                {"name": "macenko", "reference": MACENKO | {"light": ["1", "2", "3"]}},
                {"name": "macenko", "reference": MACENKO | {"strengths": [NAN, 1.0]}},
                {"name": "crop", "reference": {}},
            ),
            "transform": (None, [], MISSING),
            "transform.mean": ([0, 0], ["a", "b", "c"], [NAN, 0, 0], None),
            "transform.std": ([0, 1, 1], [1, 1], [NAN, 1, 1]),
            "transform.mask": (True,),
            "transform.preprocessing": (3, ["macenko"], ["sharpen"]),
            "transform.augmentation": ([], 3),
            "training": (None, {}, []),
            "training.head": ("joint", 3),
            "data": (None, {}, 5),
            "data.fingerprint": (5,),
            "synthetic": (None, [3], [{}]),
        }.items()
        for value in values
    ],
)
def test_a_wrong_description_is_a_damaged_file(name: str, value: object, run: Path) -> None:
    check_damaged(run, described_as(description(run), name, value), load_file(run / WEIGHTS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stain", {"name": "macenko", "reference": MACENKO}),
        ("to_um_per_pixel", 1),
        ("crop", "pad"),
        ("format", MISSING),
        ("training.head", MISSING),
        ("data.treatment", MISSING),  # as in runs of before it was recorded
    ],
)
def test_what_runs_may_say_is_read(name: str, value: object, run: Path) -> None:
    told = described_as(description(run), name, value)
    save_file(load_file(run / WEIGHTS), run / WEIGHTS, {"config": json.dumps(told)})
    assert load_run(run).config == told


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("kind", ["weight", "running_var", "reliability/"])
def test_numbers_that_are_none_are_a_damaged_file(kind: str, value: float, run: Path) -> None:
    tensors = load_file(run / WEIGHTS)
    for name in (name for name in tensors if kind in name):
        check_damaged(run, description(run), tensors | {name: torch.full_like(tensors[name], value)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": torch.tensor(0.0)},
        {"temperature": torch.tensor(-1.0)},
        {"temperature": torch.ones(2)},
        {"limit": torch.ones(3, 3)},
        {"scores": torch.ones(3, 3)},
        {"scores": torch.tensor(1.0)},
        *(
            {f"{of}/mean": torch.ones(n), f"{of}/precision": torch.ones(m)}
            for of in ("features", "appearance")
            for n, m in (((3, 3), (3, 3)), ((2,), (2, 2)), ((1,), (1, 1)), ((), ()))
        ),
    ],
)
def test_a_wrong_reliability_is_a_damaged_file(wrong: dict[str, Tensor], run: Path) -> None:
    measured = {f"reliability/{name}": value for name, value in wrong.items()}
    check_damaged(run, description(run), load_file(run / WEIGHTS) | measured)


def test_answers_that_are_no_numbers_are_not_given(trained: Path, data: PreparedDataset) -> None:
    opened = load_run(trained)
    with torch.no_grad():
        next(opened.model.parameters()).fill_(NAN)
    with pytest.raises(InputError, match="answers are no finite numbers; train it again"):
        list(predict_files(opened, data.paths("test")[:1]))


@pytest.mark.parametrize("name", ["reinhard", "macenko"])
def test_a_reference_that_was_measured_is_read_again(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    fitted = Transform(preprocessing=(name,), references={name: stain.reference_of(name, [image])})
    told = {"preprocessing": [name], "references": fitted.references}
    assert Transform.from_json(json.loads(json.dumps(told))) == fitted


@pytest.mark.parametrize("learning_rate", [1e10, 1e38])
def test_weights_that_the_last_update_ruins_are_refused(learning_rate: float) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 2
    config = replace(CONFIG, steps=1, evaluations=1, learning_rate=learning_rate)
    with pytest.raises(InputError, match=r"Training lost its footing by step 1 \(.*\); take a learning_rate"):
        fit(config, images, labels, images, labels, 2)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_an_encoder_that_the_last_update_ruins_is_refused(learning_rate: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    config = PretrainingConfig(size="micro", steps=1, batch_size=8, learning_rate=learning_rate)
    with pytest.raises(
        InputError, match=r"Pretraining lost its footing by step 1 \(.*\); take a learning_rate"
    ):
        fit_autoencoder(config, images)


FIRST = "optimizer/model/0"


@pytest.mark.parametrize(
    "wrong",
    [
        {f"{FIRST}/exp_avg": torch.zeros(1)},
        {f"{FIRST}/exp_avg_sq": torch.zeros(10**6)},
        {f"{FIRST}/exp_avg": None},
        {f"{FIRST}/step": torch.zeros(2)},
        {f"{FIRST}/other": torch.zeros(1)},
        {"optimizer/model/999/exp_avg": torch.zeros(1)},
        {"optimizer/model/-1/exp_avg": torch.zeros(1)},
        {"optimizer/model/x/exp_avg": torch.zeros(1)},
        {"optimizer/model/x": torch.zeros(1)},
        {"best/network.0.weight": torch.zeros(1)},
        {"losses": torch.tensor(1.0)},
        {"losses": None},
        {"generator": None},
        {"generator": torch.zeros(3)},
        {"generator": torch.zeros(3, dtype=torch.uint8)},
    ],
)
def test_tensors_of_a_state_that_no_training_wrote_are_damage(
    wrong: dict[str, Tensor | None], interrupted: Path, data: PreparedDataset
) -> None:
    tensors, info = load_tensors(interrupted / STATE)
    assert f"{FIRST}/exp_avg" in tensors
    changed = {name: value for name, value in (tensors | wrong).items() if value is not None}
    save_tensors(interrupted / STATE, changed, info)
    with pytest.raises(InputError, match=rf"{STATE} is damaged \(.*\); begin anew with --overwrite"):
        train_run(data, [], CONFIG, interrupted, resume=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "3"},
        {"step": 3.5},
        {"step": -1, "best_step": 0},
        {"best_step": 1},
        {"best_step": []},
        {"best_step": 0},
        {"history": None},
        {"history": {}},
        {"history": [3]},
        {"history": [{"step": 2, "loss": 1.0}]},
        {"history": [{"step": 2, "loss": "1", "validation_loss": 1.0, "validation_macro_f1": 1.0}]},
    ],
)
def test_counts_of_a_state_that_no_training_wrote_are_damage(
    wrong: dict[str, Any], interrupted: Path, data: PreparedDataset
) -> None:
    tensors, info = load_tensors(interrupted / STATE)
    assert info["step"] == 3 and info["best_step"] == 2
    save_tensors(interrupted / STATE, tensors, info | wrong)
    with pytest.raises(InputError, match=rf"{STATE} is damaged \(.*\); begin anew with --overwrite"):
        train_run(data, [], CONFIG, interrupted, resume=True)


def test_a_state_of_the_last_step_has_weights_to_end_with(interrupted: Path, data: PreparedDataset) -> None:
    tensors, info = load_tensors(interrupted / STATE)
    without = {name: value for name, value in tensors.items() if not name.startswith("best/")}
    save_tensors(interrupted / STATE, without, info | {"step": 4, "best_step": 0, "history": []})
    with pytest.raises(InputError, match=rf"{STATE} is damaged"):
        train_run(data, [], CONFIG, interrupted, resume=True)


@pytest.mark.parametrize("about", [None, [], "text", {}, {"data": 3, "training": []}])
def test_a_state_that_does_not_say_what_it_is_of_is_not_gone_on_with(
    about: object, interrupted: Path, data: PreparedDataset
) -> None:
    tensors, info = load_tensors(interrupted / STATE)
    save_tensors(interrupted / STATE, tensors, info | {"about": about})
    with pytest.raises(InputError, match=r"is damaged|was begun with other data"):
        train_run(data, [], CONFIG, interrupted, resume=True)


def test_a_state_of_deep_json_is_damaged(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / STATE, {"hemabalance": "[" * 100_000})
    with pytest.raises(InputError, match="is damaged"):
        StateFile(tmp_path, {}, resume=True).check()


@pytest.mark.parametrize(
    "told",
    [
        {"study": {}},
        {"study": 3},
        {"study": {"data": {}}},
        {"study": {"data": None}},
        {"format": "1", "study": {}},
    ],
)
def test_a_report_that_no_comparison_wrote_gets_a_sentence(told: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", told)
    pd.DataFrame({"arm": ["unbalanced"]}).to_parquet(tmp_path / PREDICTIONS)
    expected = r"report\.json (is not of a comparison|and .* do not hold what a comparison writes)"
    with pytest.raises(InputError, match=expected):
        report_again(tmp_path)
