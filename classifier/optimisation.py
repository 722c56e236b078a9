"""How the weights of a classifier are moved: optimizer, learning rate and running average."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

import timm.optim
import torch
from timm.utils import ModelEmaV3
from torch import nn

from balancer.errors import InputError
from classifier.config import TrainingConfig
from classifier.models.timm_network import TimmNetwork

# How the parameters of networks that do not say it themselves follow each other: the stem, the stages, and after them
# all that is new (timm's `group_matcher`).
_STEM = r"(?!.*(?:stages|layers?)[_.]?\d).*(?:stem|patch_embed|conv1|bn1)"
_STAGES = r".*?(?:stages|layers?)[_.]?(\d+)"


class Schedule(Protocol):
    """What of a configuration the learning rate of a step depends on."""

    @property
    def steps(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def warmup(self) -> float: ...


def make_optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW without decay on norms and biases; with `layer_decay` earlier layers move less (`lr_scale` of a group).

    Every parameter is in one group. Raises InputError for a `layer_decay` of a network whose layers have no known order.
    """
    if config.layer_decay == 1:
        groups = timm.optim.param_groups_weight_decay(network, config.weight_decay)
    else:
        body: Any = (
            network.body if isinstance(network, TimmNetwork) else network
        )  # timm's own knows its order
        ordered = True
        if not hasattr(body, "group_matcher"):
            body.group_matcher = lambda coarse: {"stem": _STEM, "stages": _STAGES}
            ordered = any(re.match(_STAGES, name) for name, _ in body.named_parameters())
        groups = timm.optim.param_groups_layer_decay(
            body, config.weight_decay, layer_decay=config.layer_decay
        )
        if not ordered or len({group["lr_scale"] for group in groups}) == 1:
            raise InputError(
                f"The layers of {config.arch} have no known order, so that a layer_decay of {config.layer_decay} cannot slow "
                "the earlier ones; leave --layer-decay away, or take another --arch."
            )
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def set_learning_rate(config: Schedule, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give every group the learning rate of `step` (from 0)."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * group.get("lr_scale", 1.0) * learning_rate_factor(config, step)


def learning_rate_factor(config: Schedule, step: int) -> float:
    """Share of the learning rate at `step` (from 0): a linear rise over `warmup`, then half a cosine to 0."""
    rise = config.warmup * config.steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (config.steps - rise))))


def running_average(config: TrainingConfig, network: nn.Module) -> ModelEmaV3 | None:
    """The running average of the weights, if there is to be one; its decay rises to `ema` from none."""
    return ModelEmaV3(network, decay=config.ema, use_warmup=True) if config.ema else None
