"""Remedies for imbalance that cost nothing: losses and samplers, by name.

A loss is made from the class counts of the train split and called with logits float B×K and labels int64 B;
it returns the batch mean. A sampler is an endless stream of indices into the train split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


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


class CrossEntropy:
    """−log p_y."""

    def __init__(self, counts: np.ndarray) -> None:
        pass

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


class WeightedCrossEntropy:
    """−Σ w_y log p_y / Σ w_y over the batch, with inverse-frequency weights w."""

    def __init__(self, counts: np.ndarray) -> None:
        self.w = torch.tensor(class_weights(counts), dtype=torch.float32)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weight=self.w.to(logits.device))


class Focal:
    """−(1 − p_y)^γ log p_y (Lin et al. 2017, arXiv 1708.02002, without class weights)."""

    def __init__(self, counts: np.ndarray, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        return -((1 - log_p.exp()) ** self.gamma * log_p).mean()


class LogitAdjustment:
    """−log softmax(z + τ log π)_y with the class shares π (Menon et al. 2021, arXiv 2007.07314, eq. 10).

    With τ = 1 this is the balanced softmax (Ren et al. 2020, arXiv 2007.10740). Prediction uses z unchanged.
    A class without samples counts as one, so that its logit is still pushed down.
    """

    def __init__(self, counts: np.ndarray, tau: float = 1.0) -> None:
        present = np.maximum(np.asarray(counts, dtype=np.float64), 1)
        self.adjustment = torch.tensor(tau * np.log(present / present.sum()), dtype=torch.float32)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.adjustment.to(logits.device), labels)


LOSSES: dict[str, Callable[[np.ndarray], Loss]] = {
    "cross-entropy": CrossEntropy,
    "class-weights": WeightedCrossEntropy,
    "focal": Focal,
    "logit-adjustment": LogitAdjustment,
}


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
    members = {int(k): _shuffled(np.flatnonzero(labels == k), rng) for k in present}
    for k in _shuffled(present, rng):
        yield next(members[k])


SAMPLINGS: dict[str, Callable[[np.ndarray, np.random.Generator], Iterator[int]]] = {
    "natural": natural,
    "balanced": balanced,
}


def batches(labels: np.ndarray, batch_size: int, sampling: str, seed: int) -> Iterator[np.ndarray]:
    """Endless batches int64 B of indices into `labels` (int64 N), drawn by a sampling named in SAMPLINGS."""
    stream = SAMPLINGS[sampling](np.asarray(labels), np.random.default_rng(seed))
    while True:
        yield np.fromiter(stream, dtype=np.int64, count=batch_size)
