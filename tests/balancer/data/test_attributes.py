"""The vocabulary of attributes: indices and back, what is unknown, and what is outside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from balancer import smear
from balancer.data.attributes import (
    ATTRIBUTES,
    N_VALUES,
    attribute_indices,
    attribute_values,
    check_attributes,
    contradictory,
    multi_hot,
    read_attributes,
)
from balancer.errors import InputError
from balancer.smear.attributes import describe


def test_indices_and_values_are_inverse_and_gaps_stay_unknown() -> None:
    table = pd.DataFrame({"granularity": ["yes", None, "no"], "cell_size": ["big", "small", None]})
    indices = attribute_indices(table, "metadata.csv")
    assert indices.shape == (3, 11) and indices.dtype == np.int64
    assert attribute_values(indices[0]) == {"cell_size": "big", "granularity": "yes"}
    assert attribute_values(indices[1]) == {"cell_size": "small"}
    assert attribute_values(attribute_indices(pd.DataFrame(index=[0]), "x")[0]) == {}
    filled = pd.DataFrame(
        {"cell_size": ["unknown", "big"]}
    )  # as `prepare` fills a column that a whole split lacks
    assert [attribute_values(row) for row in attribute_indices(filled, "x")] == [{}, {"cell_size": "big"}]


def test_granularity_decides_where_granules_are_there_and_not() -> None:
    table = pd.DataFrame(
        {
            "granularity": ["no", "yes", "yes", "unknown"],
            "granule_type": ["coarse", "nil", "round", "nil"],
            "granule_colour": ["nil", "red", "red", "red"],
        }
    )
    values = [attribute_values(row) for row in attribute_indices(table, "x")]
    assert values[0] == {"granularity": "no", "granule_type": "nil", "granule_colour": "nil"}
    assert values[1] == {"granularity": "yes", "granule_colour": "red"}
    assert values[2] == {"granularity": "yes", "granule_type": "round", "granule_colour": "red"}
    assert contradictory(table, "x").tolist() == [True, True, False, False]


def test_what_the_renderer_says_is_in_the_vocabulary() -> None:
    cells = smear.draw_cells({"CLL": 50, "neutrophil": 50, "AML": 50}, seed=0)
    table = describe(cells)
    assert list(table) == list(ATTRIBUTES)
    assert (attribute_indices(table, "smear") >= 0).all()


def test_a_value_outside_the_vocabulary_is_named_with_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"metadata.csv.*no value of cell_shape 'rond'.*Did you mean 'round'"
    ):
        attribute_indices(pd.DataFrame({"cell_shape": ["rond"]}), "metadata.csv")
    with pytest.raises(InputError, match="no attribute 'size'"):
        check_attributes({"size": "big"})
    assert list(check_attributes({"granularity": "no", "cell_size": "big"})) == ["cell_size", "granularity"]


def test_vectors_have_an_entry_for_each_value_in_the_vocabulary_s_order() -> None:
    names = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
    assert len(names) == N_VALUES == 31
    for entry, (name, value) in enumerate(names):
        vector = multi_hot(attribute_indices(pd.DataFrame([{name: value}]), "x"))
        assert vector.dtype == np.float32 and np.array_equal(vector, np.eye(31)[[entry]])
    cells = describe(smear.draw_cells({"CLL": 20, "AML": 20}, seed=0))
    assert (multi_hot(attribute_indices(cells, "smear")).sum(1) == 11).all()
    assert multi_hot(np.full((2, 11), -1)).sum() == 0 and multi_hot(np.empty((0, 11), int)).shape == (0, 31)


def test_attributes_are_read_from_a_line_and_refused_with_a_sentence() -> None:
    line = "cytoplasm_colour=light blue, cell_size = big"
    assert read_attributes(line) == {"cell_size": "big", "cytoplasm_colour": "light blue"}
    for wrong, sentence in (
        ("", "'' is not of the form attribute=value"),
        ("cell_size=big,granularity", "'granularity' is not of the form"),
        ("cell_size=big,cell_size=small", "cell_size is named twice"),
        ("size=big", "no attribute 'size'.*Did you mean 'cell_size'"),
        ("cell_size=bigger", "no value of cell_size 'bigger'; known: big, small"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_attributes(wrong)
