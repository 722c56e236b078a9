"""ConvNeXt V2's fully convolutional masked autoencoder (FCMAE), and the classifier on its stages.

Woo et al. 2023, arXiv 2301.00808. The classifier is our reading of "FCMAE-V2 + WPAT" (leukaemia subtypes), a paper that
is not open: window-partition attention over the stages of the pretrained encoder.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from timm.models.swin_transformer import WindowAttention, window_partition
from torch import Tensor, nn

from classifier.models.backbones import (
    SIZES,
    Canvas,
    ConvNeXtPyramid,
    auto_size,
    linear_head,
    refuse_unpublished,
    with_own_norms,
)
from classifier.models.registry import register

_LEAST_GRID = 7  # patches to a side: as many as 224 px have of 32 px, in the paper
_DECODER_WIDTH = 512  # the paper's; at most twice the encoder's, for the small ones
_EPSILON = 1e-6  # beside the variance of a patch


class MaskedAutoencoder(nn.Module):
    """Images float32 B×C×R×R and which patches are visible, bool B×1×G×G → reconstruction B×C×S×S on the canvas.

    The paper's sparse convolutions are emulated by dense ones: hidden positions are zero before every convolution that
    looks around, and before every global response normalisation, which so counts the visible ones alone. The pixels
    of hidden patches are zero before the stem, so that nothing of them reaches the encoder.

    A patch is as large as a pixel of the last map (16 px for `micro`, else 32), as in the paper, where that leaves 7×7
    patches or more, and else a half, a quarter … of it: 8 px, so an 8×8 grid, at 64 px. A pixel of a coarser map is then
    visible when any of its patches is.

    The decoder is one ConvNeXt block on the last map, a learned token in its hidden pixels, and a linear prediction of the
    pixels that each stands for.
    """

    def __init__(self, size: str, resolution: int, channels: int = 3) -> None:
        super().__init__()
        self.canvas = Canvas(resolution)
        self.encoder = ConvNeXtPyramid(size, pretrained=False, channels=channels)
        widths = self.encoder.channels
        self.stride = 4 * 2 ** (len(widths) - 1)  # input pixels to a pixel of the last map
        self.patch = self.stride
        while self.canvas.side // self.patch < _LEAST_GRID:
            self.patch //= 2
        self.grid = self.canvas.side // self.patch
        width = min(_DECODER_WIDTH, 2 * widths[-1])
        self.embed = nn.Conv2d(widths[-1], width, 1)
        self.token = nn.Parameter(torch.empty(1, width, 1, 1))
        self.decoder = with_own_norms(ConvNeXtBlock(width, use_grn=True, ls_init_value=None))
        self.predict = nn.Conv2d(width, channels * self.stride**2, 1)
        nn.init.normal_(self.token, std=0.02)

    def draw(self, n: int, ratio: float, generator: torch.Generator) -> Tensor:
        """Which patches are visible: bool n×1×G×G, in each image all but `ratio` of them, at random."""
        patches = self.grid**2
        hidden = min(max(round(ratio * patches), 1), patches - 1)
        rank = torch.rand(n, patches, generator=generator, device=generator.device).argsort(1).argsort(1)
        return (rank >= hidden).view(n, 1, self.grid, self.grid)

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        features = encode_visible(self.encoder, self.canvas(images), visible)
        features = torch.where(_seen(visible, features) > 0, self.embed(features), self.token)
        return F.pixel_shuffle(self.predict(self.decoder(features)), self.stride)

    def loss(self, images: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error on the hidden patches, each of which is first brought to mean 0 and variance 1."""
        error = (self(images, visible) - self.targets(images)[0]).square().mean(dim=1, keepdim=True)
        hidden = 1 - _seen(visible, error)
        return (error * hidden).sum() / hidden.sum()

    def targets(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be predicted, B×C×S×S, and the mean and deviation of each patch that it lacks."""
        shape = (images.shape[1], self.grid, self.patch, self.grid, self.patch)
        patches = self.canvas(images).unflatten(3, shape[3:]).unflatten(2, shape[1:3])
        mean = patches.mean(dim=(1, 3, 5), keepdim=True)
        deviation = (patches.var(dim=(1, 3, 5), keepdim=True, correction=0) + _EPSILON).sqrt()

        def spread(values: Tensor) -> Tensor:
            return values.expand_as(patches).flatten(4, 5).flatten(2, 3)

        return spread((patches - mean) / deviation), spread(mean), spread(deviation)


def encode_visible(encoder: ConvNeXtPyramid, images: Tensor, visible: Tensor) -> Tensor:
    """The encoder's last map B×C×H×W of the visible patches of images B×C×S×S alone, zero where none is visible.

    Where all are visible it is the map that the encoder itself gives.
    """
    body: Any = encoder.body
    features = body["stem_1"](body["stem_0"](images * _seen(visible, images)))
    for i in range(len(encoder.channels)):
        stage = body[f"stages_{i}"]
        if not isinstance(stage.downsample, nn.Identity):
            norm, convolution = stage.downsample
            features = convolution(norm(features) * _seen(visible, features))
        seen = _seen(visible, features)
        for block in stage.blocks:
            features = _masked_block(block, features, seen)
        features = features * seen
    return features


def _masked_block(block: ConvNeXtBlock, features: Tensor, seen: Tensor) -> Tensor:
    """`block`, from whose depthwise convolution and response normalisation the hidden positions are kept away."""
    order, back = ((0, 1, 2, 3),) * 2 if block.use_conv_mlp else ((0, 2, 3, 1), (0, 3, 1, 2))
    inner = block.norm(block.conv_dw(features * seen).permute(order))
    mlp: Any = block.mlp
    inner = mlp.fc2(mlp.grn(mlp.act(mlp.fc1(inner)) * seen.permute(order)))
    return features + inner.permute(back)


def _seen(visible: Tensor, features: Tensor) -> Tensor:
    """1 at the pixels of a map B×C×H×W of which any patch is visible, else 0: float32 B×1×H×W."""
    return F.adaptive_max_pool2d(visible.float(), features.shape[-2:])


class WindowPartitionAttention(nn.Module):
    """A map B×C×S×S → features B×C: self-attention in each window, and the mean over all positions.

    The window is the one nearest in size to `window` that divides the map.
    """

    def __init__(self, width: int, heads: int, side: int, window: int) -> None:
        super().__init__()
        divisors = [d for d in range(1, side + 1) if side % d == 0]
        self.window = min(divisors, key=lambda d: abs(math.log(d / window)))
        self.norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window_size=self.window)

    def forward(self, features: Tensor) -> Tensor:
        windows = window_partition(features.permute(0, 2, 3, 1), (self.window, self.window)).flatten(1, 2)
        windows = windows + self.attention(self.norm(windows))
        batch = features.shape[0]  # not len(), which would fix its size in an export
        return windows.unflatten(0, (batch, -1)).mean(dim=(1, 2))


class FcmaeWpat(nn.Module):
    """The encoder's stages, each through window-partition attention, side by side in one head; logits B×classes."""

    def __init__(self, classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> None:
        super().__init__()
        shape = SIZES[size]
        self.canvas = Canvas(resolution)
        self.pyramid = ConvNeXtPyramid(size, pretrained, channels)
        self.attention = nn.ModuleList(
            WindowPartitionAttention(width, heads, self.canvas.side // (4 * 2**i), shape.window)
            for i, (width, heads) in enumerate(zip(shape.dims, shape.swin_heads, strict=True))
        )
        self.norm = nn.LayerNorm(sum(shape.dims))
        self.head = linear_head(sum(shape.dims), classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pyramid(self.canvas(images))
        attended = [attend(features) for attend, features in zip(self.attention, maps, strict=True)]
        return self.head(self.norm(torch.cat(attended, dim=1)))


@register("fcmae-wpat", sizes=tuple(SIZES), auto=auto_size)
def fcmae_wpat(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    refuse_unpublished("fcmae-wpat", size, pretrained)
    return FcmaeWpat(classes, resolution, size, pretrained, channels)
