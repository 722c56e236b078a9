"""ConvNeXt V2 and Swin feature pyramids from timm, in sizes from seconds on a CPU to the published models.

ConvNeXt V2: Woo et al. 2023, arXiv 2301.00808. Swin: Liu et al. 2021, arXiv 2103.14030.
"""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.errors import InputError

_STRIDE = 32  # between an input pixel and a pixel of the fourth stage


@dataclass(frozen=True)
class Size:
    """Shape of both pyramids. `published` names the parts whose weights timm can fetch."""

    convnext: str
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    swin_dim: int
    swin_depths: tuple[int, ...]
    swin_heads: tuple[int, ...]
    window: int
    published: frozenset[str] = frozenset()

    @property
    def stages(self) -> tuple[int, ...]:
        return tuple(range(len(self.dims)))


SIZES = {
    "micro": Size("convnextv2_atto", (32, 64, 128), (1, 2, 1), 32, (1, 2, 1), (1, 2, 4), 4),
    "atto": Size(
        "convnextv2_atto",
        (40, 80, 160, 320),
        (2, 2, 6, 2),
        40,
        (2, 2, 2, 2),
        (2, 4, 8, 16),
        7,
        frozenset({"convnextv2"}),
    ),
    "tiny": Size(
        "convnextv2_tiny",
        (96, 192, 384, 768),
        (3, 3, 9, 3),
        96,
        (2, 2, 6, 2),
        (3, 6, 12, 24),
        7,
        frozenset({"convnextv2", "swin"}),
    ),
}


def auto_size(resolution: int, pretrained: bool) -> str:
    """`tiny` above 128 px or where published weights are wanted, `atto` above 64 px, else `micro`."""
    if pretrained or resolution > 128:
        return "tiny"
    return "atto" if resolution > 64 else "micro"


class Canvas(nn.Module):
    """Enlarge images B×C×R×R to the side that a pyramid works on: a multiple of 32, at least 64 px.

    Below that the last maps would have less than a window of pixels; enlarging costs less than it gains.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.side = max(2 * _STRIDE, -(-resolution // _STRIDE) * _STRIDE)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.side:
            return images
        return F.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)


def published(build: str, **options: object) -> nn.Module:
    """`timm.create_model`; InputError with a sentence when published weights cannot be fetched."""
    try:
        return timm.create_model(build, **options)
    except Exception as error:
        if not options.get("pretrained"):
            raise
        # The hub's client raises a dozen types of its own, its HTTP library's and OSError.
        raise InputError(
            f"The published weights of {build} could not be fetched ({type(error).__name__}: {error}); "
            "connect to the network once so that they are cached, or train from scratch."
        ) from error


def refuse_unpublished(name: str, size: str, parts: set[str], pretrained: bool) -> None:
    """Raise InputError when `pretrained` weights are asked for that nobody has published."""
    if pretrained and not parts <= SIZES[size].published:
        known = [other for other, shape in SIZES.items() if parts <= shape.published]
        raise InputError(
            f"There are no published weights of {name} in size {size}; take {' or '.join(known)}."
        )


class ConvNeXtPyramid(nn.Module):
    """ConvNeXt V2 stages: images B×3×S×S → one map B×C×H×W per stage, strides 4, 8, 16 (and 32)."""

    def __init__(self, size: str, pretrained: bool) -> None:
        super().__init__()
        shape = SIZES[size]
        options = {} if "convnextv2" in shape.published else {"stem_type": "overlap"}
        self.body = published(
            shape.convnext,
            pretrained=pretrained,
            features_only=True,
            out_indices=shape.stages,
            dims=_four(shape.dims),
            depths=_four(shape.depths),
            **options,
        )
        self.channels: list[int] = self.body.feature_info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)


class SwinPyramid(nn.Module):
    """Swin stages: images B×3×S×S → one map B×C×H×W per stage (timm's B×H×W×C turned)."""

    def __init__(self, size: str, side: int, pretrained: bool) -> None:
        super().__init__()
        shape = SIZES[size]
        self.body = published(
            "swin_tiny_patch4_window7_224",
            pretrained=pretrained,
            features_only=True,
            out_indices=shape.stages,
            img_size=side,
            strict_img_size=False,
            window_size=shape.window,
            embed_dim=shape.swin_dim,
            depths=_four(shape.swin_depths),
            num_heads=_four(shape.swin_heads),
            drop_path_rate=0.0,
        )
        self.channels: list[int] = self.body.feature_info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        return [feature.permute(0, 3, 1, 2) for feature in self.body(images)]


def _four(values: tuple[int, ...]) -> tuple[int, ...]:
    """timm describes four stages; those beyond the last one asked for are built and dropped."""
    return (values + (values[-1],) * 4)[:4]
