from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from balancer.data.splits import assign_splits, join_groups, long_tail_limits, thin


def table(labels, splits) -> pd.DataFrame:
    return pd.crosstab(np.asarray(labels), splits).reindex(
        columns=["train", "validation", "test"], fill_value=0
    )


def test_ratios_hold_in_every_class() -> None:
    sizes = {"a": 1000, "b": 101, "c": 20, "d": 7}
    labels = np.repeat(list(sizes), list(sizes.values()))
    splits, notes = assign_splits(labels, np.arange(len(labels)))
    found = table(labels, splits)
    assert notes == []
    for label, n in sizes.items():
        assert np.abs(found.loc[label] - n * np.array([0.7, 0.15, 0.15])).max() <= 1.01


@pytest.mark.parametrize(("n", "expected"), [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1])])
def test_tiny_classes(n: int, expected: list[int]) -> None:
    labels = ["big"] * 50 + ["tiny"] * n
    splits, notes = assign_splits(labels, np.arange(len(labels)))
    assert table(labels, splits).loc["tiny"].tolist() == expected
    assert len(notes) == (n < 3)
    assert all("tiny" in sentence for sentence in notes)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_every_class_is_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["a", "b", "c"], 600, p=[0.8, 0.15, 0.05])
    groups = rng.integers(0, 30, 600)
    splits, notes = assign_splits(labels, groups, seed=seed)
    assert (pd.Series(splits).groupby(groups).nunique() == 1).all()
    found = table(labels, splits)
    assert (found > 0).all().all() and notes == []
    assert abs(found["train"].sum() / 600 - 0.7) < 0.08


def test_three_equal_patients_give_one_each() -> None:
    labels = ["a"] * 102 + ["b"] * 102
    groups = np.repeat(np.arange(6), 34)
    splits, _ = assign_splits(labels, groups)
    assert (table(labels, splits) == 34).all().all()


def test_same_seed_same_splits_other_seed_others() -> None:
    labels = ["a"] * 60 + ["b"] * 40
    runs = [assign_splits(labels, np.arange(100), seed=s)[0] for s in (1, 1, 2)]
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()


def test_a_ratio_of_zero_asks_for_nothing() -> None:
    splits, notes = assign_splits(["a"] * 20 + ["b"] * 20, np.arange(40), (0.8, 0.2, 0.0))
    assert set(splits) == {"train", "validation"} and notes == []


def test_groups_join_over_columns_and_pairs() -> None:
    patient = np.array(["p1", "p1", "p2", None, None, "p3"], dtype=object)
    slide = np.array(["s1", "s2", "s2", "s4", np.nan, None], dtype=object)
    groups = join_groups([patient, slide], [(4, 5, 0)], 6)
    assert groups[0] == groups[1] == groups[2]
    assert groups[4] == groups[5] and groups[3] not in (groups[0], groups[4])


def test_thinning_moves_to_heldout_and_spares_test() -> None:
    labels = np.array(["a"] * 200 + ["b"] * 200)
    splits = np.array((["train"] * 140 + ["validation"] * 30 + ["test"] * 30) * 2, dtype=object)
    thinned = thin(labels, splits, {"a": 14})
    a = pd.Series(thinned[labels == "a"]).value_counts()
    assert a.to_dict() == {"train": 14, "validation": 3, "test": 30, "heldout": 153}
    assert (thinned[labels == "b"] == splits[labels == "b"]).all()
    assert (thinned[splits == "test"] == "test").all()
    assert (pd.Series(thin(labels, splits, {"a": 1})[labels == "a"]) == "validation").sum() == 1
    assert (thin(labels, splits, {"a": 500}) == splits).all()


def test_long_tail_is_exponential() -> None:
    limits = long_tail_limits({"a": 1000, "b": 1000, "c": 1000, "d": 5}, 1000)
    assert limits == {"a": 1000, "b": 100, "c": 10, "d": 1}
    assert long_tail_limits({"a": 10, "b": 10}, 5) == {"a": 10, "b": 2}
