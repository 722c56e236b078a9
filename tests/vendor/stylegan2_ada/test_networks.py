"""Shapes, determinism, precision and messages of the networks; numbers are in test_golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vendor.stylegan2_ada as sg
from vendor.stylegan2_ada.networks import minibatch_std


def networks(resolution: int = 16, c_dim: int = 0, **kwargs: Any) -> tuple[sg.Generator, sg.Discriminator]:
    torch.manual_seed(0)
    size = {"channel_base": 16 * resolution, "channel_max": 32, **kwargs}
    G = sg.Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=12,
        img_resolution=resolution,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=size,
    )
    return G, sg.Discriminator(c_dim=c_dim, img_resolution=resolution, img_channels=3, **size)


def inputs(n: int, c_dim: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(n, 8, generator=rng)
    return z, F.one_hot(torch.arange(n) % max(c_dim, 1), max(c_dim, 1)).float()[:, :c_dim]


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_shapes_and_gradients(resolution: int, c_dim: int) -> None:
    G, D = networks(resolution, c_dim)
    z, c = inputs(4, c_dim)
    images = G(z, c)
    logits = D(images, c)
    assert images.shape == (4, 3, resolution, resolution)
    assert logits.shape == (4, 1)
    assert images.dtype == logits.dtype == torch.float32
    sg.g_nonsaturating(logits).mean().backward()
    for network in (G, D):
        for name, p in network.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.abs().sum() > 0, name


def test_activations_start_at_unit_scale() -> None:
    """Equalised learning rate: whatever the width, images and logits are of order one at initialisation."""
    for width in (16, 64):
        G, D = networks(32, channel_base=32 * width, channel_max=width)
        z, c = inputs(8, 0)
        assert 0.3 < G(z, c).std() < 5
        assert D(torch.randn(8, 3, 32, 32), c).abs().max() < 10


def test_class_changes_image_and_logit() -> None:
    G, D = networks(16, 3)
    z, c = inputs(4, 3)
    other = c.roll(1, 1)
    images = G(z, c, noise_mode="const")
    assert (images - G(z, other, noise_mode="const")).abs().max() > 1e-3
    assert (D(images, c) - D(images, other)).abs().max() > 1e-4


def test_noise_comes_from_the_given_generator() -> None:
    G, _ = networks()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(1.0)
    z, c = inputs(2, 0)

    def draw(seed: int) -> Tensor:
        return G(z, c, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_each_sample_s_own_generator_does_not_depend_on_the_others() -> None:
    G, _ = networks()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(1.0)
    z, _ = inputs(3, 0)

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = G(z, None, noise_mode="random", generator=generators(1, 2, 3))
    alone = G(z[2:], None, noise_mode="random", generator=generators(3))
    other = G(z[2:], None, noise_mode="random", generator=generators(4))
    assert torch.allclose(together[2:], alone, atol=1e-5)
    assert not torch.allclose(other, alone, atol=1e-2)


def test_bfloat16_is_near_float32_and_keeps_float32_weights() -> None:
    G, D = networks(32, 3)
    z, c = inputs(8, 3)
    images = G(z, c, noise_mode="const")
    logits = D(images, c)
    G.synthesis.dtype = D.dtype = torch.bfloat16
    half = G(z, c, noise_mode="const")
    assert half.dtype == torch.float32
    assert (half - images).norm() / images.norm() < 0.03
    assert (D(images, c) - logits).abs().max() < 0.05 * logits.abs().max() + 0.02
    sg.r1_penalty(D, images, c).mean().backward()
    assert all(p.dtype == torch.float32 for p in (*G.parameters(), *D.parameters()))
    assert all(p.is_contiguous() for p in (*G.parameters(), *D.parameters()))


def test_conv_clamp_bounds_activations() -> None:
    G, D = networks(16, conv_clamp=0.1)
    z, c = inputs(4, 0)
    seen = []
    for layer in (G.synthesis.b16.conv0, G.synthesis.b16.conv1, G.synthesis.b16.torgb, D.b16.conv0):
        layer.register_forward_hook(lambda module, args, out: seen.append(float(out.detach().abs().max())))
    D(G(z, c), c)
    assert len(seen) == 4
    assert max(seen) == pytest.approx(0.1)


def test_minibatch_std_of_known_groups() -> None:
    x = torch.zeros(4, 2, 4, 4)
    x[2:] = 2.0  # with groups of two, samples 0 and 2 are one group, 1 and 3 the other: deviation 1
    y = minibatch_std(x, group_size=2)
    assert y.shape == (4, 3, 4, 4)
    torch.testing.assert_close(y[:, 2], torch.ones(4, 4, 4))


def test_messages() -> None:
    G, D = networks(16, 3)
    z, c = inputs(6, 3)
    with pytest.raises(ValueError, match="power of two"):
        networks(48)
    with pytest.raises(ValueError, match="one-hot"):
        G(z, None)
    with pytest.raises(ValueError, match="Noise mode 'loud'"):
        G(z, c, noise_mode="loud")
    with pytest.raises(ValueError, match="3×16×16"):
        D(torch.zeros(4, 3, 32, 32), c[:4])
    with pytest.raises(ValueError, match="does not divide"):
        D(torch.zeros(6, 3, 16, 16), c)
    with pytest.raises(ValueError, match="architecture 'skip'"):
        sg.Discriminator(0, 16, 3, architecture="skip")
