"""The registry of classifier networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from balancer.errors import InputError, unknown_name
from classifier.models.timm_network import PREFIX, check_timm_name, timm_network

# (classes, resolution, size, pretrained, channels) -> network
Build = Callable[[int, int, str, bool, int], nn.Module]
AutoSize = Callable[[int, bool], str]  # (resolution, pretrained) -> size
FIXED = "fixed"  # the size of a network that has only one


@dataclass(frozen=True)
class Recipe:
    """What a network's paper does to its images, by the names that a training configuration has for it."""

    augmentation: str = "flips"
    preprocessing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    build: Build
    sizes: tuple[str, ...] = (FIXED,)
    auto: AutoSize = lambda resolution, pretrained: FIXED
    reads_mask: bool = False
    recipe: Recipe = Recipe()


_ENTRIES: dict[str, _Entry] = {}


def register(
    name: str,
    sizes: Sequence[str] = (FIXED,),
    auto: AutoSize = lambda resolution, pretrained: FIXED,
    reads_mask: bool = False,
    recipe: Recipe = Recipe(),
) -> Callable[[Build], Build]:
    """Enter a network under `name`; `auto` chooses among `sizes` by resolution and by whether pretrained."""

    def enter(build: Build) -> Build:
        _ENTRIES[name] = _Entry(build, tuple(sizes), auto, reads_mask, recipe)
        return build

    return enter


def available() -> list[str]:
    """Names of the registered networks, sorted; any name of timm's is one too, as `timm:NAME`."""
    return sorted(_ENTRIES)


def check_name(name: str) -> None:
    """Raise InputError, with the nearest name there is, when `name` is no classifier network."""
    _entry(name)


def reads_mask(name: str) -> bool:
    """Whether the network's last input channel is the cell's mask, beside those of the image."""
    return _entry(name).reads_mask


def recipe(name: str) -> Recipe:
    """What the network's paper does to its images."""
    return _entry(name).recipe


def resolve_size(name: str, size: str, resolution: int, pretrained: bool = False) -> str:
    """The size that `size` stands for: itself, or the network's choice for `auto`.

    Raises InputError when the network or the size does not exist.
    """
    entry = _entry(name)
    if size == "auto":
        return entry.auto(resolution, pretrained)
    if size not in entry.sizes:
        raise unknown_name(f"size of {name}", size, ["auto", *entry.sizes])
    return size


def create_model(
    name: str,
    classes: int,
    resolution: int,
    size: str = "auto",
    pretrained: bool = False,
    channels: int = 3,
) -> nn.Module:
    """Build a network: float32 B×C×R×R (normalised, R = `resolution`) → logits B×`classes`.

    C is `channels`, and one more where `reads_mask(name)`: the mask in {0 background, 0.5 cytoplasm, 1 nucleus}, last.
    Weights are drawn from torch's global generator: seed it (`torch.random.fork_rng`, `torch.manual_seed`).
    Raises InputError for an unknown name or size, for impossible numbers, and when `pretrained` weights do not
    exist or cannot be fetched.
    """
    entry = _entry(name)
    if classes < 2:
        raise InputError(f"A classifier needs at least 2 classes; got {classes}.")
    if resolution < 8:
        raise InputError(f"A classifier needs images of at least 8×8 pixels; got {resolution}×{resolution}.")
    if channels < 1:
        raise InputError(f"A classifier needs images of at least one channel; got {channels}.")
    size = resolve_size(name, size, resolution, pretrained)
    return entry.build(classes, resolution, size, pretrained, channels)


def _entry(name: str) -> _Entry:
    if name.startswith(PREFIX):
        check_timm_name(name)
        return _Entry(partial(timm_network, name))
    if name not in _ENTRIES:
        raise unknown_name("classifier network", name, [*available(), f"{PREFIX}NAME"])
    return _ENTRIES[name]
