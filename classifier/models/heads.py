"""What a remedy for imbalance changes in the last layer of a network, whatever the network."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.errors import InputError


class CosineHead(nn.Module):
    """Features float B×D → logits s·cos θ, float32 B×K, θ_k the angle between the features and the weights of class k.

    In float32 whatever the precision of the network: at s = 30, logits of bfloat16 lie 0.125 apart.
    """

    def __init__(self, weight: Tensor, s: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.s = s

    def forward(self, features: Tensor) -> Tensor:
        return self.s * F.cosine_similarity(features.float()[:, None], self.weight, dim=-1)


def with_cosine_head(network: nn.Module, classes: int, s: float) -> nn.Module:
    """The network, its last linear layer replaced in place by a `CosineHead` of the same weights."""
    name, head = last_linear(network, classes, "loss ldam changes")
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, CosineHead(head.weight, s))
    return network


def adjustable_head(network: nn.Module, classes: int) -> nn.Linear:
    """The layer whose bias `with_adjusted_logits` shifts; InputError where the network has none."""
    name, head = last_linear(network, classes, "loss logit-adjustment changes")
    if head.bias is None:
        raise InputError(
            f"The last layer ({name}) of this network has no bias, so that its logits cannot be adjusted; "
            "take another --arch, or the loss balanced-softmax."
        )
    return head


@torch.no_grad()
def with_adjusted_logits(network: nn.Module, log_pi: np.ndarray, tau: float = 1.0) -> nn.Module:
    """A copy of the network whose logits are z − τ log π, with the log shares of the classes, float K.

    Menon et al. 2021, arXiv 2007.07314, section 4.1, equation 9. The shift is put into the bias of the last linear layer,
    where it stays with the weights.
    """
    network = copy.deepcopy(network)
    head = adjustable_head(network, len(log_pi))
    head.bias.sub_(torch.as_tensor(tau * log_pi, dtype=head.bias.dtype, device=head.bias.device))
    return network


def last_linear(network: nn.Module, classes: int, what: str) -> tuple[str, nn.Linear]:
    """The layer that yields the logits, by name; InputError where the network ends in anything but one linear layer.

    `what` begins with the option that asks for it, and says what it does to the layer: "loss ldam changes".
    """
    name, last = [
        (name, m) for name, m in network.named_modules() if any(True for _ in m.parameters(recurse=False))
    ][-1]
    if not isinstance(last, nn.Linear) or last.out_features != classes:
        raise InputError(
            f"The {what} the last linear layer, and this network ends in another ({type(last).__name__}); take another "
            f"--arch or --{what.split()[0]}."
        )
    alike = [m for m in network.modules() if isinstance(m, nn.Linear) and m.weight.shape == last.weight.shape]
    if len(alike) > 1:  # distilled networks, whose logits are the mean of two heads
        raise InputError(
            f"The {what} the last linear layer, and this network ends in {len(alike)} of them; take another --arch or "
            f"--{what.split()[0]}."
        )
    return name, last
