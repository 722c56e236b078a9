"""How well one kind of thing finds the other, images texts or texts images: pure functions of similarities."""

from __future__ import annotations

import numpy as np


def average_precision(rank: np.ndarray) -> float:
    """The mean precision, in (0, 1], at the ranks (int, from 1, rising) of the relevant answers to one query.

    >>> average_precision(np.array([1, 3])).__round__(3)
    0.833
    """
    return float(np.mean(np.arange(1, len(rank) + 1) / rank))


def ranks(similarity: np.ndarray, relevant: np.ndarray) -> list[np.ndarray]:
    """The ranks (int, from 1, rising) of the relevant answers to each query that has one.

    `similarity`: float Q×N, of each query to each answer. `relevant`: bool Q×N. Of equally similar answers those are taken
    to come first that are not relevant, so that a constant similarity gains nothing. ValueError where no query has one.
    R@K is the share of queries whose first rank is K or less, mAP the mean of `average_precision`.

    >>> [r.tolist() for r in ranks(np.array([[0.9, 0.5, 0.1], [0.2, 0.2, 0.2]]), np.eye(3, dtype=bool)[[2, 1]])]
    [[3], [3]]
    """
    found = []
    for row, wanted in zip(similarity, relevant, strict=True):
        if wanted.any():
            order = np.lexsort((wanted, -row))
            found.append(np.flatnonzero(wanted[order]) + 1)
    if not found:
        raise ValueError("no query has a relevant answer")
    return found
