"""The running average of a generator's weights, from which images are made."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def average_weights(average: nn.Module, network: nn.Module, images: int, half_life: float) -> None:
    """Move `average` towards `network` by a step of `images` at this half-life in images; 0 copies it."""
    beta = 0.5 ** (images / half_life) if half_life > 0 else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - beta)
    for mean, value in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
