"""One test over every registered network: whatever is registered is tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from balancer.errors import InputError
from classifier.models import available, create_model, resolve_size
from classifier.models.backbones import SIZES, Canvas, SwinPyramid
from classifier.models.hybrid import GatedFusion


def seeded(name: str, resolution: int, classes: int = 5, size: str = "auto") -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return create_model(name, classes, resolution, size)


def test_the_registry_has_the_networks_of_the_field() -> None:
    assert {"hybrid", "convnextv2", "resnet18"} <= set(available())


@pytest.mark.parametrize("name", available())
def test_every_network_learns_saves_and_repeats(name: str, tmp_path: Path) -> None:
    model, again = seeded(name, 32), seeded(name, 32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    logits = model.train()(images)
    assert logits.shape == (4, 5)
    assert torch.equal(logits, again.train()(images))
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
@pytest.mark.parametrize("name", available())
def test_every_network_takes_every_resolution(name: str, resolution: int) -> None:
    size = "auto" if name == "resnet18" or resolution > 64 else "micro"
    if resolution == 224 and name != "resnet18":
        size = "atto"
    model = create_model(name, 3, resolution, size).eval()
    with torch.inference_mode():
        logits = model(torch.rand(1, 3, resolution, resolution))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


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
    for name in available():
        with pytest.raises(InputError, match=r"could not be fetched .*Name or service not known"):
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
