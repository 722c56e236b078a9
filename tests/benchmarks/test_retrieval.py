"""Retrieval's metrics, against values worked out by hand."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from benchmarks.vision_language import retrieval
from benchmarks.vision_language.retrieval import average_precision, ranks


def test_ranks_are_those_of_the_relevant_answers() -> None:
    similarity = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    relevant = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert [r.tolist() for r in ranks(similarity, relevant)] == [[2, 3], [1]]  # the third has no answer
    assert average_precision(np.array([2, 3])) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(np.array([1, 2, 3])) == 1
    with pytest.raises(ValueError, match="no query"):
        ranks(similarity, np.zeros((3, 3), dtype=bool))


def test_the_examples_are_true() -> None:
    found = doctest.testmod(retrieval)
    assert found.attempted and not found.failed


def test_a_constant_similarity_gains_nothing() -> None:
    (found,) = ranks(np.zeros((1, 5)), np.array([[True, False, False, True, False]]))
    assert found.tolist() == [4, 5]
