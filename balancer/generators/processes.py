"""The processes that share a training run, through accelerate: who writes, and how tensors are kept equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from balancer.devices import choose_device
from balancer.errors import InputError


def processes(device: torch.device | None = None) -> PartialState:
    """The processes that `torchrun` or `accelerate launch` started, else this one alone.

    The first call forms the group: over gloo when `device` is a CPU, else over the accelerators.
    """
    return PartialState(cpu=device is not None and device.type == "cpu")


def alone(what: str) -> None:
    """Raise InputError where several processes were started for `what`, which one does."""
    if processes(choose_device(None)).num_processes > 1:
        raise InputError(
            f"{what} is made by one process; start the command itself, without torchrun or accelerate."
        )


def own_device(device: torch.device) -> torch.device:
    """`device`, or this process's own one of that kind where several processes share a machine."""
    group = processes(device)
    return group.device if group.num_processes > 1 and device.type != "cpu" else device


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each float tensor, in place, by its mean over the processes; nothing happens with one process."""
    if processes().num_processes > 1 and tensors:
        _replace(tensors, reduce(torch.cat([t.detach().flatten() for t in tensors]), "mean"))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is true in any of the processes; each gets the same answer."""
    return bool(reduce(torch.tensor(int(flag), device=device), "sum"))


@contextmanager
def buffers_together(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep the modules' buffers equal over the processes while each sees other data.

    What every process adds within the block to a float buffer, a running statistic, is averaged; what it adds to an
    integer one, a count, is summed.
    """
    if processes().num_processes == 1:
        yield
        return
    buffers = [b for module in modules for b in module.buffers()]
    before = [b.clone() for b in buffers]
    yield
    for kind, how in ((True, "mean"), (False, "sum")):
        of_kind = [(b, old) for b, old in zip(buffers, before, strict=True) if b.is_floating_point() == kind]
        if of_kind:
            moves = reduce(torch.cat([(b - old).flatten() for b, old in of_kind]), how)
            _replace([b for b, _ in of_kind], moves + torch.cat([old.flatten() for _, old in of_kind]))


@torch.no_grad()
def _replace(tensors: Sequence[Tensor], flat: Tensor) -> None:
    for t, new in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(new.view_as(t))
