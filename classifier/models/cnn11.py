"""The small convolutional network of the leukocyte study (BMC Medical Imaging 2024)."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from classifier.models.backbones import Canvas, linear_head, refuse_without_weights
from classifier.models.registry import Recipe, register

WIDTHS = (32, 64, 128, 256)
DROPOUT = 0.1


def block(before: int, width: int) -> nn.Sequential:
    """Two convolutions 3×3, each with batch norm and ReLU, then dropout: maps B×`before`×H×W → B×`width`×H×W."""
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
    )


@register("cnn11", recipe=Recipe(augmentation="leukocyte", preprocessing=("background",)))
def cnn11(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    """4 blocks, 11 convolutions, 8 batch norms, 8 ReLUs, 4 dropouts, the mean over pixels, and a linear head.

    The study counts its layers and does not say where each stands. Our reading: a block is two convolutions with what
    follows them, and the three convolutions that are left halve the maps between the blocks.
    """
    if pretrained:
        raise refuse_without_weights("cnn11")
    layers: list[nn.Module] = [Canvas(resolution, least=32), block(channels, WIDTHS[0])]
    for before, width in pairwise(WIDTHS):
        layers += [nn.Conv2d(before, before, 3, stride=2, padding=1), block(before, width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear_head(WIDTHS[-1], classes))
