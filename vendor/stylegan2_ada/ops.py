"""The operations that the networks are made of, in plain PyTorch.

Activations are kept in ``channels_last``: there the convolutions, and the depthwise ones that resample, are
two to four times faster on a CPU than in the contiguous layout. Everything here is differentiable twice.
A signal is zero outside its border (arXiv 1912.04958, appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2
SQRT2 = 2.0**0.5


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU without gain: √2·lrelu(x) = lrelu(√2·x), so the gain goes into the weights before it."""
    return F.leaky_relu(x, LRELU_SLOPE)


def low_pass(taps: Sequence[float]) -> Tensor:
    """Normalised 2-D low-pass filter (T×T, float32): the outer product of an even number T of symmetric taps."""
    f = torch.tensor(taps, dtype=torch.float64)
    f = f / f.sum()
    return f.outer(f).float()


class _Blur(torch.autograd.Function):
    """Depthwise convolution with one fixed filter.

    Its adjoint is the same with the filter turned round, which on a CPU is twice as fast as PyTorch's own
    backward of a depthwise convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(f)
        ctx.adjoint_padding = f.shape[-1] - 1 - padding
        return F.conv2d(x, f.expand(x.shape[1], 1, *f.shape), padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (f,) = ctx.saved_tensors
        return _Blur.apply(grad[0], f.flip(0, 1), ctx.adjoint_padding), None, None


def blur(x: Tensor, f: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Filter N×C×H×W at its own resolution after padding it with less than T zeros."""
    return _Blur.apply(x, (f * gain).to(x.dtype), padding)


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """N×C×H×W → N×C×2H×2W: zeros between the samples, then the filter with gain 4."""
    f = (f * 4).to(x.dtype)
    padding = f.shape[-1] // 2 - 1
    return F.conv_transpose2d(
        x, f.expand(x.shape[1], 1, *f.shape), stride=2, padding=padding, groups=x.shape[1]
    )


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None = None, f: Tensor | None = None, up: int = 1, down: int = 1
) -> Tensor:
    """Convolution that keeps, doubles (``up=2``) or halves (``down=2``) the resolution, alias-free.

    Args:
        x: N×C×H×W.
        w: O×C×k×k float32, k odd; it is brought to the dtype and layout of ``x`` here.
        b: O, or None.
        f: low-pass filter T×T; needed for up and down only.
    """
    w = w.to(x.dtype).contiguous(memory_format=torch.channels_last)
    b = None if b is None else b.to(x.dtype)
    k = w.shape[-1]
    if up == 2:  # a transposed convolution, then the filter: a quarter of the products of filtering first
        assert f is not None and b is None
        x = F.conv_transpose2d(x, w.transpose(0, 1), stride=2)
        return blur(x, f, padding=(f.shape[-1] + 1 - k) // 2, gain=4.0)
    if down == 2:
        assert f is not None
        x = blur(x, f, padding=(f.shape[-1] + k - 3) // 2)
        return F.conv2d(x, w, b, stride=2)
    return F.conv2d(x, w, b, padding=k // 2)


def demodulation(w: Tensor, s: Tensor) -> Tensor:
    """1/σ of equation 3 in arXiv 1912.04958: weights O×I×k×k, styles N×I → N×O, never forming N×O×I×k×k."""
    return (s.square() @ w.square().sum((2, 3)).t() + 1e-8).rsqrt()
