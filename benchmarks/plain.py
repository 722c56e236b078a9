"""The generators' networks as one writes them down from the papers, to measure ours against.

Nothing in the families is written twice for this: within `plain()` the operations below stand in for ours, and
networks built and run there have the same parameters and the same results up to rounding. What differs:

- float32 and PyTorch's default, contiguous layout throughout;
- StyleGAN2: every sample is convolved with weights of its own, in one grouped convolution (arXiv 1912.04958,
  section 2.2 and appendix B), biases and gains are steps of their own, filters are depthwise convolutions; in
  `stylegan2-ada` and `acdb` the discriminator's update generates images of its own, where ours takes the generator's;
- R3GAN: convolutions with PyTorch's own derivatives, the second ones included;
- projected: the feature network's convolutions with PyTorch's own derivatives (its batch normalisation, frozen, is folded
  into them on both sides).

Augmentation, mapping, losses, optimizers and averaging are the same code on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

import balancer.generators.acdb as acdb_family
import balancer.generators.projected.family as projected_family
import balancer.generators.projected.features as projected_features
import balancer.generators.r3gan.family as r3gan_family
import balancer.generators.r3gan.networks as r3gan_networks
import balancer.generators.stylegan2_ada as stylegan2_family
import vendor.stylegan2_ada.networks as stylegan2
from balancer.generators.adversaries import Chunk

SLOPE = 0.2
_DISCRIMINATOR_LOSSES = {
    family: family.discriminator_loss
    for family in (stylegan2_family.StyleGAN2Adversaries, acdb_family.ACDBAdversaries)
}
_STRIDED_DEPTHWISE = projected_features._StridedDepthwise


@contextmanager
def float32() -> Iterator[None]:
    """Within it, families build networks that compute in float32 on every device."""
    with ExitStack() as stack:
        for family in (stylegan2_family, projected_family, r3gan_family):
            stack.enter_context(patch.object(family, "computes_bfloat16", lambda device: False))
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Within it, families build and run the plain variant; every step has to run within it too."""
    with plain_networks(), ExitStack() as stack:
        for family, loss in _DISCRIMINATOR_LOSSES.items():
            stack.enter_context(patch.object(family, "discriminator_loss", _with_new_images(loss)))
        yield


@contextmanager
def plain_networks() -> Iterator[None]:
    """As `plain`, with the images of a step generated as often as ours."""
    replaced = [
        (torch, "channels_last", torch.contiguous_format),  # what our code asks for, wherever it asks
        (stylegan2.SynthesisLayer, "forward", _synthesis_layer),
        (stylegan2.ToRGBLayer, "forward", _to_rgb),
        (stylegan2.Conv2dLayer, "forward", _conv2d_layer),
        (stylegan2, "upsample2d", _upsample),
        (r3gan_networks, "pointwise", F.conv2d),
        (r3gan_networks, "convolve", _convolve),
        (r3gan_networks, "upsample2d", _upsample),
        (r3gan_networks, "downsample2d", _downsample),
        (projected_features, "_StridedDepthwise", SimpleNamespace(apply=_strided_depthwise)),
    ]
    with float32(), ExitStack() as stack:
        for owner, name, ours in replaced:
            stack.enter_context(patch.object(owner, name, ours))
        yield


def _with_new_images(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The discriminator's loss of images generated for it alone."""

    def of_new_images(
        self: stylegan2_family.StyleGAN2Adversaries, fake: Tensor, chunk: Chunk, signs: list[Tensor]
    ) -> Tensor:
        with torch.no_grad():
            fake, _ = self.generate(chunk.fake_labels, chunk.rng)
        return loss(self, fake, chunk, signs)

    return of_new_images


def _filter(x: Tensor, f: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Every channel filtered alone."""
    c = x.shape[1]
    return F.conv2d(x, f.expand(c, 1, *f.shape), padding=padding, stride=stride, groups=c)


def _upsample(x: Tensor, f: Tensor) -> Tensor:
    c = x.shape[1]
    w = (4 * f).expand(c, 1, *f.shape)
    return F.conv_transpose2d(x, w, stride=2, padding=f.shape[-1] // 2 - 1, groups=c)


def _downsample(x: Tensor, f: Tensor) -> Tensor:
    return _filter(x, f, padding=f.shape[-1] // 2 - 1, stride=2)


def _convolve(x: Tensor, w: Tensor, groups: int) -> Tensor:
    return F.conv2d(x, w, padding=w.shape[-1] // 2, groups=groups)


def _strided_depthwise(x: Tensor, w: Tensor) -> Tensor:
    """Ours forward, without its backward."""
    return _STRIDED_DEPTHWISE.forward(SimpleNamespace(save_for_backward=lambda *tensors: None), x, w)


def _modulated_conv2d(
    x: Tensor, weight: Tensor, s: Tensor, demodulate: bool, f: Tensor, up: int = 1
) -> Tensor:
    """Equations 1 and 3 of arXiv 1912.04958 as they stand: x N×I×H×W, weight O×I×k×k, styles N×I → N×O×H·up×W·up."""
    n, _, h, width = x.shape
    k = weight.shape[-1]
    w = weight * s[:, None, :, None, None]  # N×O×I×k×k
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, -1, h, width)
    if up == 2:
        x = F.conv_transpose2d(x, w.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
        x = _filter(x, 4 * f, padding=(f.shape[-1] + 1 - k) // 2)
    else:
        x = F.conv2d(x, w.flatten(0, 1), padding=k // 2, groups=n)
    return x.reshape(n, -1, h * up, width * up)


def _clamp(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _synthesis_layer(
    self: stylegan2.SynthesisLayer,
    x: Tensor,
    w: Tensor,
    noise_mode: str = "random",
    generator: torch.Generator | None = None,
) -> Tensor:
    x = _modulated_conv2d(x, self.weight, self.affine(w), True, self.resample_filter, self.up)
    if self.use_noise and noise_mode != "none":
        noise = self.noise_const
        if noise_mode == "random":
            noise = stylegan2._randn((len(x), 1, self.resolution, self.resolution), x.device, generator)
        x = x + noise * self.noise_strength
    x = F.leaky_relu(x + self.bias[:, None, None], SLOPE) * 2**0.5
    return _clamp(x, self.conv_clamp)


def _to_rgb(self: stylegan2.ToRGBLayer, x: Tensor, w: Tensor) -> Tensor:
    s = self.affine(w) * self.weight_gain
    x = _modulated_conv2d(x, self.weight, s, False, self.weight) + self.bias[:, None, None]
    return _clamp(x, self.conv_clamp)


def _conv2d_layer(self: stylegan2.Conv2dLayer, x: Tensor, gain: float = 1.0) -> Tensor:
    w, f = self.weight * self.weight_gain, self.resample_filter
    k = w.shape[-1]
    if self.down == 1:
        x = F.conv2d(x, w, padding=k // 2)
    elif k == 1:
        x = F.conv2d(_downsample(x, f), w)
    else:
        x = F.conv2d(_filter(x, f, padding=(f.shape[-1] + k - 3) // 2), w, stride=2)
    if self.bias is not None:
        x = x + self.bias[:, None, None]
    if self.activation == "lrelu":
        x = F.leaky_relu(x, SLOPE)
    x = x * (self.act_gain * gain)
    return _clamp(x, None if self.conv_clamp is None else self.conv_clamp * gain)
