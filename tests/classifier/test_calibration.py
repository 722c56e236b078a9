from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from balancer.errors import InputError
from classifier import calibration
from classifier.calibration import (
    conformal_limit,
    conformal_scores,
    conformal_sets,
    expected_calibration_error,
    fit_temperature,
    images_needed,
    scaled,
)


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and the overconfident softmax(z · temperature) that a classifier would say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 5))
    labels = np.array([rng.choice(5, p=p) for p in softmax(logits, axis=1)])
    return softmax(logits * temperature, axis=1).astype(np.float32), labels


def test_an_unseen_class_is_let_in_at_a_fixed_price() -> None:
    rng = np.random.default_rng(0)
    logits, novelty = rng.normal(0, 2, (2000, 3)) - np.array([0, 6, 0]), rng.gamma(2, 0.01, 2000)
    present = np.array([True, False, True])
    w, v, t = calibration.unseen_rule(logits, novelty, present)
    assert w[0] == v[0] == t[0] == w[2] == 0
    margin = logits[:, 1] - logits[:, [0, 2]].max(1)
    assert w[1] * margin.std() == pytest.approx(1) and v[1] * novelty.std() == pytest.approx(1)
    given = w[1] * margin + v[1] * novelty >= t[1]
    assert given.mean() == pytest.approx(calibration.UNSEEN_SHARE, abs=0.001)
    assert margin[given].mean() > margin.mean() and novelty[given].mean() > novelty.mean()
    assert not calibration.unseen_rule(logits, novelty, np.ones(3, bool)).any()


def test_the_temperature_that_spoilt_probabilities_is_found_again() -> None:
    for spoilt in (0.5, 1.0, 3.0):
        probabilities, labels = drawn(20000, spoilt)
        assert fit_temperature(probabilities, labels) == pytest.approx(spoilt, rel=0.05)


def test_it_is_where_the_likelihood_of_torch_is_largest() -> None:
    probabilities, labels = drawn(300, 2.0)
    best = fit_temperature(probabilities, labels)

    def loss(temperature: float) -> float:
        logits = torch.from_numpy(np.log(probabilities)) / temperature
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))

    assert all(loss(best) <= loss(best * factor) for factor in (0.95, 0.99, 1.01, 1.05))


def test_without_an_error_probabilities_stay_as_they_are() -> None:
    probabilities, _ = drawn(20, 1.0)
    assert fit_temperature(probabilities, probabilities.argmax(1)) == 1.0


def test_scaling_is_that_of_the_logits_and_keeps_order() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    p = scaled(softmax(logits, axis=1), 2.5)
    np.testing.assert_allclose(p, softmax(logits / 2.5, axis=1), atol=1e-9)
    certain = scaled(np.array([[1, 0, 0]], np.float32), 3.0)
    assert np.isfinite(certain).all() and certain[0, 0] > 0.999


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])  # of the two at 0.9 one is right, the other two are right
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6) + abs(1 - 0.7)) / 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)
    # One bin holds all: the error is that of the means.
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(abs(0.75 - 0.775))
    calibrated, labels = drawn(50000, 1.0)
    assert expected_calibration_error(calibrated, labels) < 0.02
    assert expected_calibration_error(drawn(50000, 3.0)[0], labels) > 0.1


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_true_class_as_often_as_asked_for(coverage: float) -> None:
    realised = []
    for seed in range(60):
        probabilities, labels = drawn(400, 2.0, seed)
        limit = conformal_limit(conformal_scores(probabilities[:100], labels[:100]), coverage)
        held = conformal_sets(probabilities[100:], limit)
        realised.append(held[np.arange(300), labels[100:]].mean())
    # 100 images: the ⌈101 · coverage⌉-th of 101 places, at least `coverage` and less than a place more.
    assert coverage - 0.012 < np.mean(realised) < coverage + 0.01 + 0.012


def test_the_limit_is_the_score_of_that_rank() -> None:
    scores = np.arange(1, 20) / 20  # 19 of them: ⌈20 · 0.9⌉ = 18
    assert conformal_limit(np.random.default_rng(0).permutation(scores), 0.9) == pytest.approx(0.9)
    assert conformal_sets(np.array([[0.1, 0.9], [0.4, 0.6]]), 0.6).tolist() == [[False, True], [True, True]]


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    for coverage, needed in ((0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.9999, 9999)):
        assert images_needed(coverage) == needed
        conformal_limit(np.zeros(needed), coverage)
        with pytest.raises(InputError, match=f"at least {needed} validation images.*on {needed - 1};"):
            conformal_limit(np.zeros(needed - 1), coverage)
    for impossible in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="above 0 and below 1"):
            conformal_limit(np.zeros(50), impossible)
