"""What the benchmarks of trust and of explanations measure, on small rendered sets."""

from __future__ import annotations

import numpy as np
import pytest

from balancer import smear
from balancer.data import PreparedDataset, prepare
from benchmarks import explanations, trust
from classifier import calibration, reliability


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("trust")
    smear.write_source(folder / "source", {"neutrophil": 60, "CLL": 60}, 32, seed=0)
    prepare(folder / "source", folder / "data")
    return PreparedDataset.load(folder / "data")


def test_what_answers_are_worth_is_measured_on_test(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "COVERAGES", (0.8, 0.9, 0.95))  # there are no 99 validation images
    of = trust.fitted(data, 40, arch="resnet18")
    unlike = trust.strange(data, {"other": data})
    rows = trust.figures(of, data, unlike)
    labels = data.labels("test")
    p = reliability.answers(of.model, data.images("test")).probabilities
    assert rows["temperature"] == f"{of.model.temperature:.2f}"
    error = calibration.expected_calibration_error(p, labels)
    assert rows["expected calibration error: before, after"].endswith(f", {error:.3f}")
    scores = reliability.answers(of.model, data.images("validation")).probabilities
    limit = np.sort(1 - scores[np.arange(len(scores)), data.labels("validation")])
    k = int(np.ceil((len(limit) + 1) * 0.9)) - 1
    covered = (1 - p[np.arange(len(labels)), labels] <= limit[k] + 1e-6).mean()
    assert rows["coverage realised for 0.9"] == f"{covered:.3f}"
    assert rows["flagged of noise"] == "100.0%" and float(rows["flagged of other"].rstrip("%")) < 20
    assert {f"flagged of {name}" for name in unlike} <= set(rows)


def test_pixels_are_deleted_in_their_order() -> None:
    images = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    images[:, 2:6, 2:6] = 50
    order = np.argsort(images[..., 0].reshape(2, -1), axis=1, kind="stable")  # the dark ones first
    assert (explanations.deleted(images, order, 0.25) == 200).all()  # of the edge's colour
    half = explanations.deleted(images, order, 0.125)
    assert ((half == 50).all(axis=3).sum(axis=(1, 2)) == 8).all() and (images[0, 3, 3] == 50).all()


def test_an_interval_holds_the_mean() -> None:
    low, high = explanations.interval(np.arange(100) / 100).split("(")[1].rstrip(")").split(" to ")
    assert float(low) < 0.495 < float(high) < 0.6


def test_explanations_of_a_trained_network_are_looked_at(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "EACH", 4)
    table = explanations.table(data, 30)
    assert sum(line.startswith("| deletion") for line in table.splitlines()) == 6
    assert sum(line.startswith("| weights") for line in table.splitlines()) == 4
