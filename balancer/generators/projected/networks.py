"""The discriminators of a projected GAN: one small network on each map of the feature pyramid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from balancer.generators.projected.features import WIDTHS, shown_side
from vendor.stylegan2_ada.networks import minibatch_std

EMBEDDING = 64
GROUP = 4  # images that are compared with each other


class Discriminator(nn.Module):
    """Five conditional discriminators, one on each feature map, down to a logit each (arXiv 2111.01007, 3.2).

    Convolutions with spectral normalisation, batch normalisation and leaky rectifiers; before the last, the deviation
    within groups of images is appended (arXiv 1710.10196), without which images of a class shared their background.
    The `scale` that gives each map unit standard deviation is set by the first features that pass, and saved.
    `condition` is the weight λ of the class; what is left, 1 − λ, goes to the mean over all classes. Where attributes stand
    for classes, a logit is the sum over the image's attributes over the root of their number: as large as one for a class.
    """

    scale: Tensor

    def __init__(self, classes: int, resolution: int, width: int = 64) -> None:
        super().__init__()
        size = shown_side(resolution)
        self.heads = nn.ModuleList(
            _Head(channels, size >> (i + 1), classes, width) for i, channels in enumerate(WIDTHS)
        )
        self.register_buffer("scale", torch.zeros(len(WIDTHS)))
        self.dtype = torch.float32
        self.condition = 1.0

    def forward(self, features: list[Tensor], c: Tensor) -> Tensor:
        """Maps of the pyramid and classes, one-hot N×classes, or attributes, multi-hot N×values, to float32 logits N×5, that of the finest map first."""
        if not self.scale.any():
            self.scale.copy_(torch.stack([1 / x.detach().float().std() for x in features]))
        c = F.normalize(c, dim=1)
        if self.condition < 1:
            c = self.condition * c + (1 - self.condition) / c.shape[1]
        with torch.autocast(c.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scaled = [x * s for x, s in zip(features, self.scale.to(features[0].dtype), strict=True)]
            logits = [head(x, c) for head, x in zip(self.heads, scaled, strict=True)]
        return torch.stack(logits, dim=1)


class _Head(nn.Module):
    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > 4:
            wide = width * 2 if size <= 8 else width
            layers += [
                spectral_norm(nn.Conv2d(channels, wide, 4, 2, 1, bias=False)),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(0.2),
            ]
            channels, size = wide, size // 2
        self.layers = nn.Sequential(*layers)
        self.final = spectral_norm(nn.Conv2d(channels + 1, EMBEDDING, size))
        self.embedding = nn.Embedding(classes, EMBEDDING)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        varied = minibatch_std(self.layers(x), GROUP)
        h = self.final(varied).flatten(1).float()
        projections = h @ F.normalize(self.embedding.weight, dim=1).T
        return (projections * c).sum(1)
