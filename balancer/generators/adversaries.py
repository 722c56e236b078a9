"""What all families' adversaries share: chunks of a batch, and updates over chunks and processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from balancer.generators.config import GeneratorConfig
from balancer.generators.processes import average_over_processes, buffers_together


@dataclass(frozen=True)
class Chunk:
    """A part of a batch that goes through the networks at once, with its own source of random numbers.

    `real`: float N×3×R×R in [−1, 1]; `labels` of these and `fake_labels` of the images to generate: classes, int64 N, or
    attributes, float32 N×31.
    """

    real: Tensor
    labels: Tensor
    fake_labels: Tensor
    rng: torch.Generator


@dataclass
class Adversaries(ABC):
    """A generator, its discriminator and their optimizers, ready to be trained one batch at a time.

    Everything that a resume needs is in `modules` (parameters and buffers; "G", "D", "G_ema" and what else has
    state) and `optimizers`; every random draw of a step comes from its chunks' generators.
    """

    config: GeneratorConfig
    modules: dict[str, nn.Module] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)

    @abstractmethod
    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """One update of all networks on the mean loss over this process's `chunks` of the batch, and over all
        processes' ones. Returns scalars of this process for the log."""

    def update(self, name: str, losses: Iterable[Tensor]) -> Tensor:
        """One step of an optimizer on the mean of the losses, one of each chunk in turn; returns that mean, detached.

        Each loss is backpropagated before the next is computed, so that the chunks' graphs need not fit in
        memory together. Gradients are averaged over the processes, and buffers kept equal.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        parts = []
        with buffers_together(self.modules.values()):
            for loss in losses:
                (loss / self.config.accumulate).backward()
                parts.append(loss.detach())
        average_over_processes(
            [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        )
        optimizer.step()
        return torch.stack(parts).mean()
