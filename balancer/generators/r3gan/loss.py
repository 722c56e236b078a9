"""The loss of arXiv 2501.05441, equations 1 to 3, per sample; means and γ/2 are the caller's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def relativistic(logits: Tensor, against: Tensor) -> Tensor:
    """softplus(−(D(a) − D(b))) of pairs, N: how far a is from being judged more real than b (arXiv 1807.00734).

    The discriminator takes real images as a and generated ones as b, the generator the other way round.
    """
    return F.softplus(against - logits)


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² per sample, N, differentiable: R1 of real and R2 of generated images (arXiv 1801.04406).

    `logits` are N, made from `images` N×C×H×W, which have a gradient; no sample's logit depends on another's image.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3))
