"""What stands between images and the discriminator, so that it cannot learn a small training set by heart.

Real and generated images alike go through it, and the gradient comes back through it to the generator. Every
augmentation is a module with a buffer `p`, the probability of each of its operations, and is called as
`augment(images, generator=rng)` with images N×3×R×R, about in [−1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.errors import InputError, unknown_name
from balancer.generators.config import GeneratorConfig

AUGMENTATIONS = ("none", *sg.PRESETS, "diffaugment")


class DiffAugment(nn.Module):
    """Colour, translation and cutout of every image (arXiv 2006.10738), each with probability `p`.

    Colour: brightness plus U(−½, ½), saturation times U(0, 2), contrast times U(½, 3/2). Translation: by whole pixels,
    up to an eighth of the size, grey where the image ends. Cutout: a grey square of half the size, its centre anywhere.
    """

    p: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.ones([]))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """N×C×R×R → the same; every number is drawn from `generator`, else from PyTorch's global CPU state."""
        p = float(self.p)
        if p == 0:
            return images
        n, _, h, w = images.shape
        source = generator.device if generator is not None else "cpu"
        u = torch.rand(10, n, 1, 1, 1, generator=generator, device=source).to(images.device, images.dtype)
        colour, moved, cut = u[:3] < p

        x = images + torch.where(colour, u[3] - 0.5, 0)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * torch.where(colour, 2 * u[4], 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (x - mean) * torch.where(colour, u[5] + 0.5, 1)

        def shifted(share: Tensor, size: int) -> Tensor:
            """The row or column that each comes from, N×1×1×size, from −size/8 on."""
            reach = round(size / 8)
            by = torch.where(moved, (share * (2 * reach + 1)).floor() - reach, 0)
            return torch.arange(size, device=x.device) + by.long()

        rows, columns = shifted(u[6], h).mT, shifted(u[7], w)
        inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
        x = x.gather(2, rows.clamp(0, h - 1).expand_as(x)).gather(3, columns.clamp(0, w - 1).expand_as(x))

        def within(share: Tensor, size: int) -> Tensor:
            """Whether each row or column is in the square, N×1×1×size."""
            start = (share * size).floor() - size // 4
            at = torch.arange(size, device=x.device)
            return (at >= start) & (at < start + size // 2)

        hole = cut & within(u[8], h).mT & within(u[9], w)
        return x * (inside & ~hole)


def augmentation(config: GeneratorConfig) -> sg.AugmentPipe | DiffAugment:
    """The augmentation that a completed configuration names, with the p it begins with.

    `augmentation` is one of `AUGMENTATIONS`: none, a set of the operations of arXiv 2006.06676 (blit, geom, color,
    filter, noise, cutout, or the first of them together: bg, bgc, bgcf, bgcfn, bgcfnc), or diffaugment. p begins at
    `augmentation_p`; where that is None at 1 for diffaugment, else at 0. InputError for a name or p that cannot be.
    """
    name, p = config.augmentation, config.augmentation_p
    assert name is not None
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    if p is not None and not 0 <= p <= 1:
        raise InputError(f"augmentation_p is a probability from 0 to 1, not {p:g}.")
    operations: dict[str, Any] = sg.PRESETS.get(name, {})
    augment = DiffAugment() if name == "diffaugment" else sg.AugmentPipe(**operations)
    augment.p.fill_(p if p is not None else float(name == "diffaugment"))
    return augment


def p_is_free(config: GeneratorConfig) -> bool:
    """Whether p is the family's to move: it was not chosen, and there are operations made for a p that moves."""
    return config.augmentation_p is None and config.augmentation not in ("none", "diffaugment")
