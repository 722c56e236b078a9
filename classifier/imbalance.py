"""Remedies for imbalance that cost nothing: losses and samplers, by name.

A loss is made from the class counts of the train split. It gives each image's loss and each image's weight; what is
minimised is the weighted mean Σ w·l / Σ w over the batch, so that a batch may be computed in parts. A sampler is an
endless stream of indices into the train split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LDAM_SCALE = 30.0  # s of Cao et al. 2019: by it the cosines become logits
_DRAWN = 1024  # classes drawn at a time


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Inverse-frequency weights n / (K·n_k), float64 K: their mean over the samples is 1.

    K counts the classes that have samples; an empty class gets 0.

    >>> class_weights(np.array([90, 10])).round(3).tolist()
    [0.556, 5.0]
    """
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def effective_number_weights(counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Weights (1 − β) / (1 − β^n_k), float64 K, brought to a sum of K (Cui et al. 2019, arXiv 1901.05555).

    K counts the classes that have samples; an empty class gets 0. β = 0 gives equal weights, β → 1 those of
    `class_weights` but for a factor.
    """
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = (1 - beta) / (1 - beta ** counts[present])
    return weights * present.sum() / weights.sum()


class CrossEntropy:
    """−log p_y, every image with the same weight; what the other losses begin from."""

    def __init__(self, counts: np.ndarray) -> None:
        self.w = torch.ones(len(counts))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits float B×K and labels int64 B → the loss of each image, float B."""
        return F.cross_entropy(logits, labels, reduction="none")

    def weights(self, labels: Tensor, progress: float) -> Tensor:
        """Labels int64 B → the weight of each image, float B; `progress` is the share of the training that is done."""
        return self.w.to(labels.device)[labels]


class WeightedCrossEntropy(CrossEntropy):
    """−Σ w_y log p_y / Σ w_y over the batch, with inverse-frequency weights w."""

    def __init__(self, counts: np.ndarray) -> None:
        self.w = torch.tensor(class_weights(counts), dtype=torch.float32)


class EffectiveNumber(CrossEntropy):
    """−Σ w_y log p_y / Σ w_y over the batch, w by the effective number of samples (`effective_number_weights`)."""

    def __init__(self, counts: np.ndarray, beta: float = 0.999) -> None:
        self.w = torch.tensor(effective_number_weights(counts, beta), dtype=torch.float32)


class Focal(CrossEntropy):
    """−(1 − p_y)^γ log p_y (Lin et al. 2017, arXiv 1708.02002, without class weights)."""

    def __init__(self, counts: np.ndarray, gamma: float = 2.0) -> None:
        super().__init__(counts)
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        return -((1 - log_p.exp()) ** self.gamma * log_p)


class BalancedSoftmax(CrossEntropy):
    """−log softmax(z + log π)_y with the class shares π (Ren et al. 2020, arXiv 2007.10740). Prediction uses z."""

    def __init__(self, counts: np.ndarray) -> None:
        super().__init__(counts)
        self.log_pi = torch.tensor(log_shares(counts), dtype=torch.float32)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.log_pi.to(logits.device), labels, reduction="none")


class LDAM(CrossEntropy):
    """−log softmax(z − s·Δ_y e_y)_y, z = s·cos θ, Δ_k ∝ n_k^(−1/4) (Cao et al. 2019, arXiv 1906.07413).

    The rarest class has the margin Δ = `margin`. The weights are equal for the first 80 % of the training, then those
    of the effective number of samples: deferred reweighting. The network ends in a `classifier.models.heads.CosineHead`
    of scale s, so that its logits are z.
    """

    def __init__(
        self, counts: np.ndarray, margin: float = 0.5, s: float = LDAM_SCALE, beta: float = 0.9999
    ) -> None:
        super().__init__(counts)
        counts = np.asarray(counts, dtype=np.float64)
        rarest = counts[counts > 0].min()
        self.delta = torch.tensor(margin * (rarest / np.maximum(counts, rarest)) ** 0.25, dtype=torch.float32)
        self.s = s
        self.late = torch.tensor(effective_number_weights(counts, beta), dtype=torch.float32)
        self.deferred = 0.8

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        margins = F.one_hot(labels, logits.shape[1]) * (self.s * self.delta.to(logits.device))
        return F.cross_entropy(logits - margins, labels, reduction="none")

    def weights(self, labels: Tensor, progress: float) -> Tensor:
        w = self.w if progress < self.deferred else self.late
        return w.to(labels.device)[labels]


def log_shares(counts: np.ndarray) -> np.ndarray:
    """log π_k = log(n_k / n), float64 K; an empty class counts as one image, so that its logit is still moved."""
    present = np.maximum(np.asarray(counts, dtype=np.float64), 1)
    return np.log(present / present.sum())


LOSSES: dict[str, Callable[[np.ndarray], CrossEntropy]] = {
    "cross-entropy": CrossEntropy,
    "class-weights": WeightedCrossEntropy,
    "effective-number": EffectiveNumber,
    "focal": Focal,
    "balanced-softmax": BalancedSoftmax,
    "logit-adjustment": CrossEntropy,  # after the training its logits are adjusted: `classifier.models.heads`
    "ldam": LDAM,
}
# Those that allow for the class counts of the train split themselves: with balanced batches they would do it twice.
CORRECTING = ("class-weights", "effective-number", "balanced-softmax", "logit-adjustment", "ldam")


def _shuffled(items: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Go through the items in a new order each time, without end."""
    while True:
        yield from rng.permutation(items).tolist()


def natural(labels: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Every image once, in random order, then again."""
    return _shuffled(np.arange(len(labels)), rng)


def balanced(labels: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Every class equally often; within a class every image once before any comes again."""
    present = np.unique(labels)
    members = _members(labels, present, rng)
    for k in _shuffled(present, rng):
        yield next(members[k])


def square_root(labels: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """A class with probability ∝ √n_k (Kang et al. 2020, arXiv 1910.09217, q = ½); within it as `balanced`."""
    present, counts = np.unique(labels, return_counts=True)
    members = _members(labels, present, rng)
    p = np.sqrt(counts) / np.sqrt(counts).sum()
    while True:
        for k in rng.choice(present, size=_DRAWN, p=p).tolist():
            yield next(members[k])


def _members(labels: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> dict[int, Iterator[int]]:
    return {int(k): _shuffled(np.flatnonzero(labels == k), rng) for k in present}


SAMPLINGS: dict[str, Callable[[np.ndarray, np.random.Generator], Iterator[int]]] = {
    "natural": natural,
    "balanced": balanced,
    "square-root": square_root,
}


def batches(labels: np.ndarray, batch_size: int, sampling: str, seed: int) -> Iterator[np.ndarray]:
    """Endless batches int64 B of indices into `labels` (int64 N), drawn by a sampling named in SAMPLINGS."""
    stream = SAMPLINGS[sampling](np.asarray(labels), np.random.default_rng(seed))
    while True:
        yield np.fromiter(stream, dtype=np.int64, count=batch_size)
