"""Losses and regularisers in the papers' symbols: arXiv 1812.04948 (G, D), 1912.04958 (R1 lazily, path length).

The weights and intervals with which they are used are the caller's: lazily every k-th step with weight k
(arXiv 1912.04958, appendix B), R1 every 16th and path length every 4th.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Generator, _randn


def g_nonsaturating(logits_fake: Tensor) -> Tensor:
    """−log σ(D(G(z))) per sample, of logits N×1."""
    return F.softplus(-logits_fake)


def d_logistic(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """−log σ(D(x)) − log(1 − σ(D(G(z)))) per sample, of logits N×1."""
    return F.softplus(-logits_real) + F.softplus(logits_fake)


def r1_penalty(D: Callable[[Tensor, Tensor], Tensor], images: Tensor, c: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² per sample, N, differentiable; the loss is its mean times γ/2 (arXiv 1801.04406).

    ``D`` is any callable of images and classes: to penalise an augmented discriminator, pass the composition.
    """
    x = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x, c).sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def default_gamma(resolution: int, batch: int) -> float:
    """R1's γ = 0.0002·resolution²/batch, the heuristic of arXiv 2006.06676's training configuration."""
    return 0.0002 * resolution**2 / batch


def path_lengths(images: Tensor, ws: Tensor, pl_noise: Tensor) -> Tensor:
    """‖Jᵀ_w y‖₂ per sample, N, differentiable: root mean square over the layers' ws.

    Args:
        images: N×C×H×W, made from ``ws``.
        ws: N×num_ws×w_dim with a gradient.
        pl_noise: y, N×C×H×W, standard normal divided by √(H·W).
    """
    (gradient,) = torch.autograd.grad((images * pl_noise).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class PathLength(nn.Module):
    """(‖Jᵀ_w y‖₂ − a)² per sample, with a the running mean of the lengths (arXiv 1912.04958, equation 4).

    ``pl_mean`` is a; being a buffer, it is saved and restored by the state dict.
    """

    pl_mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("pl_mean", torch.zeros([]))

    def forward(self, images: Tensor, ws: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """images N×C×H×W made from ws N×num_ws×w_dim → N."""
        y = _randn(images.shape, images.device, generator) / sqrt(images.shape[2] * images.shape[3])
        lengths = path_lengths(images, ws, y)
        self.pl_mean.lerp_(lengths.detach().mean(), self.decay)
        return (lengths - self.pl_mean.clone()).square()


def run_generator(
    G: Generator,
    z: Tensor,
    c: Tensor | None,
    style_mixing_prob: float = 0.9,
    generator: torch.Generator | None = None,
    embedding_noise: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One training pass of G: (images, ws), with style mixing and fresh noise (arXiv 1812.04948, section 3.1).

    With probability ``style_mixing_prob`` all ws from a random layer on come from a second latent. Every
    number is drawn from ``generator``, else from PyTorch's global CPU state. ``embedding_noise`` is the
    mapping's.
    """
    ws = G.mapping(z, c, embedding_noise=embedding_noise, generator=generator)
    if style_mixing_prob > 0:
        device = generator.device if generator is not None else "cpu"
        mix, layer = torch.rand(2, generator=generator, device=device).tolist()
        cutoff = 1 + int(layer * (G.num_ws - 1)) if mix < style_mixing_prob else G.num_ws
        z2 = _randn(z.shape, z.device, generator)
        ws2 = G.mapping(z2, c, skip_w_avg_update=True, embedding_noise=embedding_noise, generator=generator)
        ws = torch.cat([ws[:, :cutoff], ws2[:, cutoff:]], dim=1)
    return G.synthesis(ws, "random", generator), ws
