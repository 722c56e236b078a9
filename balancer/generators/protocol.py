"""What the training loop and synthesis ask of a family of generators."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from balancer.generators.adversaries import Adversaries
from balancer.generators.config import GeneratorConfig


class GeneratorFamily(Protocol):
    """One entry of the registry: how to build its adversaries, and how to sample from its generator alone.

    `adversaries` and `network_config` take a configuration that `resolve` has completed.
    """

    def resolve(self, config: GeneratorConfig, resolution: int) -> GeneratorConfig:
        """The configuration with the family's defaults for everything that was left open (None)."""
        ...

    def adversaries(
        self, config: GeneratorConfig, classes: int, resolution: int, device: torch.device
    ) -> Adversaries:
        """Freshly initialised networks; the caller has seeded torch."""
        ...

    def network_config(self, config: GeneratorConfig, classes: int, resolution: int) -> dict:
        """Constructor arguments of the generator network, as they stand in the checkpoint's metadata."""
        ...

    def generator(self, network: dict) -> nn.Module:
        """The generator network for these constructor arguments, untrained."""
        ...

    def latents(self, network: dict, seeds: list[int]) -> Tensor:
        """Latent vectors, float32 N×z, the i-th drawn from the i-th seed alone."""
        ...

    def sample(self, generator: nn.Module, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
        """Images, float N×3×R×R in [−1, 1] (not yet clipped); the same input gives the same image.

        `labels`: classes, int64 N, or attributes, float32 N×31, by the condition that the generator was trained with.
        """
        ...
