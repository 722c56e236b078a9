import numpy as np
import pytest
import torch

from benchmarks.classifier_speed import BATCH, our_loop, plain_loop


@pytest.mark.parametrize("make", [lambda *a: our_loop(*a, "float32"), lambda *a: plain_loop(*a, 0, False)])
def test_both_loops_train(make, monkeypatch):
    """The weights move, on batches of the same size."""
    seen = []
    forward = torch.nn.Conv2d.forward

    def watching(self, x):
        seen.append((tuple(x.shape), self.weight.detach().sum().item()))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watching)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    step = make("resnet18", images, np.arange(BATCH) % 4)
    seen.clear()
    for _ in range(2):
        step()
    first, second = (seen[k * len(seen) // 2] for k in range(2))
    assert first[0][:2] == second[0][:2] == (BATCH, 3)
    assert first[1] != second[1]
