"""The operations against their definitions, written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vendor.stylegan2_ada import ops
from vendor.stylegan2_ada.networks import SynthesisLayer

FILTER = ops.low_pass([1, 3, 3, 1])


def upfirdn(x: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """Zeros between samples, padding, filtering, decimation, one sample at a time as the definition says."""
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h * up, w * up)
    z[:, :, ::up, ::up] = x
    z = F.pad(z, (before, after, before, after))
    taps = FILTER.shape[0]
    windows = z.unfold(2, taps, 1).unfold(3, taps, 1)
    return (windows * FILTER.flip(0, 1)).sum((4, 5))[:, :, ::down, ::down]


def images(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def test_low_pass_keeps_a_constant() -> None:
    assert FILTER.sum() == 1
    assert torch.equal(FILTER[0] * 64, torch.tensor([1.0, 3.0, 3.0, 1.0]))


def test_upsample2d() -> None:
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(ops.upsample2d(x, FILTER), 4 * upfirdn(x, 2, 1, 2, 1))


@pytest.mark.parametrize("k", [1, 3])
def test_conv2d_up_is_upsampling_then_convolution(k: int) -> None:
    x, w = images(2, 5, 8, 8), images(4, 5, k, k)
    y = ops.conv2d(x, w, f=FILTER, up=2)
    # Convolving the upsampled signal, with the samples beyond the border that the filter reaches.
    wide = 4 * upfirdn(x, 2, 1, 3 if k == 3 else 2, 2 if k == 3 else 1)
    torch.testing.assert_close(y, F.conv2d(wide, w.flip(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_conv2d_down_is_filtering_then_strided_convolution(k: int) -> None:
    x, w, b = images(2, 5, 8, 8), images(4, 5, k, k), torch.arange(4.0)
    pad = 2 if k == 3 else 1
    expected = F.conv2d(upfirdn(x, 1, 1, pad, pad), w, b, stride=2)
    torch.testing.assert_close(ops.conv2d(x, w, b, FILTER, down=2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("up", [1, 2])
def test_synthesis_layer_is_the_grouped_convolution(up: int) -> None:
    """Equations 1 to 3 of arXiv 1912.04958 with weights of each sample's own."""
    torch.manual_seed(0)
    layer = SynthesisLayer(6, 4, w_dim=5, resolution=8 * up, up=up)
    with torch.no_grad():
        layer.noise_strength.fill_(0.3)
        layer.bias.normal_()
    x, w = images(3, 6, 8, 8), torch.randn(3, 5)
    s = layer.affine(w)
    weights = layer.weight * s[:, None, :, None, None]
    weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = torch.cat([ops.conv2d(x[i : i + 1], weights[i], f=FILTER, up=up) for i in range(3)])
    y = y + layer.noise_const * 0.3 + layer.bias[:, None, None]
    expected = F.leaky_relu(y, 0.2) * 2**0.5
    torch.testing.assert_close(layer(x, w, "const"), expected, rtol=1e-4, atol=1e-5)


def test_second_derivatives_agree_with_finite_differences() -> None:
    x, w = images(1, 2, 4, 4).double(), images(2, 2, 3, 3).double()
    for kwargs in ({}, {"up": 2}, {"down": 2}):

        def f(x: Tensor, w: Tensor, kwargs: dict[str, int] = kwargs) -> Tensor:
            return ops.lrelu(ops.conv2d(x, w, f=FILTER, **kwargs)).square()

        assert torch.autograd.gradgradcheck(f, (x.requires_grad_(), w.requires_grad_()))
