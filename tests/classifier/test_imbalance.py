from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from classifier.imbalance import LOSSES, SAMPLINGS, Focal, LogitAdjustment, batches, class_weights

COUNTS = np.array([70, 20, 10])
LABELS = np.repeat([0, 1, 2], COUNTS)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = rng.integers(0, 3, 16)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), p[np.arange(16), labels]


def test_class_weights_are_scikit_learns_and_average_to_one() -> None:
    weights = class_weights(COUNTS)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=LABELS))
    assert weights[LABELS].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(np.array([30, 0, 10])), [40 / 60, 0, 2])


def test_losses_equal_their_formulas(batch: tuple[torch.Tensor, torch.Tensor, np.ndarray]) -> None:
    logits, labels, p = batch
    w = class_weights(COUNTS)[labels.numpy()]
    z, y = logits.double().numpy(), labels.numpy()
    shares = COUNTS / COUNTS.sum()
    # balanced softmax: n_y e^{z_y} / Σ n_k e^{z_k}
    q = COUNTS[y] * np.exp(z[np.arange(16), y]) / (COUNTS * np.exp(z)).sum(1)
    expected = {
        "cross-entropy": -np.log(p).mean(),
        "class-weights": -(w * np.log(p)).sum() / w.sum(),
        "focal": -((1 - p) ** 2 * np.log(p)).mean(),
        "logit-adjustment": -np.log(q).mean(),
    }
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        assert LOSSES[name](COUNTS)(logits, labels).item() == pytest.approx(value, rel=1e-5), name
    tempered = np.exp(z + 0.5 * np.log(shares))
    value = -np.log(tempered[np.arange(16), y] / tempered.sum(1)).mean()
    assert LogitAdjustment(COUNTS, tau=0.5)(logits, labels).item() == pytest.approx(value, rel=1e-5)
    assert Focal(COUNTS, gamma=0)(logits, labels).item() == pytest.approx(-np.log(p).mean(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_bear_empty_classes_and_sure_errors(name: str) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    loss = LOSSES[name](np.array([5, 5, 0]))(logits, torch.tensor([1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_natural_sampling_is_epochs() -> None:
    drawn = np.concatenate(list(islice(batches(LABELS, 25, "natural", seed=1), 8)))
    for epoch in (drawn[:100], drawn[100:]):
        assert sorted(epoch) == list(range(100))
    assert drawn[:100].tolist() != drawn[100:].tolist()


def test_balanced_sampling_gives_every_class_and_every_image_its_share() -> None:
    drawn = np.concatenate(list(islice(batches(LABELS, 30, "balanced", seed=1), 14)))
    np.testing.assert_array_equal(np.bincount(LABELS[drawn]), [140, 140, 140])
    times = np.bincount(drawn, minlength=100)
    assert set(times[LABELS == 0]) == {2}
    assert set(times[LABELS == 2]) == {14}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling_repeats_with_the_seed(name: str) -> None:
    once, again, other = (
        np.concatenate(list(islice(batches(LABELS, 7, name, seed=seed), 9))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.int64
    assert once.tolist() != other.tolist()


def test_batches_larger_than_the_split_and_absent_classes() -> None:
    first = next(batches(np.array([0, 0, 2]), 64, "balanced", seed=0))
    assert len(first) == 64
    assert np.count_nonzero(first == 2) == 32
