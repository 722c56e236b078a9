"""A real process is killed at its worst moments, and the resumed run equals an uninterrupted one to the bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from balancer.generators import GeneratorConfig, registry, train
from balancer.generators.checkpoints import load_tensors

CONFIG = GeneratorConfig(
    kimg=0.096, batch_size=8, ticks=3, channel_base=128, channel_max=16, latent=16, stop_on_collapse=True
)
COUNTS = {"train": {"a": 30, "b": 6}}

# Each case is trained in a process of its own, forked after the imports, that kills itself with SIGKILL at the k-th
# batch, or where the k-th file is put in its place: after half of it was written, before the renaming or after it.
DRIVER = """
import json, os, pathlib, signal, sys
import torch
from balancer.data import PreparedDataset
from balancer.generators import GeneratorConfig, train
from balancer.generators.batches import Batches

data, config, threads, cases = json.loads(sys.argv[1])
replace, fetch = pathlib.Path.replace, Batches.__getitem__

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(out, moment, k):
    count = 0
    def killing_replace(self, target):
        nonlocal count
        count += 1
        if count == k and moment == "half":
            os.truncate(self, os.path.getsize(self) // 2)
        if count == k and moment != "after":
            die()
        result = replace(self, target)
        if count == k:
            die()
        return result
    def killing_fetch(self, step):
        if step == k:
            die()
        return fetch(self, step)
    if moment == "batch":
        Batches.__getitem__ = killing_fetch
    else:
        pathlib.Path.replace = killing_replace
    torch.set_num_threads(threads)
    train(PreparedDataset.load(pathlib.Path(data)), GeneratorConfig(**config), pathlib.Path(out))

for out, moment, k in cases:
    pid = os.fork()
    if pid == 0:
        try:
            run(out, moment, k)
        finally:
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    print("killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "ended")
"""

# Files are put in place in this order: config.json and seen.csv, then at every tick these.
TICK = ("metrics", "state", "best", "generator", "samples")


def nth(tick: int, file: str) -> int:
    """The number of the renaming that puts this file in its place in that tick, counted from 1."""
    return 2 + 5 * (tick - 1) + TICK.index(file) + 1


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "discs", COUNTS, resolution=16)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return train(data, CONFIG, tmp_path_factory.mktemp("runs") / "whole")


def killed_and_resumed(data, moments: list[tuple[str, int]], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    outs = [folder / f"{moment}-{k}" / "run" for moment, k in moments]
    cases = [(str(out), *moment) for out, moment in zip(outs, moments, strict=True)]
    job = json.dumps([str(data.root), CONFIG.to_json(), torch.get_num_threads(), cases])
    environment = {"PYTHONPATH": str(Path(registry.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, job], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["killed"] * len(cases), done.stderr
    for out in outs:
        train(data, CONFIG, out, resume=True)
    return outs


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_equal_runs(one: Path, two: Path) -> None:
    names = [sorted(str(p.relative_to(run)) for p in run.rglob("*")) for run in (one, two)]
    assert names[0] == names[1]
    assert [p.name for p in two.parent.iterdir()] == [two.name]
    tensors, about = load_tensors(one / "state.safetensors")
    others, about_others = load_tensors(two / "state.safetensors")
    assert about == about_others
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert metrics(one) == metrics(two)
    same = ["generator.safetensors", "best.safetensors", "config.json", "seen.csv"]
    for name in [*same, *(f"samples/{p.name}" for p in (one / "samples").iterdir())]:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_killed_in_and_after_writing_a_checkpoint(data, whole, tmp_path):
    moments = [("after", nth(2, "state")), ("half", nth(3, "state"))]
    for run in killed_and_resumed(data, moments, tmp_path):
        assert_equal_runs(whole, run)


@pytest.mark.slow
def test_killed_at_any_moment(data, whole, tmp_path):
    moments = [(moment, k) for moment in ("half", "before", "after") for k in range(1, nth(3, "samples") + 1)]
    moments += [("batch", step) for step in (0, 3, 4, 11)]
    for run in killed_and_resumed(data, moments, tmp_path):
        assert_equal_runs(whole, run)


def test_a_line_without_its_checkpoint_is_cut_and_derived_files_follow_the_state(data, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**metrics(whole)[-1], "step": 99}) + '\n{"step": 99, "ki')
    (run / "generator.safetensors").write_bytes(b"old")
    (run / "samples" / "00000096.png").unlink()
    train(data, CONFIG, run, resume=True)
    assert_equal_runs(whole, run)
