"""StyleGAN2-ADA in plain PyTorch, our own implementation."""

from __future__ import annotations

from .loss import (
    PathLength,
    d_logistic,
    default_gamma,
    g_nonsaturating,
    path_lengths,
    r1_penalty,
    run_generator,
)
from .networks import Discriminator, Generator

__all__ = [
    "Discriminator",
    "Generator",
    "PathLength",
    "d_logistic",
    "default_gamma",
    "g_nonsaturating",
    "path_lengths",
    "r1_penalty",
    "run_generator",
]
