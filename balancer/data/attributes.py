"""The morphological attributes of a cell, in the vocabulary of WBCAtt (Tsutsui et al. 2023, arXiv 2306.13531)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from balancer.errors import InputError, unknown_name

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "cell_size": ("big", "small"),
    "cell_shape": ("round", "irregular"),
    "nucleus_shape": (
        "unsegmented-round",
        "unsegmented-indented",
        "unsegmented-band",
        "segmented-bilobed",
        "segmented-multilobed",
        "irregular",
    ),
    "nuclear_cytoplasmic_ratio": ("low", "high"),
    "chromatin_density": ("densely", "loosely"),
    "cytoplasm_vacuole": ("no", "yes"),
    "cytoplasm_texture": ("clear", "frosted"),
    "cytoplasm_colour": ("light blue", "blue", "purple blue"),
    "granule_type": ("nil", "small", "round", "coarse"),
    "granule_colour": ("nil", "pink", "red", "purple"),
    "granularity": ("no", "yes"),
}
"""Attribute → its values, both in a fixed order: that of the columns and of the indices in arrays."""

UNKNOWN = -1
_DETAILS = ("granule_type", "granule_colour")  # of granules, nil where there are none
_GAP = "unknown"  # in a text column of a prepared split
N_VALUES = sum(map(len, ATTRIBUTES.values()))


def attribute_indices(table: pd.DataFrame, where: Path | str) -> np.ndarray:
    """The attributes of images, int64 N×11, in the order of `ATTRIBUTES`: indices of values, -1 where unknown.

    `table`: a row for each image, a column for each attribute that is known of any; an empty field is unknown, and so is
    "unknown", which `prepare` writes where a whole split has none. `where` it
    comes from is for the errors. Where what is said of granules contradicts itself, `granularity` decides, as in `completed`.
    Raises InputError for a value outside the vocabulary, with the nearest there is.
    """
    return _resolved(_indices(table, where))


def contradictory(table: pd.DataFrame, where: Path | str) -> np.ndarray:
    """Of which images it is said that there are granules, and that there are none: bool N. As `attribute_indices` otherwise."""
    found = _indices(table, where)
    return ((found != _resolved(found)) & (found != UNKNOWN)).any(axis=1)


def _resolved(indices: np.ndarray) -> np.ndarray:
    """A copy where nothing is said of granules that contradicts `granularity`."""
    indices = indices.copy()
    of = {name: indices[:, list(ATTRIBUTES).index(name)] for name in (*_DETAILS, "granularity")}
    for name in _DETAILS:
        said, nil = of[name] != UNKNOWN, ATTRIBUTES[name].index("nil")
        of[name][said & _says(of, "granularity", "no")] = nil
        of[name][_says(of, name, "nil") & _says(of, "granularity", "yes")] = UNKNOWN
    return indices


def _says(of: Mapping[str, np.ndarray], name: str, value: str) -> np.ndarray:
    return of[name] == ATTRIBUTES[name].index(value)


def _indices(table: pd.DataFrame, where: Path | str) -> np.ndarray:
    """As the columns say it."""
    indices = np.full((len(table), len(ATTRIBUTES)), UNKNOWN, dtype=np.int64)
    for k, (name, values) in enumerate(ATTRIBUTES.items()):
        if name not in table:
            continue
        column = table[name]
        known = (column.notna() & (column.astype(str) != _GAP)).to_numpy()
        texts = column[known].astype(str)
        for value in texts.unique():
            if value not in values:
                problem = unknown_name(f"value of {name}", value, values)
                raise InputError(f"{where} has what is outside the vocabulary of attributes. {problem}")
        indices[known, k] = texts.map(values.index).to_numpy(dtype=np.int64)
    return indices


def multi_hot(indices: np.ndarray) -> np.ndarray:
    """Attributes as vectors, float32 N×31, from their indices, int N×11.

    There is an entry for each value, attribute after attribute as in `ATTRIBUTES`: 1 where the image has it, else 0. An
    unknown attribute has zeros alone.
    """
    sizes = [len(values) for values in ATTRIBUTES.values()]
    first = np.cumsum(sizes) - sizes
    vectors = np.zeros((len(indices), N_VALUES), dtype=np.float32)
    rows, columns = np.nonzero(indices != UNKNOWN)
    vectors[rows, first[columns] + indices[rows, columns]] = 1
    return vectors


def attribute_values(indices: np.ndarray) -> dict[str, str]:
    """The known attributes of one image by name, from its indices, int 11."""
    return {
        name: values[int(index)]
        for (name, values), index in zip(ATTRIBUTES.items(), indices, strict=True)
        if index != UNKNOWN
    }


def check_attributes(values: Mapping[str, str]) -> dict[str, str]:
    """`values` in the order of the vocabulary; InputError for an attribute or a value that it does not have."""
    for name, value in values.items():
        if name not in ATTRIBUTES:
            raise unknown_name("attribute", name, ATTRIBUTES)
        if value not in ATTRIBUTES[name]:
            raise unknown_name(f"value of {name}", value, ATTRIBUTES[name])
    return {name: values[name] for name in ATTRIBUTES if name in values}


def completed(attributes: Mapping[str, str]) -> dict[str, str]:
    """`attributes` with what follows from them about granules, in the order of the vocabulary.

    No granules, type nil and colour nil are one fact: each of them gives the other two. Granules of a type or a colour are
    granules. Where the three contradict each other, `granularity` decides, and without it neither of the others counts.
    Raises InputError for an attribute or a value that the vocabulary does not have.
    """
    facts = check_attributes(attributes)
    details = {name: facts.pop(name) for name in _DETAILS if name in facts}
    votes = {value != "nil" for value in details.values()}
    if "granularity" not in facts and len(votes) == 1:
        facts["granularity"] = "yes" if votes == {True} else "no"
    if facts.get("granularity") == "no":
        facts |= {"granule_type": "nil", "granule_colour": "nil"}
    elif facts.get("granularity") == "yes":
        facts |= {name: value for name, value in details.items() if value != "nil"}
    return check_attributes(facts)


def check_consistent(values: Mapping[str, str]) -> None:
    """Raise InputError where what is said of granules contradicts itself: that there are some, and that there are none."""
    granules = {name: value != "nil" for name, value in values.items() if name.startswith("granule_")}
    if "granularity" in values:
        granules["granularity"] = values["granularity"] == "yes"
    if len(set(granules.values())) > 1:
        named = ", ".join(f"{name}={values[name]}" for name in granules)
        raise InputError(
            f"The attributes {named} contradict each other: there are granules or there are none."
        )


def read_attributes(text: str) -> dict[str, str]:
    """The attributes of `attribute=value,attribute=value…`, in the order of the vocabulary.

    >>> read_attributes("nucleus_shape=segmented-bilobed, cell_size=big")
    {'cell_size': 'big', 'nucleus_shape': 'segmented-bilobed'}

    Raises InputError for another form, an attribute that is named twice, and as `check_attributes` does.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise InputError(
                f"'{part.strip()}' is not of the form attribute=value, for example cell_size=big,granularity=no."
            )
        if name in found:
            raise InputError(f"The attribute {name} is named twice; give it once.")
        found[name] = value
    return check_attributes(found)
