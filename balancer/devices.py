"""Which device to compute on, and in which precision."""

from __future__ import annotations

import torch

from balancer.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is; InputError when the machine has no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # what stands on meta, for one, is no number
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"There is no device '{name}' here ({reason}); try --device cpu.") from None
    return device


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies in bfloat16, rather than emulating it, which is slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
