from __future__ import annotations

import numpy as np
import pytest
import torch

from classifier.mixing import cutmix, mixup

ZEROS = torch.zeros(3, 20, 20, 4, dtype=torch.uint8)
ONES = torch.full((3, 20, 20, 4), 200, dtype=torch.uint8)


def test_mixup_is_the_weighted_sum_and_its_share_is_beta() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        mixed, share = mixup(ONES, ZEROS, rng)
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, ONES * torch.tensor(share, dtype=torch.float32))
        shares.append(share)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 5.6, abs=0.01)


def test_cutmix_pastes_one_rectangle_and_its_share_is_what_is_left() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        mixed, share = cutmix(ONES, ZEROS, rng)
        assert mixed.dtype == torch.uint8
        pasted = (mixed == 0).all(dim=3)
        assert torch.equal(pasted, (mixed == 0).any(dim=3))
        assert pasted.float().mean().item() == pytest.approx(1 - share, abs=1e-6)
        assert (pasted == pasted[:1]).all()  # one share, one place in a batch
        rows, columns = pasted[0].any(1), pasted[0].any(0)
        assert torch.equal(pasted[0], rows[:, None] & columns[None])
        shares.append(share)
    # Without the border 1 − λ would be uniform; a window of u·side is cut off to (u − u²/4)·side on average
    u = np.sqrt(np.random.default_rng(1).uniform(size=200_000))
    assert np.mean(shares) == pytest.approx(1 - np.mean((u - u**2 / 4) ** 2), abs=0.04)
    assert (ONES == 200).all()
