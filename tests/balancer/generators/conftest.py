"""Fixtures that the generators' tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from balancer.generators import train
from balancer.generators.training import Batches


class Killed(Exception):
    pass


@pytest.fixture
def train_until(monkeypatch) -> Callable[..., None]:
    """Train, but be killed before the batch of that number: `train_until(step, data, config, out)`."""
    fetch = Batches.__getitem__

    def run(stop_at, data, config, out):
        def killed(self, step):
            if step == stop_at:
                raise Killed
            return fetch(self, step)

        with monkeypatch.context() as patched:
            patched.setattr(Batches, "__getitem__", killed)
            with pytest.raises(Killed):
                train(data, config, out)

    return run
