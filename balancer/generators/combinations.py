"""The combinations of attributes that a generator was trained on, and what it is told to make images of.

A generator is told either classes, int64 N, or attributes, float32 N×31 as `balancer.data.attributes.multi_hot` gives
them. In training some of the attributes are withheld, so that a part of them can be asked for too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from balancer.data.attributes import (
    ATTRIBUTES,
    UNKNOWN,
    attribute_indices,
    check_consistent,
    completed,
    multi_hot,
)
from balancer.errors import InputError, unknown_name
from balancer.generators.seeds import derive

WITHHELD = 0.1  # share of the images of which half of the known attributes are not told in a step: our choice

_NIL = np.array([values.index("nil") if "nil" in values else len(values) for values in ATTRIBUTES.values()])


@dataclass(frozen=True)
class Combinations:
    """Which combinations of attributes there are among train images, and how many images of each class have each.

    `indices`: int64 M×11, each combination once, -1 for an unknown attribute; `counts`: int64 M by label.
    """

    indices: np.ndarray
    counts: dict[str, np.ndarray]

    @classmethod
    def of(cls, table: pd.DataFrame, where: Path | str) -> Combinations:
        """Those of the images in `table`, which has `label` and columns of attributes; raises as `attribute_indices`."""
        indices, member = np.unique(attribute_indices(table, where), axis=0, return_inverse=True)
        counts = {
            str(label): np.bincount(member.reshape(-1)[rows], minlength=len(indices))
            for label, rows in table.groupby("label").indices.items()
        }
        return cls(indices, counts)

    def draw(self, values: Mapping[str, str], seeds: Sequence[int], label: str | None = None) -> np.ndarray:
        """Combinations with these values, int64 N×11, the i-th a function of the i-th seed alone.

        Attributes that are not asked for, and do not follow from what is (`completed`), come from a combination that agrees
        with as many of `values` as any among the images of `label` (of all classes, if None), drawn in proportion to its
        images; where it has no granules and some are asked for, their type and colour are unknown. Raises InputError for a
        class without images, for an attribute or a value that there is not, and for granules asked for and denied.
        """
        if label is not None and label not in self.counts:
            raise unknown_name("class", label, self.counts)
        check_consistent(values)
        facts = completed(values)
        asked = attribute_indices(pd.DataFrame([facts]), "What is asked for")[0]
        chosen = asked != UNKNOWN
        images = np.sum(list(self.counts.values()), axis=0) if label is None else self.counts[label]
        agreeing = np.where(images > 0, (self.indices == asked)[:, chosen].sum(1), -1)
        cumulated = np.cumsum(np.where(agreeing == agreeing.max(), images, 0))
        shares = [np.random.default_rng(derive(seed, "condition")).random() for seed in seeds]
        which = np.searchsorted(cumulated, np.array(shares) * cumulated[-1], side="right")
        drawn = self.indices[which]
        if facts.get("granularity") == "yes":
            drawn = np.where(drawn == _NIL, UNKNOWN, drawn)
        return np.where(chosen, asked, drawn)

    def to_json(self) -> dict[str, Any]:
        """The vocabulary, and for each class its combinations (indices, with commas) and their numbers of images."""
        names = [",".join(map(str, row)) for row in self.indices.tolist()]
        return {
            "vocabulary": {name: list(values) for name, values in ATTRIBUTES.items()},
            "combinations": {
                label: {name: n for name, n in zip(names, counts.tolist(), strict=True) if n}
                for label, counts in self.counts.items()
            },
        }

    @classmethod
    def from_json(cls, value: Any, where: Path | str) -> Combinations:
        """What `to_json` gave; raises InputError, naming `where`, for another vocabulary and for what is damaged."""
        again = "train again or take another checkpoint"
        try:
            vocabulary, by_label = value["vocabulary"], value["combinations"]
            names = sorted({name for counts in by_label.values() for name in counts})
            indices = np.array([[int(i) for i in name.split(",")] for name in names], dtype=np.int64)
            counts = {
                label: np.array([int(of.get(name, 0)) for name in names], dtype=np.int64)
                for label, of in by_label.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where} is damaged (its attributes: {error!r}); {again}.") from None
        if vocabulary != {name: list(values) for name, values in ATTRIBUTES.items()}:
            raise InputError(f"{where} knows another vocabulary of attributes than this version; {again}.")
        largest = [len(values) - 1 for values in ATTRIBUTES.values()]
        if (
            indices.shape[1:] != (len(ATTRIBUTES),)
            or ((indices < UNKNOWN) | (indices > largest)).any()
            or not all(of.any() for of in counts.values())
        ):
            raise InputError(f"{where} is damaged (its attributes are no combinations); {again}.")
        return cls(indices, counts)


def told(
    classes: Sequence[str], combinations: Combinations | None, label: str, seeds: Sequence[int]
) -> Tensor:
    """What a generator is told for images of a class, one for each seed: the class, int64 N, or attributes, float32 N×31.

    The attributes are those of train images of that class, drawn as `Combinations.draw` does.
    """
    if combinations is None:
        return torch.full((len(seeds),), classes.index(label))
    return torch.from_numpy(multi_hot(combinations.draw({}, seeds, label)))


def withhold(indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The attributes, int64 N×11, with a random half of the known ones unknown in about `WITHHELD` of the images."""
    known = indices != UNKNOWN
    rank = np.where(known, rng.random(indices.shape), 1).argsort(1).argsort(1)
    fewer = rng.random(len(indices)) < WITHHELD
    return np.where(fewer[:, None] & (rank < known.sum(1, keepdims=True) // 2), UNKNOWN, indices)
