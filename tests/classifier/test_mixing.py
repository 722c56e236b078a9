from __future__ import annotations

import numpy as np
import pytest
import torch

from classifier.batches import Batch, training_batches
from classifier.config import TrainingConfig
from classifier.imbalance import CrossEntropy
from classifier.mixing import cutmix, mixup
from classifier.objectives import Classification
from classifier.transforms import Transform

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


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_partners_are_drawn_by_class_and_shares_go_with_what_is_seen(mixing: str) -> None:
    labels = np.repeat([0, 1, 2], [180, 15, 5])
    images = (
        np.repeat(50 * labels[:, None, None, None] + 20, 8, axis=1)
        .repeat(8, axis=2)
        .repeat(3, axis=3)
        .astype(np.uint8)
    )
    config = TrainingConfig(batch_size=60, mixing=mixing, sampling="natural", seed=3).resolved()
    drawn = training_batches(images, labels, config, Transform("none"), torch.Generator().manual_seed(0), 0)
    own, partners = np.zeros(3), np.zeros(3)
    for _ in range(30):
        batch = next(drawn)
        (first, share), (second, rest) = batch.targets
        assert share + rest == pytest.approx(1) and torch.equal(
            first, torch.from_numpy(labels)[batch.indices]
        )
        own += np.bincount(first, minlength=3)
        partners += np.bincount(second, minlength=3)
        # The images are of one level for each class: what is seen of it is its share.
        seen = batch.pixels.float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(
            seen, share * (50 * first + 20) + rest * (50 * second + 20), atol=0.01, rtol=0
        )
    assert own / own.sum() == pytest.approx(np.bincount(labels) / 200, abs=0.05)
    assert partners / partners.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.03)


def test_the_loss_of_a_mixed_batch_is_that_of_both_labels_by_their_shares() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    first, second = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 0])
    batch = Batch(torch.zeros(4, 8, 8, 3), ((first, 0.8), (second, 0.2)), torch.arange(4))
    found = Classification(CrossEntropy(np.array([2, 1, 1]))).classified(logits, batch, slice(0, 4), 0.5)
    cross = torch.nn.functional.cross_entropy
    torch.testing.assert_close(found, 0.8 * cross(logits, first) + 0.2 * cross(logits, second))
