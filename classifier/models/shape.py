"""A ResNet-18 whose feature maps are attended by a mask of the cell, after the idea of BMEC's shape-aware network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classifier.models.backbones import Canvas, linear_head, timm_model
from classifier.models.registry import register

_MASK_WIDTH = 16


class ShapeAttention(nn.Module):
    """One stage of the mask branch: its map m' of the stage before and image features f → m, and f attended by it.

        m = ReLU(BN(K m'))      K: 3×3 convolution, of the image stage's stride
        f ← 2 σ(w m + b) ⊙ f    1×1 convolution to one channel: a weight in (0, 2) for every position

    w and b start at 0, so that the image features, pretrained ones too, are at first as they were.
    """

    def __init__(self, before: int, stride: int) -> None:
        super().__init__()
        self.mask = nn.Sequential(
            nn.Conv2d(before, _MASK_WIDTH, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(_MASK_WIDTH),
            nn.ReLU(inplace=True),
        )
        self.weight = nn.Conv2d(_MASK_WIDTH, 1, 1)
        for parameter in self.weight.parameters():
            nn.init.zeros_(parameter)

    def forward(self, mask: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.mask(mask)
        return mask, 2 * torch.sigmoid(self.weight(mask)) * features


class ShapeAware(nn.Module):
    """Images and masks B×(C+1)×R×R → logits B×classes: every stage's maps are attended before the next stage.

    The paper's network is its own; here the backbone is timm's ResNet-18, with the mask as the last input channel.
    """

    def __init__(self, classes: int, resolution: int, pretrained: bool, channels: int) -> None:
        super().__init__()
        self.canvas = Canvas(resolution, least=32)
        self.body = timm_model("resnet18", pretrained, num_classes=0, in_chans=channels)
        self.attention = nn.ModuleList(
            ShapeAttention(before, stride) for before, stride in ((1, 4), *[(_MASK_WIDTH, 2)] * 3)
        )
        self.head = linear_head(self.body.num_features, classes)

    def forward(self, images: Tensor) -> Tensor:
        images = self.canvas(images)
        features, mask = images[:, :-1], images[:, -1:]
        body = self.body
        features = body.maxpool(body.act1(body.bn1(body.conv1(features))))
        stages = (body.layer1, body.layer2, body.layer3, body.layer4)
        for stage, attend in zip(stages, self.attention, strict=True):
            mask, features = attend(mask, stage(features))
        return self.head(features.mean(dim=(2, 3)))


@register("shape", reads_mask=True)
def shape(classes: int, resolution: int, size: str, pretrained: bool, channels: int) -> nn.Module:
    return ShapeAware(classes, resolution, pretrained, channels)
