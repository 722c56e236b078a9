"""One test over every registered network: whatever is registered is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from balancer.data import PreparedDataset
from balancer.errors import InputError
from classifier.checkpoints import load_run
from classifier.config import TrainingConfig
from classifier.models import Recipe, available, check_name, create_model, reads_mask, recipe, resolve_size
from classifier.models.backbones import SIZES, Canvas, ConvNeXtPyramid, SwinPyramid
from classifier.models.classifier import Classifier
from classifier.models.hybrid import GatedFusion
from classifier.models.shape import ShapeAttention
from classifier.prediction import predict_files
from classifier.runs import train_run
from classifier.transforms import Transform

TIMM = ("timm:convnextv2_atto", "timm:vit_tiny_patch16_224")
NAMES = (*available(), *TIMM)


def seeded(name: str, resolution: int, classes: int = 5, size: str = "auto", channels: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return create_model(name, classes, resolution, size, channels=channels)


def noise(name: str, n: int, resolution: int, channels: int = 3) -> torch.Tensor:
    """Images that the network can take, with a mask where it reads one: a nucleus in a cytoplasm."""
    images = torch.randn(n, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    if not reads_mask(name):
        return images
    mask = torch.zeros(n, 1, resolution, resolution)
    near, far = resolution // 4, resolution // 3
    mask[..., near:-near, near:-near] = 0.5
    mask[..., far:-far, far:-far] = 1
    return torch.cat([images, mask], dim=1)


def smallest(name: str) -> str:
    return "micro" if resolve_size(name, "auto", 32) == "micro" else "auto"


def test_the_registry_has_the_networks_of_the_field() -> None:
    assert {"hybrid", "convnextv2", "swin", "fcmae-wpat", "resnet18", "cnn11", "shape"} <= set(available())
    assert [name for name in available() if reads_mask(name)] == ["shape"]
    assert recipe("cnn11") == Recipe("leukocyte", ("background",))
    assert recipe("hybrid") == recipe(TIMM[0]) == Recipe()


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("name", ["hybrid", "convnextv2", "swin", "fcmae-wpat"])
def test_every_size_takes_images_and_grows(name: str, size: str) -> None:
    network = seeded(name, 32, size=size).eval()
    with torch.inference_mode():
        assert network(noise(name, 1, 32)).shape == (1, 5)
    order = ["micro", "atto", "femto", "pico", "nano", "tiny"]
    assert set(SIZES) == set(order)
    if size != "micro":
        smaller = seeded(name, 32, size=order[order.index(size) - 1])
        assert sum(p.numel() for p in network.parameters()) > sum(p.numel() for p in smaller.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_network_learns_saves_and_repeats(name: str, tmp_path: Path) -> None:
    model, again = seeded(name, 32), seeded(name, 32)
    images = noise(name, 4, 32)

    def trained(network: nn.Module) -> torch.Tensor:
        torch.manual_seed(1)  # for dropout
        return network.train()(images)

    with torch.random.fork_rng():
        logits, repeated = trained(model), trained(again)
    assert logits.shape == (4, 5)
    assert torch.equal(logits, repeated)
    logits.square().mean().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert not without, f"no gradient reaches {without}"

    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    fresh = create_model(name, 5, 32)
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        assert torch.equal(fresh.eval()(images), model.eval()(images))
        assert torch.allclose(model(images[:1]), model(images)[:1], atol=1e-4)  # no image sees its neighbours


@pytest.mark.parametrize("resolution", [8, 32, 50, 64, 96, 224])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_takes_every_resolution(name: str, resolution: int) -> None:
    model = create_model(name, 3, resolution, smallest(name)).eval()
    with torch.inference_mode():
        logits = model(noise(name, 1, resolution))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_takes_other_channels_and_classes(name: str, channels: int) -> None:
    model = seeded(name, 32, classes=13, channels=channels).eval()
    images = noise(name, 2, 32, channels)
    assert model(images).shape == (2, 13)
    with torch.no_grad():
        before = model(images)
        images[:, channels - 1] += torch.linspace(0, 5, 32)
        assert not torch.equal(model(images), before), "the last channel is not looked at"


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_finite_in_bfloat16(name: str) -> None:
    model = seeded(name, 32).train()
    with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        logits = model(noise(name, 4, 32))
    assert logits.isfinite().all()
    logits.float().square().mean().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_network_learns_at_224_px(name: str) -> None:
    size = "atto" if smallest(name) == "micro" else "auto"
    model = create_model(name, 3, 224, size).train()
    model(noise(name, 2, 224)).square().mean().backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_network_trains_and_predicts_again_from_its_run(
    name: str, tmp_path: Path, make_dataset: Callable[..., PreparedDataset]
) -> None:
    counts = {split: {"a": 4, "b": 4} for split in ("train", "validation", "test")}
    data = make_dataset(tmp_path / "data", counts)
    run = train_run(data, [], TrainingConfig(arch=name, steps=2, batch_size=4), tmp_path / "run")
    predicted = pd.read_csv(run / "predictions.csv")
    again = list(predict_files(load_run(run), data.paths("test")))
    assert [line["predicted"] for line in again] == predicted["predicted"].tolist()
    p = [line["probabilities"]["a"] for line in again]
    np.testing.assert_allclose(p, predicted["p_a"], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_ends_in_a_layer_whose_input_is_known(name: str) -> None:
    model = Classifier(seeded(name, 32), Transform(mask=reads_mask(name))).eval()
    pixels = torch.zeros(2, 32, 32, 3 + reads_mask(name), dtype=torch.uint8)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.inference_mode():
        logits, features = model.with_features(pixels)
        assert torch.equal(last(features), logits)


def test_auto_grows_with_the_resolution() -> None:
    assert [resolve_size("hybrid", "auto", r) for r in (32, 64, 128, 224)] == [
        "micro",
        "micro",
        "atto",
        "tiny",
    ]
    assert resolve_size("hybrid", "auto", 32, pretrained=True) == "tiny"
    assert resolve_size("hybrid", "atto", 32) == "atto"


def test_unknown_names_and_impossible_numbers_get_a_sentence() -> None:
    with pytest.raises(InputError, match="Did you mean 'hybrid'"):
        create_model("hybird", 3, 32)
    with pytest.raises(InputError, match="micro"):
        create_model("hybrid", 3, 32, "huge")
    with pytest.raises(InputError, match="at least 2 classes"):
        create_model("hybrid", 1, 32)
    with pytest.raises(InputError, match="8×8"):
        create_model("hybrid", 3, 1)
    with pytest.raises(InputError, match="at least one channel"):
        create_model("hybrid", 3, 32, channels=0)
    with pytest.raises(InputError, match=r"no network 'resnet19' in timm .*Did you mean 'timm:resnet1\d'"):
        check_name("timm:resnet19")
    with pytest.raises(
        InputError, match=r"no network 'resnet18.nobody' in timm .*Did you mean 'timm:resnet18"
    ):
        check_name("timm:resnet18.nobody")
    with pytest.raises(InputError, match=r"no network '' in timm .*list_models"):
        check_name("timm:")
    with pytest.raises(InputError, match="no size of timm:resnet18 'tiny'; known: auto, fixed"):
        create_model("timm:resnet18", 3, 32, "tiny")


def test_a_timm_network_that_takes_one_size_alone_gets_images_of_that() -> None:
    model = create_model("timm:levit_128s", 3, 32).eval()
    assert model.canvas.side == 224
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_a_timm_network_that_gives_no_logits_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: nn.Identity())
    with pytest.raises(InputError, match="timm:resnet18 cannot classify .*no logits.*take another network"):
        create_model("timm:resnet18", 3, 32)


def test_tiny_is_the_published_pair() -> None:
    model = create_model("hybrid", 2, 224, "tiny")
    for part, name in (("convnext", "convnextv2_tiny"), ("swin", "swin_tiny_patch4_window7_224")):
        ours = {key: value.shape for key, value in getattr(model, part).body.state_dict().items()}
        theirs = timm.create_model(name, features_only=True).state_dict()
        assert ours == {key: value.shape for key, value in theirs.items()}


def test_published_weights_out_of_reach_get_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    for name in NAMES:
        sentence = r"could not be fetched .*Name or service not known"
        if name == "cnn11":
            sentence = "no published weights of cnn11; train it from scratch"
        with pytest.raises(InputError, match=sentence):
            create_model(name, 3, 224, pretrained=True)
    with pytest.raises(InputError, match="take size tiny"):
        create_model("hybrid", 3, 32, "micro", pretrained=True)


def test_the_gate_mixes_between_both_maps() -> None:
    torch.manual_seed(0)
    fuse = GatedFusion(4, 6, None).eval()
    convnext, swin = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        u, v = fuse.from_convnext(convnext), fuse.from_swin(swin)
        assert torch.allclose(fuse(convnext, swin, None), (u + v) / 2, atol=1e-6)
        fuse.gate.weight.normal_()
        g = torch.sigmoid(torch.einsum("oi,bihw->bohw", fuse.gate.weight[..., 0, 0], torch.cat([u, v], 1)))
        assert torch.allclose(fuse(convnext, swin, None), g * u + (1 - g) * v, atol=1e-5)
        fuse.gate.bias.fill_(100.0)
        assert torch.allclose(fuse(convnext, swin, None), u, atol=1e-5)
        assert fuse(convnext, torch.randn(2, 6, 3, 3), None).shape == (2, 4, 8, 8)


def test_every_stage_of_both_backbones_reaches_the_logits() -> None:
    model = seeded("hybrid", 32).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        for part in (model.convnext, model.swin):
            for stage in range(len(part.channels)):
                forward = part.forward

                def changed(x, forward=forward, stage=stage):
                    return [f + 1 if i == stage else f for i, f in enumerate(forward(x))]

                part.forward = changed
                assert not torch.allclose(model(images), before), f"stage {stage}"
                part.forward = forward


def test_swin_maps_are_turned_to_channels_first() -> None:
    shape = SIZES["micro"]
    maps = SwinPyramid("micro", 96, pretrained=False)(torch.rand(1, 3, 96, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 24 >> i, 24 >> i) for i, c in enumerate((32, 64, 128))]
    assert len(maps) == len(shape.dims)


def test_the_canvas_enlarges_and_never_stretches() -> None:
    assert [Canvas(r).side for r in (8, 32, 64, 65, 100, 224)] == [64, 64, 64, 96, 128, 224]
    assert [Canvas(r, least=32).side for r in (8, 32, 33)] == [32, 32, 64]
    images = torch.rand(1, 3, 64, 64)
    assert Canvas(64)(images) is images


@pytest.mark.parametrize("size", ["atto", "femto", "pico", "nano"])
def test_the_sizes_of_convnext_are_the_papers(size: str) -> None:
    ours = {k: v.shape for k, v in ConvNeXtPyramid(size, False).body.state_dict().items() if "stem" not in k}
    theirs = timm.create_model(f"convnextv2_{size}", features_only=True).state_dict()
    assert ours == {k: v.shape for k, v in theirs.items() if "stem" not in k}


def test_cnn11_has_the_layers_of_the_leukocyte_study() -> None:
    kinds = [type(layer) for layer in create_model("cnn11", 4, 64).modules()]
    counted = {kind: kinds.count(kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout)}
    assert list(counted.values()) == [11, 8, 8, 4]


def test_the_mask_attends_every_stage_and_leaves_it_as_it_is_at_first() -> None:
    model = seeded("shape", 64).eval()
    images = noise("shape", 2, 64)
    without = torch.cat([images[:, :3], torch.zeros(2, 1, 64, 64)], dim=1)
    plain = model.body(images[:, :3])  # timm's features, averaged
    with torch.no_grad():
        assert torch.allclose(model(images), model.head(plain), atol=1e-5)
        assert torch.equal(model(images), model(without))
        for stage in model.attention:
            stage.weight.weight.normal_()
            assert not torch.allclose(model(images), model(without), atol=1e-4)
            stage.weight.weight.zero_()


def test_attention_weighs_positions_between_nothing_and_twice() -> None:
    attend = ShapeAttention(1, 2).eval()
    features = torch.rand(1, 7, 4, 4) + 1
    mask = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        attend.weight.weight.normal_(std=10)
        below, attended = attend(mask, features)
        expected = 2 * torch.sigmoid(attend.weight(below))
    assert torch.allclose(attended / features, expected.expand(-1, 7, -1, -1), atol=1e-5)
    assert expected.max() <= 2
    assert expected.std() > 0
