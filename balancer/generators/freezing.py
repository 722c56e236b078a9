"""Weights that do not learn: of a network while its opponent is trained, or of some blocks for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from balancer.errors import InputError


def freeze_blocks(blocks: Sequence[Sequence[nn.Module]], number: int) -> None:
    """Keep the weights of the first blocks, which see the image first, as they are (Freeze-D, arXiv 2002.10964).

    Raises InputError when there are not so many blocks.
    """
    if not 0 <= number <= len(blocks):
        raise InputError(
            f"The discriminator has {len(blocks) or 'no'} blocks that can be frozen, not {number}; "
            f"choose freeze_discriminator {f'from 0 to {len(blocks)}' if blocks else 0}."
        )
    for block in blocks[:number]:
        for module in block:
            module.requires_grad_(False)


@contextmanager
def held(network: nn.Module) -> Iterator[None]:
    """Within this, no weight of the network has a gradient; afterwards those have one that had it before."""
    learning = [p for p in network.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
