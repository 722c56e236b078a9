from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import f1_score, log_loss
from torch import nn

import cli
from balancer.data import PreparedDataset
from balancer.errors import InputError
from classifier import training
from classifier.config import TrainingConfig
from classifier.imbalance import LOSSES
from classifier.models import available, create_model
from classifier.optimisation import learning_rate_factor, make_optimizer, set_learning_rate
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
        ({"mixing": "mixp"}, "Did you mean 'mixup'"),
        ({"ema": 1.0}, "ema is a decay"),
        ({"layer_decay": 0.0}, "layer_decay is a factor"),
        ({"accumulate": 3}, "does not divide over 3 passes"),
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


@pytest.mark.parametrize("values", [{}, {"loss": "class-weights"}, {"loss": "ldam", "mixing": "mixup"}])
def test_accumulated_passes_are_the_whole_batch(tiny: None, values: dict[str, Any]) -> None:
    """Of a network without batch norm. The weights of the last step, for the best could be of different ones."""
    config = replace(QUICK, batch_size=12, precision="float32", **values)
    one, *others = (run(replace(config, accumulate=n), validation=29) for n in (1, 2, 3))
    for other in others:
        for name, weight in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], weight)
        for a, b in zip(one.history, other.history, strict=True):
            assert a == pytest.approx(b, rel=1e-5)


def test_an_average_is_kept_in_place_of_the_weights(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of the weights after every step, with the decay min(ema, 1 − (1 + t)^(−2/3)), t from 0."""
    weights: list[torch.Tensor] = []
    update = training.update

    def keeping(session: Any, *args: Any) -> None:
        update(session, *args)
        weights.append(session.model.network[2].weight.detach().clone())

    monkeypatch.setattr(training, "update", keeping)
    fitted = run(replace(QUICK, ema=0.7), validation=29)
    average = weights[0]
    for t, weight in enumerate(weights[1:], 1):
        average = torch.lerp(weight, average, min(0.7, 1 - (1 + t) ** (-2 / 3)))
    torch.testing.assert_close(fitted.model.network[2].weight, average)


def test_logit_adjustment_is_cross_entropy_and_then_less_the_shares(tiny: None) -> None:
    images, labels = blobs(90)
    kept = np.flatnonzero((labels != 1) | (np.arange(90) < 20))
    given = (images[kept], labels[kept], *blobs(29, seed=1), 3)
    plain, adjusted = (
        fit(replace(QUICK, loss=loss), *given) for loss in ("cross-entropy", "logit-adjustment")
    )
    counts = np.bincount(labels[kept])
    # Menon et al.: argmax f_y(x) − τ log π_y, so that probabilities are those of the plain training over π
    expected = plain.validation_probabilities / (counts / counts.sum())
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(adjusted.validation_probabilities, expected, rtol=1e-4)
    assert [h["loss"] for h in adjusted.history] == [h["loss"] for h in plain.history]


def test_ldam_ends_in_cosines(tiny: None) -> None:
    fitted = run(replace(QUICK, loss="ldam"))
    network, pixels = fitted.model.network, torch.from_numpy(blobs(4)[0])
    features = network[:2](fitted.model.transform.normalise(pixels)).detach().numpy()
    w = network[2].weight.detach().numpy()
    cosines = features @ w.T / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(fitted.model(pixels).detach(), 30 * cosines, rtol=1e-4, atol=1e-4)


def test_a_network_that_does_not_end_in_a_linear_layer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training, "create_model", lambda *args: nn.Sequential(nn.Conv2d(3, 3, 16), nn.Flatten())
    )
    for loss in ("ldam", "logit-adjustment"):
        with pytest.raises(InputError, match="take another --arch or --loss"):
            run(replace(QUICK, loss=loss))


@pytest.mark.parametrize("arch", ["hybrid", "convnextv2", "swin", "resnet18", "timm:convnextv2_atto"])
def test_layer_decay_slows_what_comes_first(arch: str) -> None:
    config = TrainingConfig(arch=arch, layer_decay=0.5)
    network = create_model(arch, 3, 64)
    optimizer = make_optimizer(config, network)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    named = [(name, scale[id(p)]) for name, p in network.named_parameters()]
    assert len(named) == len(scale)
    assert named[-1][1] == 1  # the head
    stems = [
        s for name, s in named if "stem" in name or "patch_embed" in name or name.endswith("conv1.weight")
    ]
    assert min(scale.values()) in stems
    if arch == "hybrid":
        assert {s for name, s in named if name.startswith("fusions")} == {1.0}
        of = {"".join(name.split(".")[:3:2]): s for name, s in named if ".body." in name}
        assert [of[f"convnextstages_{i}"] for i in range(3)] == [0.125, 0.25, 0.5]
        assert [of[f"swinlayers_{i}"] for i in range(3)] == [0.125, 0.25, 0.5]
        assert of["convnextstem_0"] == of["swinpatch_embed"] == 0.0625
    set_learning_rate(config, optimizer, 0)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(2e-3 * group["lr_scale"] / 51)


@pytest.mark.parametrize(
    ("arch", "decay"),
    [
        (arch, decay)
        for arch in [*available(), "timm:resnet18"]
        for decay in (1.0, 0.75)
        if (arch, decay) != ("cnn11", 0.75)  # refused
    ],
)
def test_every_parameter_is_in_one_group(arch: str, decay: float) -> None:
    network = create_model(arch, 3, 32)
    groups = make_optimizer(TrainingConfig(arch=arch, layer_decay=decay), network).param_groups
    wanted = {id(p): name for name, p in network.named_parameters() if p.requires_grad}
    given = [wanted.get(id(p)) for group in groups for p in group["params"]]
    assert sorted(map(str, given)) == sorted(wanted.values())


def test_layer_decay_leaves_what_is_new_beside_a_published_body_at_the_full_rate() -> None:
    network = create_model("shape", 3, 32)
    groups = make_optimizer(TrainingConfig(arch="shape", layer_decay=0.5), network).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    new = [p for name, p in network.named_parameters() if not name.startswith("body.")]
    assert {scale[id(p)] for p in new} == {1.0}
    assert scale[id(network.body.conv1.weight)] == 0.5**5


def test_layer_decay_is_refused_where_the_order_of_the_layers_is_not_known() -> None:
    with pytest.raises(InputError, match="layers of cnn11 have no known order"):
        make_optimizer(TrainingConfig(arch="cnn11", layer_decay=0.75), create_model("cnn11", 3, 32))
    hidden = torch.nn.ModuleDict({"patch_embed": torch.nn.Linear(2, 2), "blocks": torch.nn.Linear(2, 2)})
    with pytest.raises(InputError, match="have no known order"):
        make_optimizer(TrainingConfig(layer_decay=0.75), hidden)


@pytest.mark.parametrize("loss", LOSSES)
def test_sampling_is_balanced_unless_the_loss_allows_for_the_imbalance(loss: str) -> None:
    resolved = TrainingConfig(loss=loss, sampling="auto").resolved().sampling
    assert resolved == ("balanced" if loss in ("cross-entropy", "focal") else "natural")
    assert TrainingConfig(loss=loss, sampling="balanced").resolved().sampling == "balanced"


def test_the_dry_run_says_how_is_sampled(make_prepared: Callable[..., PreparedDataset]) -> None:
    data = make_prepared()

    def sampling(*words: str) -> str:
        given = ["train", "--data", str(data.root), "--dry-run", *words]
        return json.loads(CliRunner().invoke(cli.classifier, given).stdout)["sampling"]

    assert sampling() == "balanced"
    assert sampling("--loss", "class-weights") == "natural"
    assert sampling("--loss", "class-weights", "--sampling", "square-root") == "square-root"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "gigantic"], "no size of hybrid 'gigantic'"),
        (["--arch", "resnet18", "--size", "micro"], "no size of resnet18 'micro'"),
        (["--arch", "cnn11", "--pretrained"], "cnn11"),
        (["--init", "nowhere"], "nowhere"),
        (["--arch", "timm:dla46_c", "--loss", "ldam"], "changes the last linear layer"),
        (["--arch", "cnn11", "--layer-decay", "0.5"], "no known order"),
        (["--out", "{data}", "--overwrite"], "is read here"),
        (["--out", "{data}/train"], "exists already"),
        (["--preprocess", ","], "no name is given"),
        (["--head", "text", "--sentences", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--head", "attributes"], "has nothing to learn"),
        (["--head", "joint", "--captions", "llm", "--endpoint", "llama"], "not of the form MODEL@URL"),
    ],
)
def test_the_dry_run_refuses_what_the_run_would(
    words: list[str], sentence: str, make_prepared: Callable[..., PreparedDataset]
) -> None:
    data = make_prepared()
    given = ["train", "--data", str(data.root), "--dry-run", *(w.format(data=data.root) for w in words)]
    done = CliRunner().invoke(cli.classifier, given)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_the_dry_run_resolves_the_size(make_prepared: Callable[..., PreparedDataset]) -> None:
    given = ["train", "--data", str(make_prepared().root), "--dry-run"]
    assert json.loads(CliRunner().invoke(cli.classifier, given).stdout)["size"] == "micro"


def test_a_configuration_out_of_json_is_the_same() -> None:
    config = TrainingConfig(preprocessing=("crop", "clahe"))
    for one in (TrainingConfig(), config):
        assert TrainingConfig(**json.loads(json.dumps(asdict(one)))) == one


def test_preprocessing_of_the_paper_can_be_switched_off() -> None:
    config = TrainingConfig(arch="cnn11", preprocessing=("none",))
    assert config.resolved().preprocessing == ()
    assert TrainingConfig(arch="cnn11").resolved().preprocessing == ("background",)
    with pytest.raises(InputError, match="none stands alone"):
        TrainingConfig(preprocessing=("none", "crop"))


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
