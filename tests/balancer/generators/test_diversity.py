"""Diversity against closed forms, on collapsed generators, and what the training loop does about a collapse."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from balancer.generators import GeneratorConfig, load_generator, stylegan2_ada, train, training
from balancer.generators.checkpoints import load_tensors
from balancer.generators.diversity import collapsed, diversity, is_best, spread, troubles

CONFIG = GeneratorConfig(kimg=0.12, batch_size=8, ticks=5, channel_base=128, channel_max=16, latent=16)
COUNTS = {"train": {"a": 30, "b": 6}}


def flat(*levels: int, side: int = 32) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def line(kimg: float, **diversity: float | None) -> dict:
    return {"kimg": kimg, "real_sign": 0.6, "diversity": diversity}


def test_spread_is_the_mean_distance_between_two_images():
    assert spread(flat(10, 40)) == pytest.approx(30)
    assert spread(flat(0, 10, 30)) == pytest.approx((10 + 30 + 20) / 3)
    half = flat(0, 0)
    half[1, :16] = 100  # half of the pixels differ by 100
    assert spread(half) == pytest.approx(100 / np.sqrt(2))
    assert spread(flat(7)) is None
    assert spread(flat(0, 9, side=8)) == pytest.approx(9)


def test_fine_noise_is_averaged_away_and_m_pictures_count_as_their_share():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, (200, 64, 64, 3), dtype=np.uint8) * 100  # standard deviation 50
    assert spread(noise) == pytest.approx(50 / 4 * np.sqrt(2), rel=0.02)  # means of 4×4 pixels
    pictures = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    real = spread(pictures)
    for m in (2, 4):  # of the pairs of 60 images, a share of (1 − 1/m)·60/59 is of two pictures
        repeated = pictures[:m].repeat(60 // m, axis=0)
        assert diversity(repeated, real) == pytest.approx((1 - 1 / m) * 60 / 59, rel=0.06)
    assert diversity(pictures[:1].repeat(16, axis=0), real) == 0
    assert diversity(pictures[:16], spread(pictures[16:])) == pytest.approx(1, abs=0.02)
    assert diversity(pictures, 0.0) is diversity(pictures, None) is None


def test_real_cells_are_as_varied_as_other_real_cells(make_dataset, tmp_path):
    data = make_dataset(tmp_path / "discs", {"train": {"a": 80}})
    images = data.images("train")[:]
    assert diversity(images[:16], spread(images[16:])) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(
    ("values", "fallen"),
    [
        ([0.8, 0.2, 0.1], True),
        ([0.8, 0.2, 0.4], False),
        ([0.8, 0.4, 0.2], False),  # one tick is not enough
        ([0.1, 0.2, 0.1], False),  # it has not risen yet
        ([0.1, 0.8, 0.2, None], False),
        ([0.5, 0.1], False),
        ([0.1], False),
    ],
)
def test_a_collapse_is_two_low_ticks_after_a_height(values, fallen):
    lines = [line(k, a=value, b=1.0) for k, value in enumerate(values)]
    assert list(collapsed(lines)) == ["a"] * fallen


def test_a_class_that_never_rises_has_time_until_the_warm_up_ends():
    assert collapsed([line(k, a=0.1) for k in (10, 19, 25)]) == {}
    assert collapsed([line(k, a=0.1) for k in (10, 20, 25)]) == {"a": 0.1}


def test_the_best_is_the_last_of_those_about_as_varied_as_the_most_varied():
    values = [0.3, 0.7, 0.8, 0.75, 0.5, 0.1]
    lines = [line(k, a=value, b=1.4, c=None) for k, value in enumerate(values)]
    assert [is_best(lines[: k + 1]) for k in range(6)] == [True, True, True, True, False, False]
    assert is_best([line(0, a=1.1), line(1, a=1.0)])
    assert is_best([line(0), line(1)])


def test_a_discriminator_that_knows_all_real_images_is_trouble_and_no_best_checkpoint():
    lines = [line(k, a=1.0) | {"real_sign": sign} for k, sign in enumerate((0.6, 0.98, 0.996, 1.0))]
    assert troubles([]) == troubles(lines[:3]) == {}
    assert list(troubles(lines)) == ["the discriminator overfitted"]
    assert "by heart (mean sign 1.00" in troubles(lines)["the discriminator overfitted"]
    assert [is_best(lines[: k + 1]) for k in range(4)] == [True, True, False, False]


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "discs", COUNTS, resolution=16)


@pytest.fixture
def notes(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(training, "note", said.append)
    return said


@pytest.fixture
def sabotage(monkeypatch):
    """From step 7 on, of 15 in five ticks: collapse class b, or let the loss be no number."""
    step_of = stylegan2_ada.StyleGAN2Adversaries.step

    def install(how: str) -> None:
        def step(self, number, chunks):
            logged = step_of(self, number, chunks)
            if number >= 7 and how == "collapse":
                for mapping in (self.G.mapping, self.G_ema.mapping):
                    for parameter in mapping.parameters():
                        parameter.data.zero_()
            elif number >= 7:
                logged["loss_d"] = logged["loss_d"] * torch.nan
            return logged

        monkeypatch.setattr(stylegan2_ada.StyleGAN2Adversaries, "step", step)

    return install


def steps(run: Path) -> list[int]:
    return [json.loads(text)["step"] for text in (run / "metrics.jsonl").read_text().splitlines()]


def generator_step(run: Path) -> int:
    return load_generator(run).info["step"]


def test_diversity_is_logged_for_every_class(data, tmp_path, notes):
    run = train(data, CONFIG, tmp_path / "run")
    logged = [json.loads(text)["diversity"] for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [list(values) for values in logged] == [["a", "b"]] * 5
    assert all(value > 0 for values in logged for value in values.values())
    assert not (run / "best.safetensors").exists()


def test_a_collapse_is_told_and_training_goes_on(data, tmp_path, notes, sabotage):
    sabotage("collapse")
    run = train(data, CONFIG, tmp_path / "run")
    told = [text for text in notes if "collapsed" in text]
    assert [text.split(" have ")[0] for text in told] == ["The images of class a", "The images of class b"]
    assert all(int(re.search(r"(\d+)% as varied", text)[1]) < 30 for text in told)
    assert steps(run) == [3, 6, 9, 12, 15]
    assert generator_step(run) == 15


def test_a_collapse_ends_the_run_with_the_best_checkpoint(data, tmp_path, notes, sabotage):
    config = replace(CONFIG, stop_on_collapse=True)
    healthy = train(data, replace(CONFIG, kimg=0.048, ticks=2), tmp_path / "healthy")
    sabotage("collapse")
    run = train(data, config, tmp_path / "run")
    assert "a collapsed, b collapsed" in notes[-1]
    assert "the best checkpoint, of 0.048 kimg" in notes[-1]
    assert steps(run) == [3, 6, 9, 12]
    assert load_tensors(run / "state.safetensors")[1]["step"] == 12
    assert generator_step(run) == 6
    ours, theirs = (load_tensors(r / "generator.safetensors")[0] for r in (run, healthy))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    notes.clear()
    train(data, config, run, resume=True)
    assert "a collapsed, b collapsed" in notes[-1] and "resume without" in notes[-1]
    assert (steps(run), generator_step(run)) == ([3, 6, 9, 12], 6)
    train(data, CONFIG, run, resume=True)
    assert (steps(run), generator_step(run)) == ([3, 6, 9, 12, 15], 15)


def test_a_divergence_is_an_error_or_ends_the_run(data, tmp_path, notes, sabotage):
    sabotage("diverge")
    with pytest.raises(RuntimeError, match="loss_d is no number any more at step 9"):
        train(data, CONFIG, tmp_path / "error")
    run = train(data, replace(CONFIG, stop_on_collapse=True), tmp_path / "run")
    assert "training diverged (loss_d" in notes[-1]
    for folder in (run, tmp_path / "error"):
        assert (steps(folder), generator_step(folder)) == ([3, 6], 6)
    with pytest.raises(RuntimeError, match="no number"):  # there is no checkpoint to end with
        train(data, replace(CONFIG, stop_on_collapse=True, ticks=1), tmp_path / "none")
