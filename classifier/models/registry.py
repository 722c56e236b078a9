"""The registry of classifier networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from balancer.errors import InputError, unknown_name

Build = Callable[[int, int, str, bool], nn.Module]  # (classes, resolution, size, pretrained) -> network
AutoSize = Callable[[int, bool], str]  # (resolution, pretrained) -> size


@dataclass(frozen=True)
class _Entry:
    build: Build
    sizes: tuple[str, ...]
    auto: AutoSize


_ENTRIES: dict[str, _Entry] = {}


def register(name: str, sizes: Sequence[str], auto: AutoSize) -> Callable[[Build], Build]:
    """Enter a network under `name`; `auto` chooses among `sizes` by resolution and by whether pretrained."""

    def enter(build: Build) -> Build:
        _ENTRIES[name] = _Entry(build, tuple(sizes), auto)
        return build

    return enter


def available() -> list[str]:
    """Names of all networks, sorted."""
    return sorted(_ENTRIES)


def resolve_size(name: str, size: str, resolution: int, pretrained: bool = False) -> str:
    """The size that `size` stands for: itself, or the network's choice for `auto`.

    Raises InputError when the network or the size does not exist.
    """
    if name not in _ENTRIES:
        raise unknown_name("classifier network", name, available())
    entry = _ENTRIES[name]
    if size == "auto":
        return entry.auto(resolution, pretrained)
    if size not in entry.sizes:
        raise unknown_name(f"size of {name}", size, ["auto", *entry.sizes])
    return size


def create_model(
    name: str, classes: int, resolution: int, size: str = "auto", pretrained: bool = False
) -> nn.Module:
    """Build a network: float32 B×3×R×R (normalised, R = `resolution`) → logits B×`classes`.

    Weights are drawn from torch's global generator: seed it (`torch.random.fork_rng`, `torch.manual_seed`).
    Raises InputError for an unknown name or size, for impossible numbers, and when `pretrained` weights do not
    exist or cannot be fetched.
    """
    if classes < 2:
        raise InputError(f"A classifier needs at least 2 classes; got {classes}.")
    if resolution < 8:
        raise InputError(f"A classifier needs images of at least 8×8 pixels; got {resolution}×{resolution}.")
    size = resolve_size(name, size, resolution, pretrained)
    return _ENTRIES[name].build(classes, resolution, size, pretrained)
