"""Random states that are functions of a run's seed and a number, so that none has to be saved."""

from __future__ import annotations

import numpy as np

_STREAMS = {"data": 1, "step": 2, "samples": 3, "diversity": 4, "condition": 5}


def derive(seed: int, stream: str, *numbers: int) -> int:
    """A seed in [0, 2⁶³), independent between streams (the keys of `_STREAMS`) and numbers."""
    sequence = np.random.SeedSequence([seed, _STREAMS[stream], *numbers])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
