from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from balancer import smear
from balancer.data import PreparedDataset, prepare
from balancer.errors import InputError
from classifier import prediction
from classifier.calibration import scaled
from classifier.checkpoints import load_run, save_weights
from classifier.config import TrainingConfig
from classifier.models import available, create_model, reads_mask
from classifier.models.classifier import Classifier
from classifier.models.heads import adjustable_head, with_cosine_head
from classifier.prediction import evaluate_run, predict_files
from classifier.reliability import Answers, Gaussian, answers, appearance
from classifier.runs import train_run
from classifier.transforms import Transform

QUICK = TrainingConfig(arch="resnet18", steps=12, batch_size=16, evaluations=2)
Prepared = Callable[..., PreparedDataset]


@pytest.mark.parametrize("name", [*available(), "timm:mobilenetv3_small_050", "timm:efficientvit_b0"])
def test_the_features_are_what_the_last_layer_reads(name: str) -> None:
    torch.manual_seed(0)
    model = Classifier(create_model(name, 3, 32), Transform(mask=reads_mask(name)), 2.0).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3 + reads_mask(name)), dtype=torch.uint8)
    with torch.inference_mode():
        logits, features = model.with_features(pixels)
        assert torch.allclose(logits, model(pixels), atol=1e-6)
        last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 3][-1]
        assert torch.allclose(last(features) / 2, logits, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_features_of_a_cosine_head_too() -> None:
    model = Classifier(with_cosine_head(create_model("resnet18", 3, 32), 3, 30.0), Transform()).eval()
    with torch.inference_mode():
        _, features = model.with_features(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert features.shape == (2, 512)


class Distilled(torch.nn.Module):
    """Its logits are the mean of two heads, as of timm's distilled networks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.head_dist = (torch.nn.Linear(a, b) for a, b in ((3, 8), (8, 2), (8, 2)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images.mean((2, 3)))
        return (self.head(features) + self.head_dist(features)) / 2


def test_a_network_of_two_heads_is_known_by_its_logits() -> None:
    model = Classifier(Distilled(), Transform(), 2.0).eval()
    with torch.inference_mode():
        logits, features = model.with_features(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    assert torch.allclose(features, 2 * logits)
    for change in (lambda: with_cosine_head(Distilled(), 2, 30.0), lambda: adjustable_head(Distilled(), 2)):
        with pytest.raises(InputError, match="ends in 2 of them"):
            change()


def test_the_distance_is_mahalanobis_in_units_of_the_limit() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    train, judged = (rng.normal(size=(n, 4)) @ mixing + 3 for n in (20000, 5000))
    found = Gaussian.fitted(train, judged)
    centred = judged - 3
    expected = np.einsum("nd,de,ne->n", centred, np.linalg.inv(mixing.T @ mixing), centred)
    expected /= np.quantile(expected, 0.99)
    np.testing.assert_allclose(found.distance(judged), expected, rtol=0.1, atol=0.02)
    assert (found.distance(judged) > 1).mean() == pytest.approx(0.01, abs=0.001)


def test_appearance_tells_colour_contrast_and_sharpness() -> None:
    images = smear.render(smear.draw_cells({"lymphocyte": 4}, seed=0), 32)[0]
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for other in (255 - images, images[..., ::-1], noise, images // 2 + 64):
        assert np.abs(appearance(other) - appearance(images)).max() > 0.2
    np.testing.assert_allclose(appearance(images[:, ::-1]), appearance(images), atol=1e-4)
    assert appearance(images).shape == (4, 33) and appearance(images).dtype == np.float32
    for side in (8, 9, 50):
        assert np.isfinite(appearance(np.zeros((1, side, side, 3), np.uint8))).all()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, Path]:
    """Rendered cells of two classes, and a classifier run on them."""
    root = tmp_path_factory.mktemp("cells")
    smear.write_source(root / "source", {"lymphocyte": 150, "neutrophil": 150}, 32, seed=0)
    prepare(root / "source", root / "data", resolution=32, ratios=(0.5, 0.25, 0.25))
    data = PreparedDataset.load(root / "data")
    return data, train_run(data, [], dataclasses.replace(QUICK, steps=40), root / "run")


def test_what_is_measured_lies_with_the_weights(cells: tuple[PreparedDataset, Path], tmp_path: Path) -> None:
    data, root = cells
    run = load_run(root)
    assert run.reliability is not None
    assert len(run.reliability.scores) == len(data.tables["validation"])
    found = answers(run.model, data.images("test"))
    judged = json.loads((root / "evaluation.json").read_text())
    assert judged["temperature"] == run.model.temperature
    labels = data.labels("test")
    nll = [
        -np.log(scaled(answers(run.model, data.images("validation")).probabilities, t))[
            np.arange(len(run.reliability.scores)), data.labels("validation")
        ].mean()
        for t in (0.8, 1.0, 1.25)
    ]
    assert run.model.temperature == 1.0 or nll[1] == min(nll)  # no other temperature is likelier
    assert judged["unlike_training"] == pytest.approx(run.reliability.unlike_training(found).mean())
    assert judged["unlike_training"] < 0.1
    assert judged["conformal"]["coverage"] == 0.9
    scores = 1 - found.probabilities[np.arange(len(labels)), labels]
    n = len(run.reliability.scores)
    limit = np.sort(run.reliability.scores)[int(np.ceil((n + 1) * 0.9)) - 1]
    assert judged["conformal"]["realised"] == pytest.approx((scores <= limit).mean())
    again = evaluate_run(run, data)
    assert again.pop("ece") == pytest.approx(judged.pop("ece"), abs=1e-6)
    assert again == judged

    (tmp_path / "old").mkdir()
    old = Classifier(run.model.network, run.model.transform)
    save_weights(tmp_path / "old" / "classifier.safetensors", old, run.config)
    (line,) = predict_files(load_run(tmp_path / "old"), data.paths("test")[:1])
    assert list(line) == ["file_name", "predicted", "probabilities"]
    with pytest.raises(InputError, match="trained before classifiers were calibrated"):
        list(predict_files(load_run(tmp_path / "old"), data.paths("test")[:1], coverage=0.9))


def test_strange_files_are_flagged_and_sets_are_named(
    cells: tuple[PreparedDataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, root = cells
    run = load_run(root)
    notes: list[str] = []
    monkeypatch.setattr(prediction, "note", notes.append)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(noise[:1, :1]).save(tmp_path / "pixel.png")
    files = [*data.paths("test"), tmp_path / "noise.png", tmp_path / "pixel.png"]
    lines = list(predict_files(run, files, coverage=0.9))
    assert len(lines) == len(files) - 1
    assert lines[-1]["unlike_training"] is True
    assert sum(line["unlike_training"] for line in lines[:-1]) < 0.1 * len(lines)
    for line in lines:
        assert line["abstains"] == (len(line["classes"]) != 1)
    truth = [
        label in line["classes"] for label, line in zip(data.tables["test"]["label"], lines, strict=False)
    ]
    assert np.mean(truth) > 0.75
    json.dumps(lines)
    assert any("pixel.png is 1×1 pixels, too few to show a cell" in sentence for sentence in notes)
    assert any("unlike those" in sentence for sentence in notes)
    with pytest.raises(InputError, match="The file cannot be predicted; give image files that show a cell"):
        list(predict_files(run, files[-1:]))
    with pytest.raises(InputError, match="above 0 and below 1"):
        list(predict_files(run, files, coverage=1.0))
    with pytest.raises(InputError, match="at least 999 validation images"):
        list(predict_files(run, files, coverage=0.999))


def test_explanations_appear_whole_in_a_new_folder(
    cells: tuple[PreparedDataset, Path], tmp_path: Path
) -> None:
    data, root = cells
    run, out = load_run(root), tmp_path / "explained"
    (tmp_path / "a").mkdir()
    twin = tmp_path / "a" / data.paths("test")[0].name
    Image.open(data.paths("test")[0]).save(twin)
    lines = predict_files(run, [*data.paths("test")[:2], twin], explain=out)
    first = next(lines)
    assert not out.exists()  # until all are done
    names = [line["explanation"] for line in (first, *lines)]
    assert len(set(names)) == 3 and all(Path(name).parent == out for name in names)
    for name in names:
        with Image.open(name) as image:
            assert image.size == (768, 256)
    with pytest.raises(InputError, match=r"explained exists already; choose another folder for --explain\.$"):
        list(predict_files(run, [twin], explain=out))


def test_the_card_is_filled_from_the_run(cells: tuple[PreparedDataset, Path]) -> None:
    data, root = cells
    card, judged = (root / "MODEL_CARD.md").read_text(), json.loads((root / "evaluation.json").read_text())
    for expected in (
        "For research only",
        "Rendered cells, not real ones",
        data.fingerprint,
        f"macro-F1 {judged['macro_f1']:.3f}",
        f"| lymphocyte | {data.counts('train')['lymphocyte']} | {data.counts('validation')['lymphocyte']} |",
        f"in 15 bins is {judged['ece']['value']:.3f}",
    ):
        assert expected in card
    assert "None" not in card and "{{" not in card


@pytest.mark.slow
def test_on_real_images_sets_hold_what_they_promise_and_other_images_are_flagged(
    real_data: Path, tmp_path: Path
) -> None:
    prepare(real_data / "pbc", tmp_path / "data", resolution=64)
    data = PreparedDataset.load(tmp_path / "data")
    run = load_run(train_run(data, [], TrainingConfig(arch="resnet18", steps=200), tmp_path / "run"))
    assert run.reliability is not None
    judged = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert judged["conformal"]["realised"] == pytest.approx(0.9, abs=0.03)
    assert judged["unlike_training"] < 0.03
    rendered = smear.render(smear.draw_cells({"lymphocyte": 100, "neutrophil": 100}, seed=0), 64)[0]
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), dtype=np.uint8)
    assert run.reliability.unlike_training(answers(run.model, rendered)).mean() > 0.5
    assert run.reliability.unlike_training(answers(run.model, noise)).all()


def test_answers_do_not_depend_on_the_company(cells: tuple[PreparedDataset, Path]) -> None:
    data, root = cells
    run, images = load_run(root), data.images("test")
    every, some = answers(run.model, images), answers(run.model, images, np.array([3, 1]))
    assert isinstance(every, Answers)
    for name in ("probabilities", "features", "appearance"):
        np.testing.assert_allclose(getattr(some, name), getattr(every, name)[[3, 1]], atol=1e-4)


def test_what_is_normalised_is_still_unlike_training(cells: tuple[PreparedDataset, Path]) -> None:
    data, root = cells
    run, images = load_run(root), data.images("test")[:6]
    treated = Transform(preprocessing=("reinhard",)).fitted(data.images("train"))
    model = Classifier(run.model.network, treated)
    other = images[..., ::-1].copy()  # another stain
    as_they_came = answers(model, other)
    assert np.array_equal(as_they_came.appearance, appearance(other))
    assert not np.allclose(appearance(treated.prepare(other, None, None)), appearance(other), atol=0.01)
