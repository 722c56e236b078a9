from __future__ import annotations

import pytest
import torch
from torch import Tensor

from classifier.models import create_model
from classifier.models.backbones import ConvNeXtPyramid
from classifier.models.fcmae import MaskedAutoencoder, WindowPartitionAttention, encode_visible

SIDE = 64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def vary_responses(model: torch.nn.Module) -> None:
    """Give the response normalisations weights, which start at zero and so do nothing."""
    for name, parameter in model.named_parameters():
        if ".grn." in name:
            torch.nn.init.normal_(parameter)


def pixels_of(visible: Tensor, side: int = SIDE) -> Tensor:
    return torch.nn.functional.interpolate(visible.float(), size=(side, side)) > 0


@pytest.mark.parametrize("size", ["micro", "tiny"])
def test_with_nothing_hidden_it_is_timms_network(size: str) -> None:
    encoder = ConvNeXtPyramid(size, pretrained=False).eval()
    vary_responses(encoder)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = encoder(images)[-1]
        torch.testing.assert_close(encode_visible(encoder, images, torch.ones(2, 1, 8, 8) > 0), expected)


def test_both_of_timms_layouts_are_tested() -> None:
    layouts = [
        ConvNeXtPyramid(size, False).body["stages_0"].blocks[0].use_conv_mlp for size in ("micro", "tiny")
    ]
    assert layouts == [True, False]


def test_the_visible_half_is_encoded_as_if_there_were_nothing_else() -> None:
    """What sparse convolutions do: hidden positions are the border's zeros, and no response is normalised by them."""
    encoder = ConvNeXtPyramid("tiny", pretrained=False).eval()  # its patch stem does not look around
    vary_responses(encoder)
    images, visible = torch.randn(1, 3, SIDE, SIDE), torch.zeros(1, 1, 8, 8) > 0
    visible[..., :4] = True
    with torch.no_grad():
        masked = encode_visible(encoder, images, visible)
        alone = encoder(images[..., : SIDE // 2])[-1]
    torch.testing.assert_close(masked[..., :1], alone, rtol=1e-4, atol=1e-4)
    assert not masked[..., 1:].any()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_hidden_patches_reaches_the_prediction(training: bool) -> None:
    model = MaskedAutoencoder("micro", SIDE).train(training)
    vary_responses(model)
    visible = model.draw(2, 0.6, generator())
    images, noise = torch.randn(2, 3, SIDE, SIDE), torch.randn(2, 3, SIDE, SIDE)
    seen = pixels_of(visible)
    with torch.no_grad():
        predicted = model(images, visible)
        assert torch.equal(model(torch.where(seen, images, noise), visible), predicted)
        assert not torch.allclose(model(torch.where(seen, noise, images), visible), predicted)
    assert predicted.shape == (2, 3, SIDE, SIDE)


def test_the_share_of_hidden_patches_is_exact_and_drawn_anew() -> None:
    model = MaskedAutoencoder("micro", SIDE)
    visible = model.draw(5, 0.6, generator())
    assert visible.shape == (5, 1, 8, 8)
    assert visible.dtype == torch.bool
    assert (~visible).sum(dim=(1, 2, 3)).tolist() == [38] * 5  # of 64
    assert len(torch.unique(visible.flatten(1), dim=0)) == 5
    assert torch.equal(visible, model.draw(5, 0.6, generator()))
    assert (~model.draw(3, 0.001, generator())).sum() == 3  # one hidden in each, or there is nothing to learn
    assert model.draw(3, 0.999, generator()).sum() == 3


@pytest.mark.parametrize(
    ("size", "resolution", "patch"),
    [("micro", 32, 8), ("micro", 64, 8), ("micro", 128, 16), ("atto", 96, 8), ("atto", 224, 32)],
)
def test_patches_leave_a_useful_grid(size: str, resolution: int, patch: int) -> None:
    model = MaskedAutoencoder(size, resolution)
    assert (model.patch, model.grid) == (patch, model.canvas.side // patch)
    images = torch.randn(2, 3, resolution, resolution)
    loss = model.loss(images, model.draw(2, 0.6, generator()))
    loss.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert not without
    assert 0.5 < loss.item() < 3  # of noise of variance 1


def test_targets_are_patches_of_mean_0_and_variance_1_and_lead_back_to_the_image() -> None:
    model = MaskedAutoencoder("micro", SIDE)
    images = 3 + 2 * torch.randn(2, 3, SIDE, SIDE)
    target, mean, deviation = model.targets(images)
    torch.testing.assert_close(target * deviation + mean, images)
    patch = target[1, :, 8:16, 40:48]
    assert patch.mean().item() == pytest.approx(0, abs=1e-5)
    assert patch.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_the_loss_is_the_mean_squared_error_of_hidden_patches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MaskedAutoencoder("micro", SIDE)
    visible = model.draw(2, 0.6, generator())
    images, predicted = torch.randn(2, 3, SIDE, SIDE), torch.randn(2, 3, SIDE, SIDE)
    monkeypatch.setattr(model, "forward", lambda images, visible: predicted)
    errors = []
    for n, row, column in (~visible[:, 0]).nonzero().tolist():
        here = (n, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        patch = images[here]
        standardised = (patch - patch.mean()) / (patch.var(correction=0) + 1e-6).sqrt()
        errors.append((predicted[here] - standardised).square().mean())
    assert model.loss(images, visible).item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("side", "window", "chosen"), [(16, 4, 4), (4, 4, 4), (24, 7, 8), (12, 7, 6), (3, 7, 3), (11, 7, 11)]
)
def test_windows_divide_the_map(side: int, window: int, chosen: int) -> None:
    attend = WindowPartitionAttention(8, 2, side, window)
    assert attend.window == chosen
    assert attend(torch.randn(2, 8, side, side)).shape == (2, 8)


def test_attention_stays_within_its_window() -> None:
    attend = WindowPartitionAttention(8, 2, 8, 4).eval()
    features = torch.randn(1, 8, 8, 8)
    exchanged = features.roll(4, dims=3)  # the windows change places
    moved = features.roll(2, dims=3)  # positions change windows
    with torch.no_grad():
        torch.testing.assert_close(attend(exchanged), attend(features))
        assert not torch.allclose(attend(moved), attend(features), atol=1e-4)
        whole = WindowPartitionAttention(8, 2, 4, 4).eval()
        whole.load_state_dict(attend.state_dict())
        windows = [features[..., i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
        torch.testing.assert_close(torch.stack([whole(w) for w in windows]).mean(0), attend(features))


def test_every_stage_reaches_the_logits() -> None:
    model = create_model("fcmae-wpat", 5, SIDE).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    forward = model.pyramid.forward
    with torch.no_grad():
        before = model(images)
        for stage in range(3):
            model.pyramid.forward = lambda x, stage=stage: [
                f * 2 if i == stage else f for i, f in enumerate(forward(x))
            ]
            assert not torch.allclose(model(images), before), f"stage {stage}"
