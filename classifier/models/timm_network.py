"""Any network of timm as a classifier, by its name there."""

from __future__ import annotations

import difflib
from functools import cache

import timm
import torch
from torch import Tensor, nn

from balancer.errors import InputError
from classifier.models.backbones import Canvas, refuse_without_weights, timm_model

PREFIX = "timm:"


class TimmNetwork(nn.Module):
    """A network of timm behind the canvas that it works on; logits B×classes."""

    def __init__(self, canvas: Canvas, body: nn.Module) -> None:
        super().__init__()
        self.canvas = canvas
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.canvas(images))


def check_timm_name(name: str) -> None:
    """Raise InputError, with the nearest name there is, when `name` (`timm:NAME`) is none of timm's."""
    wanted = name.removeprefix(PREFIX)
    if wanted not in _names():
        near = difflib.get_close_matches(wanted.lower(), _names(), n=1, cutoff=0.5)
        hint = (
            f" Did you mean '{PREFIX}{near[0]}'?" if near else " `timm.list_models()` lists those there are."
        )
        raise InputError(f"There is no network '{wanted}' in timm {timm.__version__}.{hint}")


def timm_network(
    name: str, classes: int, resolution: int, size: str, pretrained: bool, channels: int
) -> nn.Module:
    """Build `timm:NAME` for images of `resolution`.

    They are enlarged to a multiple of 32, at least 64 px. A network that cannot work on that gets images of the size
    that it was published for. Whether it can is tried on one image. Raises InputError when it can do neither.
    """
    wanted = name.removeprefix(PREFIX)
    if pretrained and not timm.models.is_model_pretrained(wanted):
        raise refuse_without_weights(name)
    canvas = Canvas(resolution)
    published = timm.get_pretrained_cfg(wanted)
    sides = [canvas.side] + ([published.input_size[-1]] if published else [])
    for side in sides:
        canvas.side = side
        body = timm_model(wanted, pretrained, num_classes=classes, in_chans=channels)
        try:
            if hasattr(body, "set_input_size"):
                body.set_input_size(img_size=(side, side))
            with torch.inference_mode():
                logits = body.eval()(torch.zeros(1, channels, side, side))
            fits = isinstance(logits, Tensor) and logits.shape == (1, classes)
            reason = "" if fits else "it gives no logits of one image"
        except Exception as error:  # of whatever type a network of timm's happens to raise
            reason = str(error) or type(error).__name__
        if not reason:
            return TimmNetwork(canvas, body.train())
    raise InputError(
        f"{name} cannot classify images of {resolution}×{resolution} pixels ({reason}); take another network."
    )


@cache
def _names() -> list[str]:
    """timm's networks, and those with the tag of published weights."""
    return list(dict.fromkeys(timm.list_models() + timm.list_models(pretrained=True)))
