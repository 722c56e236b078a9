"""Every remedy goes the whole way: through the loop, into the weights, and out of them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from balancer.data import PreparedDataset
from classifier import training
from classifier.arms import CHEAP, gan
from classifier.checkpoints import load_run
from classifier.config import TrainingConfig
from classifier.runs import train_run
from classifier.training import fit

QUICK = TrainingConfig(arch="convnextv2", steps=4, batch_size=8, evaluations=2)


@pytest.mark.parametrize("name", CHEAP)
def test_every_arm_trains_and_repeats(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def linear(arch: str, classes: int, resolution: int, *args: object) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(resolution // 4), nn.Flatten(), nn.Linear(48, classes))

    monkeypatch.setattr(training, "create_model", linear)
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8),
        np.array([0] * 20 + [1] * 8 + [2] * 2),
    )
    before = images.copy()
    config = gan(name).config(QUICK, seed=3)
    once, again = (fit(config, images, labels, images, labels, 3) for _ in range(2))
    assert once.history == again.history
    assert np.isfinite([list(entry.values()) for entry in once.history]).all()
    for weight, same in zip(once.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(weight, same)
    np.testing.assert_array_equal(images, before)
    plain = fit(CHEAP["unbalanced"].config(QUICK, seed=3), images, labels, images, labels, 3)
    assert (name == "unbalanced") == np.array_equal(
        once.validation_probabilities, plain.validation_probabilities
    )


@pytest.mark.parametrize("loss", ["ldam", "logit-adjustment"])
def test_what_a_loss_changes_in_the_network_is_kept_with_the_weights(
    loss: str, make_prepared: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    data = make_prepared()
    run = train_run(data, [], replace(QUICK, loss=loss), tmp_path / "run")
    table = pd.read_csv(run / "predictions.csv")
    loaded = training.predict_probabilities(load_run(run).model, data.images("test"))
    np.testing.assert_allclose(table[[f"p_{c}" for c in data.classes]].to_numpy(), loaded, atol=1e-5)
