"""Losses in closed form, penalties against finite differences, and a few steps of training."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch
from torch import Tensor

import vendor.stylegan2_ada as sg


def test_losses_of_known_logits() -> None:
    zero = torch.zeros(2, 1)
    assert sg.g_nonsaturating(zero).mean().item() == pytest.approx(log(2))
    assert sg.d_logistic(zero, zero).mean().item() == pytest.approx(2 * log(2))
    high, low = torch.full((2, 1), 20.0), torch.full((2, 1), -20.0)
    assert sg.d_logistic(high, low).max().item() < 1e-6
    assert sg.g_nonsaturating(low).mean().item() == pytest.approx(20.0)


def test_r1_of_a_linear_discriminator() -> None:
    a = torch.randn(3, 8, 8)

    def D(x: Tensor, c: Tensor) -> Tensor:
        return (x * a).sum((1, 2, 3))[:, None] * c

    c = torch.tensor([[1.0], [2.0]])
    penalty = sg.r1_penalty(D, torch.randn(2, 3, 8, 8), c)
    torch.testing.assert_close(penalty, a.square().sum() * torch.tensor([1.0, 4.0]))


def test_r1_through_the_augmentation_has_the_right_gradient() -> None:
    """∂/∂θ ‖∇ₓD(A(x))‖², of second order, against central differences in float64."""
    torch.manual_seed(0)
    D = sg.Discriminator(0, 16, 3, channel_base=64, channel_max=4).double()
    D.dtype = torch.float64
    D.b4.forward = _double_epilogue(D)  # type: ignore[method-assign]
    pipe = sg.AugmentPipe(**sg.PRESETS["bgc"])
    x, c = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.zeros(2, 0)

    def penalty() -> Tensor:
        rng = torch.Generator().manual_seed(5)
        return sg.r1_penalty(lambda x, c: D(pipe(x, generator=rng), c), x, c).sum()

    weight = D.b16.conv0.weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    h = 1e-5
    with torch.no_grad():
        weight += h * direction
    above = penalty().item()
    with torch.no_grad():
        weight -= 2 * h * direction
    below = penalty().item()
    assert (gradient * direction).sum().item() == pytest.approx((above - below) / (2 * h), rel=1e-4)


def _double_epilogue(D: sg.Discriminator):
    def forward(x: Tensor, cmap: Tensor | None) -> Tensor:
        return D.b4.out(D.b4.fc(D.b4.conv(torch.cat([x, x[:, :1]], 1)).flatten(1)))

    return forward


def test_path_length_of_a_linear_map() -> None:
    ws = torch.randn(3, 4, 5, requires_grad=True)
    scale = torch.tensor([1.0, 2.0, 3.0])
    images = (ws.sum((1, 2)) * scale)[:, None, None, None] * torch.ones(3, 3, 8, 8)
    y = torch.full((3, 3, 8, 8), 1.0 / 192)
    # Every entry of J^T y is the scale; the root mean over layers of the square norm over 5 entries is scale·√5.
    torch.testing.assert_close(sg.path_lengths(images, ws, y), scale * sqrt(5))


def test_path_length_mean_is_kept_in_the_state() -> None:
    torch.manual_seed(0)
    G = sg.Generator(8, 0, 12, 16, 3, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8})
    regulariser = sg.PathLength(decay=0.5)
    rng = torch.Generator().manual_seed(1)
    images, ws = sg.run_generator(G, torch.randn(4, 8), None, generator=rng)
    penalty = regulariser(images, ws, rng)
    assert penalty.shape == (4,)
    penalty.mean().backward()
    assert G.synthesis.b8.conv0.affine.weight.grad.abs().sum() > 0
    assert regulariser.pl_mean > 0
    restored = sg.PathLength()
    restored.load_state_dict(regulariser.state_dict())
    assert torch.equal(restored.pl_mean, regulariser.pl_mean)


def test_default_gamma() -> None:
    assert sg.default_gamma(256, 32) == pytest.approx(0.4096)
    assert sg.default_gamma(32, 32) == pytest.approx(0.0064)


def test_style_mixing() -> None:
    torch.manual_seed(0)
    G = sg.Generator(8, 0, 12, 16, 3, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8})
    z = torch.randn(4, 8)

    def ws_of(prob: float, seed: int) -> Tensor:
        return sg.run_generator(G, z, None, prob, torch.Generator().manual_seed(seed))[1]

    single = ws_of(0.0, 1)
    assert torch.equal(single[:, :1].expand_as(single), single)
    cutoffs = set()
    for seed in range(30):
        ws = ws_of(1.0, seed)
        same = (ws == single).all(-1).all(0)
        cutoff = int(same.sum())
        assert same[:cutoff].all()
        assert torch.equal(ws[:, cutoff:], ws[:, -1:].expand_as(ws[:, cutoff:]))
        cutoffs.add(cutoff)
    assert cutoffs == set(range(1, G.num_ws))
    assert torch.equal(ws_of(0.9, 7), ws_of(0.9, 7))


def test_training_lowers_both_losses() -> None:
    """D learns against a fixed G, then G against the fixed D; with lazy penalties in bfloat16."""
    torch.manual_seed(0)
    size = {"channel_base": 256, "channel_max": 16}
    G = sg.Generator(8, 2, 8, 16, 3, {"num_layers": 2}, size)
    D = sg.Discriminator(2, 16, 3, **size)
    G.synthesis.dtype = D.dtype = torch.bfloat16
    pipe = sg.AugmentPipe(**sg.PRESETS["bgc"])
    pipe.p.fill_(0.2)
    rng = torch.Generator().manual_seed(0)
    z, c = torch.randn(8, 8, generator=rng), torch.eye(2).repeat(4, 1)
    real = torch.rand(8, 3, 16, 16, generator=rng) * 0.2 + c[:, :1, None, None] * 0.5

    def judge(x: Tensor, c: Tensor) -> Tensor:
        return D(pipe(x, generator=rng), c)

    adam = torch.optim.Adam(D.parameters(), lr=0.002, betas=(0.0, 0.99))
    losses = []
    for step in range(30):
        with torch.no_grad():
            fake, _ = sg.run_generator(G, z, c, generator=rng)
        loss = sg.d_logistic(judge(real, c), judge(fake, c)).mean()
        losses.append(loss.item())
        if step % 16 == 0:
            loss = loss + sg.r1_penalty(judge, real, c).mean() * (sg.default_gamma(16, 8) / 2 * 16)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])

    D.requires_grad_(False)
    adam = torch.optim.Adam(G.parameters(), lr=0.002, betas=(0.0, 0.99))
    losses = []
    for _ in range(30):
        fake, _ = sg.run_generator(G, z, c, generator=rng)
        loss = sg.g_nonsaturating(judge(fake, c)).mean()
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
