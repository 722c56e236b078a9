"""How well one kind of thing finds the other, images texts or texts images: pure functions of similarities."""

from __future__ import annotations

import numpy as np


def recall_at(similarity: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """R@K in [0, 1]: the share of queries with a relevant answer among the `k` most similar ones.

    `similarity`: float Q×N, of each query to each answer. `relevant`: bool Q×N; a query without any relevant answer does
    not count. Of equally similar answers those are taken to come first that are not relevant, so that a constant
    similarity gains nothing. ValueError where no query counts.

    >>> recall_at(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[True, False], [False, True]]), 1)
    0.5
    """
    return float(np.mean([rank[0] <= k for rank in ranks(similarity, relevant)]))


def mean_average_precision(similarity: np.ndarray, relevant: np.ndarray) -> float:
    """mAP in [0, 1]: over the queries the mean of the average precision at the ranks of the relevant answers.

    Arguments, ties and errors as for `recall_at`.

    >>> mean_average_precision(np.array([[0.9, 0.5, 0.1]]), np.array([[True, False, True]])).__round__(3)
    0.833
    """
    return float(np.mean([average_precision(rank) for rank in ranks(similarity, relevant)]))


def average_precision(rank: np.ndarray) -> float:
    """The mean precision at the ranks (from 1, rising) of the relevant answers to one query."""
    return float(np.mean(np.arange(1, len(rank) + 1) / rank))


def ranks(similarity: np.ndarray, relevant: np.ndarray) -> list[np.ndarray]:
    """The ranks (from 1, rising) of the relevant answers to each query that has one; arguments and errors as for `recall_at`."""
    found = []
    for row, wanted in zip(similarity, relevant, strict=True):
        if wanted.any():
            order = np.lexsort((wanted, -row))
            found.append(np.flatnonzero(wanted[order]) + 1)
    if not found:
        raise ValueError("no query has a relevant answer")
    return found
