"""The controller of the augmentation strength p (arXiv 2006.06676, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .augment import AugmentPipe


class AdaptiveAugmentation(nn.Module):
    """Raises p while the discriminator overfits, that is while r_t = E[sign(D_real)] is above its target.

    Call ``observe`` after every discriminator step and ``adjust`` every few steps (4 in the paper). What was
    observed since the last adjustment is in buffers, so that a resumed run goes on as an uninterrupted one.

    Args:
        target: the value that r_t is held at.
        images: number of real images in which p goes from 0 to 1, all steps going up.
    """

    signs: Tensor
    observed: Tensor

    def __init__(self, target: float = 0.6, images: float = 500_000) -> None:
        super().__init__()
        self.target, self.images = target, images
        self.register_buffer("signs", torch.zeros([], dtype=torch.int64))
        self.register_buffer("observed", torch.zeros([], dtype=torch.int64))

    @torch.no_grad()
    def observe(self, logits_real: Tensor) -> None:
        """Take in the logits of a batch of augmented real images."""
        self.signs += logits_real.sign().sum().long()
        self.observed += logits_real.numel()

    @torch.no_grad()
    def adjust(self, augment: AugmentPipe) -> float:
        """Move ``augment.p``, within [0, 1], by (images observed)/``images`` towards the target; gives r_t.

        Raises:
            ValueError: nothing was observed since the last adjustment.
        """
        n = int(self.observed)
        if n == 0:
            raise ValueError(
                "The augmentation cannot be adjusted before logits of real images were observed."
            )
        r_t = int(self.signs) / n
        direction = (r_t > self.target) - (r_t < self.target)
        augment.p.add_(direction * n / self.images).clamp_(0, 1)
        self.signs.zero_()
        self.observed.zero_()
        return r_t
