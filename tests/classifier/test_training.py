from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, log_loss
from torch import nn

from balancer.errors import InputError
from classifier import training
from classifier.config import TrainingConfig
from classifier.optimisation import learning_rate_factor
from classifier.training import fit, predict_probabilities, validation_metrics

QUICK = TrainingConfig(arch="convnextv2", steps=6, batch_size=8, evaluations=3)


def blobs(n: int, side: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of noise, told apart by a bright square, a bright frame, or neither."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.normal(120, 25, (n, side, side, 3))
    inner = np.zeros((side, side, 1), bool)
    inner[side // 4 : -side // 4, side // 4 : -side // 4] = True
    images += 50 * (inner & (labels == 1)[:, None, None, None])
    images += 50 * (~inner & (labels == 2)[:, None, None, None])
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear network in place of the real ones, for what does not depend on the network."""

    def linear(name: str, classes: int, resolution: int, *args: Any) -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(resolution // 4), nn.Flatten(), nn.Linear(48, classes))

    monkeypatch.setattr(training, "create_model", linear)


def run(config: TrainingConfig, validation: int = 60, **options: Any) -> training.Fitted:
    train, held = blobs(90), blobs(validation, seed=1)
    return fit(config, *train, *held, classes=3, **options)


def test_the_hybrid_learns_shape_in_a_few_steps() -> None:
    fitted = run(TrainingConfig(steps=40, batch_size=32, evaluations=2))
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    images, labels = blobs(60, seed=2)
    p = predict_probabilities(fitted.model, images)
    assert f1_score(labels, p.argmax(1), average="macro") > 0.95
    assert not fitted.model.training


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    once = run(QUICK)
    assert torch.equal(torch.rand(1), expected)
    again, other = run(QUICK), run(replace(QUICK, seed=1))
    assert once.history == again.history
    np.testing.assert_array_equal(once.validation_probabilities, again.validation_probabilities)
    assert once.history != other.history


def test_the_kept_weights_are_those_of_the_best_step(tiny: None) -> None:
    config = replace(QUICK, steps=40, evaluations=8, learning_rate=0.1, precision="float32")
    fitted = run(config)
    seen = fitted.history
    assert [entry["step"] for entry in seen] == [5, 10, 15, 20, 25, 30, 35, 40]
    best = max(seen, key=lambda entry: (entry["validation_macro_f1"], -entry["validation_loss"]))
    assert fitted.best_step == best["step"]
    metrics = validation_metrics(fitted.validation_probabilities, blobs(60, seed=1)[1])
    assert metrics["validation_macro_f1"] == pytest.approx(best["validation_macro_f1"])
    assert metrics["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-4)


def test_with_few_validation_images_the_last_weights_are_kept(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter([0.9, 0.5, 0.1] * 2)
    monkeypatch.setattr(
        training,
        "validation_metrics",
        lambda p, y: {"validation_macro_f1": next(worse), "validation_loss": 1.0},
    )
    assert run(QUICK, validation=29).best_step == 6
    assert run(QUICK, validation=30).best_step == 2


def test_validation_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 50).astype(np.float32)
    labels = rng.integers(0, 3, 50)  # the fourth class has no images
    metrics = validation_metrics(p, labels)
    expected = f1_score(labels, p.argmax(1), labels=[0, 1, 2], average="macro")
    assert metrics["validation_macro_f1"] == pytest.approx(expected)
    assert metrics["validation_loss"] == pytest.approx(log_loss(labels, p, labels=range(4)), rel=1e-5)


def test_probabilities_do_not_depend_on_the_batch(tiny: None) -> None:
    fitted = run(QUICK)
    images, _ = blobs(7)
    p = predict_probabilities(fitted.model, images)
    assert p.dtype == np.float32
    assert p.shape == (7, 3)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(predict_probabilities(fitted.model, images, batch_size=2), p, rtol=1e-5)
    fitted.model.train()
    predict_probabilities(fitted.model, images)
    assert fitted.model.training


def test_the_learning_rate_rises_then_falls_as_a_cosine_to_zero() -> None:
    config = TrainingConfig(steps=100, warmup=0.1)
    factors = [learning_rate_factor(config, step) for step in range(101)]
    assert factors[:11] == pytest.approx([(i + 1) / 11 for i in range(11)])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert learning_rate_factor(TrainingConfig(steps=1, warmup=0), 0) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"arch": "resnet"}, "Did you mean 'resnet18'"),
        ({"loss": "focl"}, "Did you mean 'focal'"),
        ({"sampling": "balance"}, "Did you mean 'balanced'"),
        ({"augmentation": "x"}, "no augmentation 'x'"),
        ({"precision": "float16"}, "no precision 'float16'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"warmup": 1.0}, "warmup is a share"),
    ],
)
def test_impossible_settings_get_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainingConfig(**values)


def test_nothing_to_train_on_and_divergence_get_a_sentence(tiny: None) -> None:
    images, labels = blobs(30)
    with pytest.raises(InputError, match="no image to use as validation split"):
        fit(QUICK, images, labels, images[:0], labels[:0], 3)
    with pytest.raises(InputError, match="30 images and 29 labels"):
        fit(QUICK, images, labels[:29], images, labels, 3)
    with pytest.raises(InputError, match="take a learning_rate below"):
        run(replace(QUICK, learning_rate=1e30))


@pytest.mark.slow
def test_the_hybrid_learns_blood_cells_at_32_px(real_data: Path) -> None:
    rng = np.random.default_rng(0)
    folders = sorted(path for path in (real_data / "pbc").iterdir() if path.is_dir())
    images, labels = [], []
    for k, folder in enumerate(folders):
        for path in rng.permutation(sorted(folder.iterdir()))[:400]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX)))
            labels.append(k)
    order = rng.permutation(len(images))
    x, y = np.stack(images)[order], np.array(labels)[order]
    fitted = fit(TrainingConfig(steps=300), x[:2400], y[:2400], x[2400:2800], y[2400:2800], len(folders))
    predicted = predict_probabilities(fitted.model, x[2800:]).argmax(1)
    assert f1_score(y[2800:], predicted, average="macro") > 0.85
