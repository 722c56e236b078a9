"""StyleGAN2-ADA in plain PyTorch: networks, losses, augmentation and a reader of official checkpoints.

Written from the papers: StyleGAN (arXiv 1812.04948), StyleGAN2 (1912.04958), adaptive discriminator
augmentation (2006.06676), equalised learning rates (1710.10196), R1 (1801.04406). It loads the official weights
by their own names and computes the same numbers to float32 rounding (relative error below 1e-5), without
custom operators: every second derivative that the penalties need works on any device that PyTorch knows.

What is ours:

- modulated convolution without grouped weights, channels-last activations, an optional bfloat16 for the
  convolutions (``G.synthesis.dtype``, ``D.dtype``), augmentation filters as small matrices: made for CPUs;
- every random number comes from a ``torch.Generator`` given by the caller, else from the global CPU state;
- ``load_official`` rebuilds networks from an official pickle and executes nothing in it.

Tensors in, tensors out; nothing here reads data, prints, or knows of a training loop.
"""

from __future__ import annotations

from .ada import AdaptiveAugmentation
from .augment import PRESETS, AugmentPipe
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
from .official import load_official

__all__ = [
    "PRESETS",
    "AdaptiveAugmentation",
    "AugmentPipe",
    "Discriminator",
    "Generator",
    "PathLength",
    "d_logistic",
    "default_gamma",
    "g_nonsaturating",
    "load_official",
    "path_lengths",
    "r1_penalty",
    "run_generator",
]
