"""The networks: mapping and synthesis (skip architecture) and the residual discriminator.

Parameter and buffer names, constructor keywords and initialisation are those of the official state dicts, so
that weights are exchanged without renaming. The equalised learning rate of arXiv 1710.10196 stores weights at
unit variance and scales them where they are used.

``SynthesisNetwork.dtype`` and ``Discriminator.dtype`` (float32 unless set) say in which precision the
convolutions run: ``torch.bfloat16`` is about twice as fast on processors that have it. Weights, mapping,
styles, images, the minibatch statistic and logits stay float32.

``MappingNetwork.condition`` and ``Discriminator.condition`` (1 unless set) say how much the class counts, from 0
(not at all) to 1 (fully): a training that begins without classes raises it (arXiv 2201.06578). It is no part of the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import SQRT2, conv2d, demodulation, low_pass, lrelu, upsample2d

NOISE_MODES = ("random", "const", "none")


Randomness = torch.Generator | Sequence[torch.Generator] | None  # one of all samples, or one of each


def _randn(shape: Sequence[int], device: torch.device, generator: Randomness) -> Tensor:
    """Standard normal numbers, drawn where the generator lives (the CPU by default), brought to ``device``.

    With a generator of each sample, its numbers do not depend on the samples beside it.
    """
    if isinstance(generator, Sequence):
        return torch.stack([_randn(shape[1:], device, g) for g in generator])
    source = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=source).to(device)


def _clamp(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _channels(resolution: int, channel_base: int, channel_max: int) -> int:
    return min(channel_base // resolution, channel_max)


def _block_resolutions(img_resolution: int) -> list[int]:
    """4, 8, …, img_resolution."""
    steps = int(log2(img_resolution)) if img_resolution >= 4 else 0
    if steps < 2 or 2**steps != img_resolution:
        raise ValueError(f"The image resolution must be a power of two and at least 4, not {img_resolution}.")
    return [2**i for i in range(2, steps + 1)]


class FullyConnectedLayer(nn.Module):
    """Linear layer, N×in → N×out, with an own learning-rate multiplier; "lrelu" has gain √2."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        gain = SQRT2 if activation == "lrelu" else 1.0
        self.weight_gain = gain * lr_multiplier / sqrt(in_features)
        self.bias_gain = gain * lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return lrelu(x) if self.activation == "lrelu" else x


class MappingNetwork(nn.Module):
    """f: Z × C → W. With ``z_dim`` 0 it maps the class alone; with ``num_ws`` None it gives one w, N×w_dim.

    ``w_avg`` is the running mean of w (factor ``w_avg_beta`` per training batch), the centre of truncation.

    The first ``classless`` of the ws are mapped with zeros in place of the class; their mean is ``w_avg_classless``.
    """

    w_avg: Tensor
    w_avg_classless: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
        classless: int = 0,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.num_ws, self.num_layers, self.w_avg_beta = num_ws, num_layers, w_avg_beta
        self.classless = classless if c_dim > 0 else 0
        self.condition = 1.0
        embed = (embed_features or w_dim) if c_dim > 0 else 0
        hidden = layer_features or w_dim
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed)
        features = [z_dim + embed] + [hidden] * (num_layers - 1) + [w_dim]
        for i in range(num_layers):
            layer = FullyConnectedLayer(features[i], features[i + 1], activation, lr_multiplier)
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))
            if self.classless:
                self.register_buffer("w_avg_classless", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """z N×z_dim and c N×c_dim (one-hot; None without classes) → ws N×num_ws×w_dim.

        The first ``truncation_cutoff`` of the ws (all, if None) are w̄ + ψ·(w − w̄). The class embedding, whose root
        mean square is 1, is given noise of the standard deviation ``embedding_noise``, drawn from ``generator``
        (else from PyTorch's global CPU state), then multiplied by ``condition``.
        """
        e = self._embedding(c, embedding_noise, generator) if self.c_dim > 0 else None
        w = self._map(z, e)
        if self.num_ws is None:
            return w
        kinds = [("w_avg", w, self.num_ws - self.classless)]
        if self.classless:
            assert e is not None
            kinds.insert(0, ("w_avg_classless", self._map(z, torch.zeros_like(e)), self.classless))
        if self.training and self.w_avg_beta is not None and not skip_w_avg_update:
            for name, w, _ in kinds:
                mean = self.get_buffer(name)
                mean.copy_(w.detach().mean(0).lerp(mean, self.w_avg_beta))
        ws = torch.cat([w[:, None].expand(-1, n, -1) for _, w, n in kinds], dim=1)
        if truncation_psi != 1:
            centre = torch.cat([self.get_buffer(name).expand(n, -1) for name, _, n in kinds])
            truncated = centre[:truncation_cutoff].lerp(ws[:, :truncation_cutoff], truncation_psi)
            ws = torch.cat([truncated, ws[:, truncated.shape[1] :]], dim=1)
        return ws

    def _embedding(
        self, c: Tensor | None, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        if c is None:
            raise ValueError(f"This network is conditional: it needs a one-hot class, N×{self.c_dim}.")
        e = _normalize_2nd_moment(self.embed(c.to(self.embed.weight.dtype)))
        if noise > 0:
            e = e + noise * _randn(e.shape, e.device, generator)
        # After the normalisation, which would undo any scale.
        return e if self.condition == 1 else e * self.condition

    def _map(self, z: Tensor | None, e: Tensor | None) -> Tensor:
        parts = []
        if self.z_dim > 0:
            assert z is not None
            parts.append(_normalize_2nd_moment(z.float()))
        if e is not None:
            parts.append(e)
        x = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x


def _normalize_2nd_moment(x: Tensor) -> Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU: N×in×R/up×R/up → N×out×R×R.

    Modulation scales the input channels and demodulation the output channels, around one convolution shared by
    the batch: equal to convolving each sample with weights of its own, and much faster than that grouped form.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise, self.conv_clamp = resolution, up, use_noise, conv_clamp
        self.register_buffer("resample_filter", low_pass(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "random", generator: Randomness = None
    ) -> Tensor:
        s = self.affine(w)
        d = demodulation(self.weight, s) * SQRT2
        x = conv2d(x * s.to(x.dtype)[:, :, None, None], self.weight, f=self.resample_filter, up=self.up)
        x = torch.addcmul((self.bias * SQRT2).to(x.dtype)[:, None, None], x, d.to(x.dtype)[:, :, None, None])
        if self.use_noise and noise_mode != "none":
            noise = self.noise_const
            if noise_mode == "random":
                noise = _randn((x.shape[0], 1, self.resolution, self.resolution), x.device, generator)
            x = x + (noise * (self.noise_strength * SQRT2)).to(x.dtype)
        return _clamp(lrelu(x), self.conv_clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1×1 convolution without demodulation: N×in×R×R → N×img_channels×R×R float32.

    With so few output channels, one small matrix per sample is cheaper than scaling the activations.
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, c, h, width = x.shape
        s = self.affine(w) * self.weight_gain
        modulated = self.weight[:, :, 0, 0] * s[:, None]
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * width, c)  # no copy in channels_last
        x = torch.bmm(modulated.to(x.dtype), pixels.mT).float() + self.bias[:, None]
        return _clamp(x.reshape(n, -1, h, width), self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution of the skip architecture: (features, image) at R/2 → (features, image) at R."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        layer_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        kwargs = {"resample_filter": resample_filter, "conv_clamp": conv_clamp, **(layer_kwargs or {})}
        self.register_buffer("resample_filter", low_pass(resample_filter))
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=2, **kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **kwargs)
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Sequence[Tensor],
        dtype: torch.dtype,
        noise_mode: str,
        generator: Randomness,
    ) -> tuple[Tensor, Tensor]:
        if x is None:
            x = self.const.to(dtype).expand(ws[0].shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, ws[0], noise_mode, generator)
        x = self.conv1(x, ws[-2], noise_mode, generator)
        rgb = self.torgb(x, ws[-1])
        return x, rgb if img is None else upsample2d(img, self.resample_filter) + rgb


class SynthesisNetwork(nn.Module):
    """g: W → images."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        layer_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = _block_resolutions(img_resolution)
        self.dtype = torch.float32
        self.num_ws = 2 * len(
            self.block_resolutions
        )  # one per convolution (1 + 2 + 2 + …) and the last torgb's
        in_channels = 0
        for res in self.block_resolutions:
            out_channels = _channels(res, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels, out_channels, w_dim, res, img_channels, resample_filter, conv_clamp, layer_kwargs
            )
            self.add_module(f"b{res}", block)
            in_channels = out_channels

    def forward(self, ws: Tensor, noise_mode: str = "random", generator: Randomness = None) -> Tensor:
        """ws N×num_ws×w_dim → images N×img_channels×R×R float32, about in [−1, 1], not clipped.

        Args:
            noise_mode: "random" (fresh noise, drawn from ``generator``, else from PyTorch's global CPU
                state), "const" (the noise stored with the weights) or "none".

        Raises:
            ValueError: unknown noise mode, or ws of another shape.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"Noise mode {noise_mode!r} is unknown; it is one of {', '.join(NOISE_MODES)}.")
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be N×{self.num_ws}×{self.w_dim}, not {tuple(ws.shape)}.")
        w = ws.float().unbind(1)
        x, img, first = None, None, 0
        for res in self.block_resolutions:
            num_ws = (
                2 if x is None else 3
            )  # its convolutions', and the one that its torgb shares with the next
            block = self.get_submodule(f"b{res}")
            x, img = block(x, img, w[first : first + num_ws], self.dtype, noise_mode, generator)
            first += num_ws - 1
        assert img is not None
        return img


class Generator(nn.Module):
    """G(z, c) = synthesis(mapping(z, c)).

    Args:
        z_dim, c_dim, w_dim: sizes of the latent, the one-hot class (0: none) and the intermediate latent.
        img_resolution: a power of two.
        img_channels: 3 for RGB.
        mapping_kwargs, synthesis_kwargs: keywords of MappingNetwork and SynthesisNetwork.
        classless_resolution: convolutions up to this resolution do not see the class (0: all see it). The layer
            that makes the image of that resolution does: it shares its w with the next convolution.

    Raises:
        ValueError: ``img_resolution`` is no power of two, or ``classless_resolution`` none below it.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
        classless_resolution: int = 0,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        lower = self.synthesis.block_resolutions[:-1]
        if classless_resolution and classless_resolution not in lower:
            raise ValueError(
                f"The class can be kept from layers up to {' or '.join(map(str, lower))} px of images of "
                f"{img_resolution} px, not {classless_resolution}."
            )
        classless = 2 * lower.index(classless_resolution) + 1 if classless_resolution else 0
        kwargs = {"classless": classless, **(mapping_kwargs or {})}
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **kwargs)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        generator: Randomness = None,
    ) -> Tensor:
        """z N×z_dim standard normal, c N×c_dim one-hot → images N×img_channels×R×R; see the two networks."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, generator)


class Conv2dLayer(nn.Module):
    """Convolution, bias and activation ("lrelu" with gain √2, or "linear"), optionally halving the resolution."""

    resample_filter: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.down, self.conv_clamp = activation, down, conv_clamp
        self.register_buffer("resample_filter", low_pass(resample_filter))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.act_gain = SQRT2 if activation == "lrelu" else 1.0
        self.weight_gain = 1 / sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        gain_total = self.act_gain * gain
        w = self.weight * (self.weight_gain * gain_total)
        b = None if self.bias is None else self.bias * gain_total
        x = conv2d(x, w, b, self.resample_filter, down=self.down)
        x = lrelu(x) if self.activation == "lrelu" else x
        return _clamp(x, None if self.conv_clamp is None else self.conv_clamp * gain)


class DiscriminatorBlock(nn.Module):
    """One resolution: N×in×R×R → N×out×R/2×R/2, the sum of two paths ("resnet") or one path ("orig")."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        img_channels: int,
        architecture: str,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("resample_filter", low_pass(resample_filter))
        kwargs: dict[str, Any] = {
            "activation": "lrelu",
            "resample_filter": resample_filter,
            "conv_clamp": conv_clamp,
        }
        if in_channels == 0:
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, 1, **kwargs)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, 3, **kwargs)
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, 3, down=2, **kwargs)
        if architecture == "resnet":
            self.skip = Conv2dLayer(
                tmp_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter
            )
        self.reads_rgb = in_channels == 0

    def forward(self, x: Tensor) -> Tensor:
        if self.reads_rgb:
            x = self.fromrgb(x)
        if self.architecture == "orig":
            return self.conv1(self.conv0(x))
        y = self.skip(x, gain=sqrt(0.5))
        return y + self.conv1(self.conv0(x), gain=sqrt(0.5))


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """Append the standard deviation within groups of samples as channels: N×C×H×W → N×(C+num_channels)×H×W.

    Raises:
        ValueError: N is more than the group size and does not divide into groups.
    """
    n, c, h, w = x.shape
    g = min(group_size or n, n)
    if n % g:
        raise ValueError(
            f"A batch of {n} images does not divide into groups of {g} for the minibatch statistic."
        )
    y = x.reshape(g, n // g, num_channels, c // num_channels, h, w)
    std = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean((2, 3, 4))
    std = std[None, :, :, None, None].expand(g, -1, -1, h, w).reshape(n, num_channels, h, w)
    return torch.cat([x, std], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The last block at 4×4, in float32: N×C×4×4 → logits N×1, by projection on the class where there is one."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.mbstd_group_size, self.mbstd_num_channels = mbstd_group_size, mbstd_num_channels
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: Tensor, cmap: Tensor | None) -> Tensor:
        x = x.to(self.fc.weight.dtype)
        if self.mbstd_num_channels > 0:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return x if cmap is None else (x * cmap).sum(1, keepdim=True) / sqrt(self.cmap_dim)


class Discriminator(nn.Module):
    """D(images, c) → logits.

    Args:
        c_dim: size of the one-hot class, 0 for none.
        img_resolution, img_channels: shape of the images.
        architecture: "resnet" (the paper's) or "orig" (without skips).
        channel_base, channel_max: a block at resolution R has min(channel_base / R, channel_max) channels.
        conv_clamp: bound of every convolution's output, None for none.
        cmap_dim: size of the mapped class; the channels at 4×4 if None.
        block_kwargs, mapping_kwargs, epilogue_kwargs: keywords of the parts.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if architecture not in ("resnet", "orig"):
            raise ValueError(f"Discriminator architecture {architecture!r} is unknown; it is resnet or orig.")
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.block_resolutions = _block_resolutions(img_resolution)[:0:-1]
        self.dtype = torch.float32
        self.condition = 1.0
        channels = {r: _channels(r, channel_base, channel_max) for r in (*self.block_resolutions, 4)}
        cmap_dim = 0 if c_dim == 0 else channels[4] if cmap_dim is None else cmap_dim
        for res in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[res] if res < img_resolution else 0,
                channels[res],
                channels[res // 2],
                img_channels,
                architecture,
                conv_clamp=conv_clamp,
                **(block_kwargs or {}),
            )
            self.add_module(f"b{res}", block)
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, w_avg_beta=None, **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(
            channels[4], cmap_dim, 4, conv_clamp=conv_clamp, **(epilogue_kwargs or {})
        )

    def forward(self, img: Tensor, c: Tensor | None) -> Tensor:
        """Images N×img_channels×R×R in [−1, 1] and c N×c_dim one-hot → logits N×1 float32, high for real.

        Raises:
            ValueError: another image shape, no class for a conditional network, or a batch that does not
                divide into the groups of the minibatch statistic.
        """
        shape = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.shape[1:] != shape:
            raise ValueError(f"Images must be N×{'×'.join(map(str, shape))}, not {tuple(img.shape)}.")
        x = img.to(self.dtype).contiguous(memory_format=torch.channels_last)
        for res in self.block_resolutions:
            x = self.get_submodule(f"b{res}")(x)
        return self.b4(x, self._mapped_class(c) if self.c_dim > 0 else None)

    def _mapped_class(self, c: Tensor | None) -> Tensor:
        """At a ``condition`` λ below 1 the logit is (1 − λ)·(mean of the logits for all classes) + λ·(that for c).

        So what D learns without classes is a part of what it knows of each class, and no weights are added.
        """
        cmap = self.mapping(None, c)
        if self.condition == 1:
            return cmap
        every = torch.eye(self.c_dim, device=cmap.device)
        return self.mapping(None, every).mean(0).lerp(cmap, self.condition)
