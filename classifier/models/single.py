"""Networks of one backbone: ConvNeXt V2 alone and ResNet-18."""

from __future__ import annotations

from torch import Tensor, nn

from classifier.models.backbones import (
    SIZES,
    Canvas,
    ConvNeXtPyramid,
    auto_size,
    refuse_unpublished,
    timm_model,
)
from classifier.models.registry import register


class ConvNeXtV2(nn.Module):
    """The hybrid's ConvNeXt V2 pyramid with a head of its own; logits B×classes."""

    def __init__(self, classes: int, resolution: int, size: str, pretrained: bool) -> None:
        super().__init__()
        self.canvas = Canvas(resolution)
        self.pyramid = ConvNeXtPyramid(size, pretrained)
        width = self.pyramid.channels[-1]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pyramid(self.canvas(images))[-1].mean(dim=(2, 3))))


@register("convnextv2", sizes=tuple(SIZES), auto=auto_size)
def convnextv2(classes: int, resolution: int, size: str, pretrained: bool) -> nn.Module:
    refuse_unpublished("convnextv2", size, pretrained)
    return ConvNeXtV2(classes, resolution, size, pretrained)


@register("resnet18", sizes=("18",), auto=lambda resolution, pretrained: "18")
def resnet18(classes: int, resolution: int, size: str, pretrained: bool) -> nn.Module:
    # From 32 px on: below, oneDNN's bfloat16 weight gradient of a strided convolution on one pixel is garbage.
    return nn.Sequential(
        Canvas(resolution, least=32), timm_model("resnet18", pretrained, num_classes=classes)
    )
