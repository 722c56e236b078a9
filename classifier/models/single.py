"""Networks of one backbone: ConvNeXt V2 alone, Swin alone and ResNet-18."""

from __future__ import annotations

from torch import Tensor, nn

from classifier.models.backbones import (
    SIZES,
    Canvas,
    ConvNeXtPyramid,
    SwinPyramid,
    auto_size,
    linear_head,
    refuse_unpublished,
    timm_model,
)
from classifier.models.registry import register


class PyramidClassifier(nn.Module):
    """One of the hybrid's pyramids with a head of its own, on the mean of the last map; logits B×classes."""

    def __init__(self, canvas: Canvas, pyramid: ConvNeXtPyramid | SwinPyramid, classes: int) -> None:
        super().__init__()
        self.canvas = canvas
        self.pyramid = pyramid
        width = pyramid.channels[-1]
        self.norm = nn.LayerNorm(width)
        self.head = linear_head(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pyramid(self.canvas(images))[-1].mean(dim=(2, 3))))


@register("convnextv2", sizes=tuple(SIZES), auto=auto_size)
def convnextv2(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    refuse_unpublished("convnextv2", size, pretrained)
    return PyramidClassifier(Canvas(resolution), ConvNeXtPyramid(size, pretrained, channels), classes)


@register("swin", sizes=tuple(SIZES), auto=auto_size)
def swin(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    refuse_unpublished("swin", size, pretrained)
    canvas = Canvas(resolution)
    return PyramidClassifier(canvas, SwinPyramid(size, canvas.side, pretrained, channels), classes)


@register("resnet18", sizes=("18",), auto=lambda resolution, pretrained: "18")
def resnet18(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    # From 32 px on: below, oneDNN's bfloat16 weight gradient of a strided convolution on one pixel is garbage.
    return nn.Sequential(
        Canvas(resolution, least=32),
        timm_model("resnet18", pretrained, num_classes=classes, in_chans=channels),
    )
