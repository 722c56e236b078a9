"""The operations that the networks are made of; all can be differentiated twice, which R1 and R2 need every step.

PyTorch's own second derivative of a convolution is a convolution with kernels as large as the images, and in
bfloat16 its transposed depthwise convolution is thirty times slower than the forward one. Here the adjoint of a
convolution is a convolution again. Activations are kept in ``channels_last``; signals are zero outside their
border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def low_pass(taps: Sequence[float]) -> Tensor:
    """Normalised 2-D low-pass filter, T×T, float32: the outer product of T taps."""
    f = torch.tensor(taps) / sum(taps)
    return f.outer(f)


def pointwise(x: Tensor, w: Tensor) -> Tensor:
    """1×1 convolution as a product of matrices: N×I×H×W with weights O×I×1×1 → N×O×H×W."""
    return F.linear(x.permute(0, 2, 3, 1), w[:, :, 0, 0]).permute(0, 3, 1, 2)


def convolve(x: Tensor, w: Tensor, groups: int) -> Tensor:
    """Grouped convolution at the same resolution: N×I×H×W with weights O×(I/groups)×k×k, k odd → N×O×H×W."""
    return _Convolve.apply(x, w, groups)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.groups = groups
        return F.conv2d(x, w, padding=w.shape[-1] // 2, groups=groups)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            by_group = w.unflatten(0, (ctx.groups, -1)).transpose(1, 2)
            grad_x = _Convolve.apply(grad[0], by_group.flip(3, 4).flatten(0, 1), ctx.groups)
        if ctx.needs_input_grad[1]:
            ones, padding = [1, 1], [w.shape[-1] // 2] * 2
            _, grad_w, _ = torch.ops.aten.convolution_backward(
                grad[0], x, w, None, ones, padding, ones, False, [0, 0], ctx.groups, (False, True, False)
            )
        return grad_x, grad_w, None


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """N×C×H×W → N×C×2H×2W: zeros between the samples, then the 4×4 filter with gain 4."""
    return _Upsample.apply(x, 4 * f)


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    """N×C×H×W → N×C×H/2×W/2: the 4×4 filter, then every other sample."""
    return _Downsample.apply(x, f)


def _per_channel(f: Tensor, channels: int) -> Tensor:
    return f.expand(channels, 1, *f.shape)


class _Upsample(torch.autograd.Function):
    """Linear in the image; with a symmetric filter its adjoint is `_Downsample` with the same filter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        c = x.shape[1]
        y = F.conv_transpose2d(x.to(f.dtype), _per_channel(f, c), stride=2, padding=1, groups=c)
        return y.to(x.dtype)  # by way of the filter's float32, which is fast

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return _Downsample.apply(grad[0], *ctx.saved_tensors), None


class _Downsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        c = x.shape[1]
        return F.conv2d(x, _per_channel(f, c).to(x.dtype), stride=2, padding=1, groups=c)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return _Upsample.apply(grad[0], *ctx.saved_tensors), None
