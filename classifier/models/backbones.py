"""ConvNeXt V2 and Swin feature pyramids from timm, in sizes from seconds on a CPU to the published models.

ConvNeXt V2: Woo et al. 2023, arXiv 2301.00808. Swin: Liu et al. 2021, arXiv 2103.14030. Convolutional stems:
Xiao et al. 2021, arXiv 2106.14881.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from timm.layers import grn
from torch import Tensor, nn

from balancer.errors import InputError

_TINY = 1e-12  # under a root, whose slope would be infinite where a channel is 0
_STRIDE = 32  # input pixels to a pixel of the fourth stage


@dataclass(frozen=True)
class Size:
    """Shapes of both pyramids. Only where `published`, weights are fetched, and so the stems are the papers' patches.

    ConvNeXt V2's `atto` to `tiny` are the paper's; the Swin pyramid, published from `tiny` on, has their widths.
    """

    convnext: str
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    swin_dim: int
    swin_depths: tuple[int, ...]
    swin_heads: tuple[int, ...]
    window: int
    published: bool = False


SIZES = {
    "micro": Size("convnextv2_atto", (32, 64, 128), (1, 2, 1), 32, (1, 2, 1), (1, 2, 4), 4),
    "atto": Size("convnextv2_atto", (40, 80, 160, 320), (2, 2, 6, 2), 40, (2, 2, 2, 2), (2, 4, 8, 16), 7),
    "femto": Size("convnextv2_femto", (48, 96, 192, 384), (2, 2, 6, 2), 48, (2, 2, 2, 2), (2, 4, 8, 16), 7),
    "pico": Size("convnextv2_pico", (64, 128, 256, 512), (2, 2, 6, 2), 64, (2, 2, 2, 2), (2, 4, 8, 16), 7),
    "nano": Size("convnextv2_nano", (80, 160, 320, 640), (2, 2, 8, 2), 80, (2, 2, 4, 2), (4, 8, 16, 32), 7),
    "tiny": Size(
        "convnextv2_tiny",
        (96, 192, 384, 768),
        (3, 3, 9, 3),
        96,
        (2, 2, 6, 2),
        (3, 6, 12, 24),
        7,
        published=True,
    ),
}


def auto_size(resolution: int, pretrained: bool) -> str:
    """`tiny` above 128 px or where published weights are wanted, `atto` above 64 px, else `micro`."""
    if pretrained or resolution > 128:
        return "tiny"
    return "atto" if resolution > 64 else "micro"


class Canvas(nn.Module):
    """Enlarge images B×C×R×R to the side that a network works on: a multiple of 32, at least `least` px.

    The pyramids want 64 px, or their last maps would have less than a window of pixels.
    """

    def __init__(self, resolution: int, least: int = 64) -> None:
        super().__init__()
        self.side = max(least, -(-resolution // _STRIDE) * _STRIDE)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.side:
            return images
        return F.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)


class ConvNeXtPyramid(nn.Module):
    """ConvNeXt V2 stages: images B×C×S×S → one map B×C×H×W per stage, strides 4, 8, 16 (and 32)."""

    channels: list[int]

    def __init__(self, size: str, pretrained: bool, channels: int = 3) -> None:
        super().__init__()
        shape = SIZES[size]
        self.body = timm_model(
            shape.convnext,
            pretrained,
            in_chans=channels,
            features_only=True,
            out_indices=tuple(range(len(shape.dims))),
            dims=_four(shape.dims),
            depths=_four(shape.depths),
        )
        if not shape.published:
            self.body["stem_0"] = convolutional_stem(shape.dims[0], channels)
            self.body["stem_1"] = nn.Identity()
        self.channels = self.body.feature_info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)


class SwinPyramid(nn.Module):
    """Swin stages: images B×C×S×S → one map B×C×H×W per stage (timm's B×H×W×C turned), strides as above."""

    channels: list[int]

    def __init__(self, size: str, side: int, pretrained: bool, channels: int = 3) -> None:
        super().__init__()
        shape = SIZES[size]
        self.body = timm_model(
            "swin_tiny_patch4_window7_224",
            pretrained,
            in_chans=channels,
            features_only=True,
            out_indices=tuple(range(len(shape.swin_depths))),
            img_size=side,
            strict_img_size=False,
            window_size=shape.window,
            embed_dim=shape.swin_dim,
            depths=_four(shape.swin_depths),
            num_heads=_four(shape.swin_heads),
            drop_path_rate=0.0,  # 0.1 in timm's published recipe, ConvNeXt's is 0; short trainings want none
        )
        if not shape.published:
            self.body["patch_embed"].proj = convolutional_stem(shape.swin_dim, channels)
        self.channels = self.body.feature_info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [feature.permute(0, 3, 1, 2) for feature in self.body(images)]


class GlobalResponseNorm(nn.Module):
    """x → x (1 + γ n) + β, n = ‖x_c‖₂ over the map of a channel c, over its mean over the channels (ConvNeXt V2, section 3.2).

    Maps float B×H×W×C or B×C×H×W, with the parameters of timm's `layer`, whose place it takes: in this order it passes over the
    map less often, which on a CPU is a third of a training step of `convnextv2_atto`.
    """

    def __init__(self, layer: grn.GlobalResponseNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.space, self.channel, self.shape = layer.spatial_dim, layer.channel_dim, layer.wb_shape

    def forward(self, x: Tensor) -> Tensor:
        squares = x.float().square().sum(dim=self.space, keepdim=True)
        norm = (squares + _TINY).sqrt()
        n = norm / (norm.mean(dim=self.channel, keepdim=True) + self.eps)
        scale = 1 + self.weight.view(self.shape) * n
        return torch.addcmul(self.bias.view(self.shape).to(x.dtype), x, scale.to(x.dtype))


def with_own_norms(model: nn.Module) -> nn.Module:
    """The model, timm's global response norms in it replaced in place by `GlobalResponseNorm` of the same parameters."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, grn.GlobalResponseNorm):
                setattr(parent, name, GlobalResponseNorm(child))
    return model


def convolutional_stem(width: int, channels: int) -> nn.Module:
    """Images → maps of stride 4 by two overlapping convolutions with batch norm.

    From scratch in a few hundred steps it learns far faster than patches do (PBC, 32 px, 150 steps of 64:
    macro-F1 0.79 against 0.69).
    """
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )


def linear_head(width: int, classes: int) -> nn.Linear:
    """Features → logits, which start near zero: every class equally likely."""
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def timm_model(name: str, pretrained: bool, **options: Any) -> Any:
    """`timm.create_model` with own norms; InputError with a sentence when published weights cannot be fetched.

    Where the hub's name is not known and no proxy knows it, its client is told so: it would try for most of a minute.
    """
    client, offline = huggingface_hub.constants, huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        client.HF_HUB_OFFLINE = offline or (pretrained and not _hub_is_known())
        return with_own_norms(timm.create_model(name, pretrained=pretrained, **options))
    except Exception as error:
        if not pretrained:
            raise
        # The hub's client raises types of its own, of its HTTP library, and OSError.
        raise InputError(
            f"The published weights of {name} could not be fetched ({type(error).__name__}: {error}); "
            "run once with access to the Hugging Face hub so that they are cached, or train from scratch."
        ) from error
    finally:
        client.HF_HUB_OFFLINE = offline


def _hub_is_known() -> bool:
    if getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, None))
    except OSError:
        return False


def refuse_unpublished(name: str, size: str, pretrained: bool) -> None:
    """Raise InputError when `pretrained` weights are asked for that nobody has published."""
    if pretrained and not SIZES[size].published:
        known = " or ".join(other for other, shape in SIZES.items() if shape.published)
        raise InputError(f"There are no published weights of {name} in size {size}; take size {known}.")


def refuse_without_weights(name: str) -> InputError:
    """The error for `pretrained` weights of a network that has none in any size."""
    return InputError(f"There are no published weights of {name}; train it from scratch.")


def _four(values: tuple[int, ...]) -> tuple[int, ...]:
    """timm describes four stages, and drops those beyond the last one asked for."""
    return (values + (values[-1],) * 4)[:4]
