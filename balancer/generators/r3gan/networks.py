"""The networks of R3GAN (arXiv 2501.05441, section 4): ResNets that carry a modernised bottleneck and nothing else.

Both are stages of residual blocks between resamplings, from 4×4 upwards and back. No normalisation, no noise, no
style: what keeps them trainable is their initialisation (Fixup, arXiv 1901.09321), in which every block begins as
the identity. Attributes that hold parameters carry the names of the reference's state dicts, so that weights are
exchanged without renaming.

``Generator.dtype`` and ``Discriminator.dtype`` (float32 unless set) say in which precision the stages compute:
``torch.bfloat16`` is faster on processors that have it. Weights, images, latents, the 4×4 bases and logits stay
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.generators.r3gan.ops import convolve, downsample2d, low_pass, pointwise, upsample2d

LRELU_SLOPE = 0.2
LRELU_GAIN = sqrt(2 / (1 + LRELU_SLOPE**2))  # keeps the variance (arXiv 1502.01852, equation 15)
BASE = 4  # pixels of the lowest resolution


class Weights(nn.Module):
    """A tensor outputs × inputs × …, normal with standard deviation gain/√fan-in at the beginning."""

    def __init__(self, *shape: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) * (gain / sqrt(prod(shape[1:]))))


class Linear(Weights):
    """N×inputs → N×outputs, without bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Convolution(nn.Module):
    """Convolution without bias, 1×1 or grouped 3×3, N×I×H×W → N×O×H×W; weights begin at gain/√fan-in."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.groups = groups
        self.Layer = Weights(outputs, inputs // groups, kernel, kernel, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        w = self.Layer.weight.to(x.dtype)
        return pointwise(x, w) if w.shape[-1] == 1 else convolve(x, w, self.groups)


class BiasedLeakyReLU(nn.Module):
    """A bias per channel, then the leaky ReLU; its gain is in the weights before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.Bias.to(x.dtype)[:, None, None], LRELU_SLOPE)


class ResidualBlock(nn.Module):
    """x + W₃·φ(W₂ ∗ φ(W₁·x)): widen, mix pixels within groups of channels, narrow.

    W₃ begins at zero, and W₁ and W₂ at a gain of L^(−1/4) for L blocks in the network (arXiv 1901.09321, m = 3).
    """

    def __init__(self, width: int, cardinality: int, expansion: int, blocks: int) -> None:
        super().__init__()
        inner, gain = width * expansion, LRELU_GAIN * blocks**-0.25
        self.LinearLayer1 = Convolution(width, inner, gain=gain)
        self.NonLinearity1 = BiasedLeakyReLU(inner)
        self.LinearLayer2 = Convolution(inner, inner, 3, cardinality, gain=gain)
        self.NonLinearity2 = BiasedLeakyReLU(inner)
        self.LinearLayer3 = Convolution(inner, width, gain=0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        y = self.NonLinearity2(self.LinearLayer2(y))
        return x + self.LinearLayer3(y)


class Resampler(nn.Module):
    """The low-pass filter: [1, 2, 1] with the two taps of a nearest-neighbour step."""

    Kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("Kernel", low_pass((1, 3, 3, 1)))


class Resampling(nn.Module):
    """The filter, and a 1×1 convolution where the widths differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Resampler = Resampler()
        if inputs != outputs:
            self.LinearLayer = Convolution(inputs, outputs)


class Upsampling(Resampling):
    """N×I×H×W → N×O×2H×2W; the widths change at the lower resolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.LinearLayer(x) if hasattr(self, "LinearLayer") else x
        return upsample2d(x, self.Resampler.Kernel)


class Downsampling(Resampling):
    """N×I×H×W → N×O×H/2×W/2; the widths change at the lower resolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = downsample2d(x, self.Resampler.Kernel)
        return self.LinearLayer(x) if hasattr(self, "LinearLayer") else x


class GenerativeBasis(nn.Module):
    """Latents N×z → N×C×4×4: every channel a learned 4×4 image, weighted by a linear map of the latent."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(outputs, BASE, BASE))
        self.LinearLayer = Linear(outputs, inputs)

    def forward(self, z: Tensor) -> Tensor:
        return self.Basis * self.LinearLayer(z)[:, :, None, None]


class DiscriminativeBasis(nn.Module):
    """The mirror image: N×C×4×4 → N×outputs, every channel's product with a learned 4×4 image, mapped linearly."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Basis = Weights(inputs, 1, BASE, BASE)
        self.LinearLayer = Linear(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.LinearLayer((x * self.Basis.weight[:, 0]).sum((2, 3)))


class Stage(nn.Module):
    """What happens at one resolution, with the way there (generator) or onwards (discriminator)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.Layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        for layer in self.Layers:
            if isinstance(layer, GenerativeBasis):
                x = layer(x).to(dtype, memory_format=torch.channels_last)
            elif isinstance(layer, DiscriminativeBasis):
                x = layer(x.to(layer.Basis.weight.dtype))
            else:
                x = layer(x)
        return x


class Generator(nn.Module):
    """G(z, c) → images N×3×R×R, about in [−1, 1], with R = 4·2^(stages − 1).

    Args:
        NoiseDimension: size of z.
        WidthPerStage: channels at 4×4, 8×8, …
        CardinalityPerStage: groups of the 3×3 convolutions there.
        BlocksPerStage: residual blocks there.
        ExpansionFactor: inner channels of a block per channel.
        ConditionDimension, ConditionEmbeddingDimension: size of the one-hot class and of its embedding, which is
            appended to z; None for no classes.

    `condition` (1 unless set) is what the embedding is multiplied by, from 0 (no class) to 1.
    """

    def __init__(
        self,
        NoiseDimension: int,
        WidthPerStage: Sequence[int],
        CardinalityPerStage: Sequence[int],
        BlocksPerStage: Sequence[int],
        ExpansionFactor: int,
        ConditionDimension: int | None = None,
        ConditionEmbeddingDimension: int = 0,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.dtype = NoiseDimension, ConditionDimension or 0, torch.float32
        self.condition = 1.0
        inputs = NoiseDimension + (ConditionEmbeddingDimension if self.c_dim else 0)
        stages, before = [], inputs
        for i, (width, cardinality, blocks) in enumerate(
            zip(WidthPerStage, CardinalityPerStage, BlocksPerStage, strict=True)
        ):
            enter = Upsampling(before, width) if i else GenerativeBasis(inputs, width)
            body = [
                ResidualBlock(width, cardinality, ExpansionFactor, sum(BlocksPerStage)) for _ in range(blocks)
            ]
            stages.append(Stage(enter, *body))
            before = width
        self.MainLayers = nn.ModuleList(stages)
        self.AggregationLayer = Convolution(before, 3)
        if self.c_dim:
            self.EmbeddingLayer = Linear(ConditionEmbeddingDimension, self.c_dim)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        embedding_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents N×z, standard normal, and classes N×c, one-hot (None where there are none) → float32 images.

        `embedding_noise` is the standard deviation of noise on the class embedding, in units of its root mean
        square, drawn from `generator`.
        """
        x = torch.cat([z, self._embedding(c, embedding_noise, generator)], dim=1) if self.c_dim else z
        for stage in self.MainLayers:
            x = stage(x, self.dtype)
        return self.AggregationLayer(x).float()

    def _embedding(self, c: Tensor | None, noise: float, generator: torch.Generator | None) -> Tensor:
        e = self.EmbeddingLayer(c)
        if noise > 0:
            size = e.detach().square().mean(1, keepdim=True).sqrt()
            e = e + noise * size * torch.randn(e.shape, generator=generator, device=e.device)
        return e if self.condition == 1 else e * self.condition


class Discriminator(nn.Module):
    """D(images, c) → logits N, high for real; arguments as for the generator, widths from R×R down to 4×4.

    The class enters by projection (arXiv 1802.05637): the product of its embedding with as many features. At a
    `condition` λ below 1 (1 unless set) the logit is (1 − λ)·(mean of the logits for all classes) + λ·(that for c).
    """

    def __init__(
        self,
        WidthPerStage: Sequence[int],
        CardinalityPerStage: Sequence[int],
        BlocksPerStage: Sequence[int],
        ExpansionFactor: int,
        ConditionDimension: int | None = None,
        ConditionEmbeddingDimension: int = 0,
    ) -> None:
        super().__init__()
        self.c_dim, self.dtype = ConditionDimension or 0, torch.float32
        self.condition = 1.0
        self.resolution = BASE * 2 ** (len(WidthPerStage) - 1)
        outputs = ConditionEmbeddingDimension if self.c_dim else 1
        stages = []
        for i, (width, cardinality, blocks) in enumerate(
            zip(WidthPerStage, CardinalityPerStage, BlocksPerStage, strict=True)
        ):
            body = [
                ResidualBlock(width, cardinality, ExpansionFactor, sum(BlocksPerStage)) for _ in range(blocks)
            ]
            last = i == len(WidthPerStage) - 1
            leave = DiscriminativeBasis(width, outputs) if last else Downsampling(width, WidthPerStage[i + 1])
            stages.append(Stage(*body, leave))
        self.MainLayers = nn.ModuleList(stages)
        self.ExtractionLayer = Convolution(3, WidthPerStage[0])
        if self.c_dim:
            self.EmbeddingLayer = Linear(outputs, self.c_dim, gain=outputs**-0.5)

    def forward(self, images: Tensor, c: Tensor | None = None) -> Tensor:
        """Images N×3×R×R and classes N×c, one-hot (None where there are none) → float32 logits N.

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(
                f"Images must be N×3×{self.resolution}×{self.resolution}, not {tuple(images.shape)}."
            )
        x = self.ExtractionLayer(images.to(self.dtype, memory_format=torch.channels_last))
        for stage in self.MainLayers:
            x = stage(x, self.dtype)
        if self.c_dim == 0:
            return x[:, 0]
        e = self.EmbeddingLayer(c)
        if self.condition != 1:
            e = self.EmbeddingLayer.weight.mean(1).lerp(e, self.condition)
        return (x * e).sum(1)
