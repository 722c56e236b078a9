"""What can be decided: by draws of made-up features, against KID's own functions and against what must hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from balancer.errors import InputError
from balancer.quality import kid, power
from balancer.quality.gate import load_rules

RULES = load_rules() | {"power": load_rules()["power"] | {"sizes": [15, 60], "draws": 60, "most_real": 300}}


def features(n: int, shift: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(1.0, 0.4, (n, 32)) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def classes() -> dict[str, np.ndarray]:
    return {"a": features(300, 0.0, 1), "b": features(300, 0.15, 2), "c": features(12, 0.6, 3)}


def test_draws_are_judged_as_the_gate_judges(classes: dict[str, np.ndarray]) -> None:
    pool = power._Pool("a", classes, RULES, seed=0)
    i, j = pool._draws(20, 30, share=0.5)
    verdicts, margins, halves = pool._judge(i, j)
    both = np.concatenate([classes["a"], classes["b"]])
    assert pool.nearest == "b" and (j >= 300).any() and (j < 300).any()
    for d in range(5):
        assert len({*i[d], *j[d]}) == 50  # without replacement
        x, y = both[i[d]], both[j[d]]
        ci = kid.interval(x, y)
        margin = 0.25 * min(kid.compute(x, classes["b"]), kid.compute(x, classes["c"]))
        assert ci is not None and margins[d] == pytest.approx(margin)
        assert halves[d] == pytest.approx((ci[1] - ci[0]) / 2)
        assert verdicts[d] == kid.decide(ci, margin)


def test_more_images_decide_more(classes: dict[str, np.ndarray]) -> None:
    few, many, own = [r for r in power.decidable(classes, {"a": 40}, RULES) if r.label == "a"]
    assert (few.real, many.real, own.real, own.synthetic, own.own) == (15, 60, 40, 60, True)
    for row in (few, many, own):
        assert sum(row.verdicts.values()) == pytest.approx(1) and not row.repeated
        assert row.margin == pytest.approx(0.25 * kid.compute(classes["a"], classes["b"]), rel=0.3)
    assert few.half_width > 2 * many.half_width
    assert many.passes > few.passes and many.verdicts["fail"] < 0.1
    assert many.detected is not None and many.detected_share is not None
    assert many.detected > many.margin  # below it a set is not to be failed
    assert few.detected is None or few.detected > many.detected


def test_images_drawn_twice_give_the_widths_of_different_ones(classes: dict[str, np.ndarray]) -> None:
    """A class of 30 images, judged at 30 real and 30 synthetic ones, beside 30 of 300."""
    rules = RULES | {"power": RULES["power"] | {"sizes": [30], "draws": 400}}
    (true,) = power.decidable({"a": classes["a"], "b": classes["b"]}, {}, rules)[:1]
    found = [
        power.decidable({"a": features(30, 0.0, seed), "b": classes["b"]}, {}, rules)[0] for seed in range(5)
    ]
    assert all(row.repeated for row in found) and not true.repeated
    assert np.mean([row.half_width for row in found]) == pytest.approx(true.half_width, rel=0.15)
    assert np.mean([row.passes for row in found]) == pytest.approx(true.passes, abs=0.15)


def test_same_seed_same_table_and_a_sentence_for_each_class(classes: dict[str, np.ndarray]) -> None:
    rows = power.decidable(classes, {"c": 12}, RULES, seed=3)
    assert rows == power.decidable(classes, {"c": 12}, RULES, seed=3)
    assert all(len(row.cells()) == len(power.COLUMNS) for row in rows)
    sentences = power.advice(rows, RULES)
    assert len(sentences) == 3 and "with the 12 that the gate has" in sentences[2]


class Real:
    root, resolution = Path("cells"), 8

    def __init__(self, **counts: int) -> None:
        self.counts, self.classes = counts, tuple(counts)

    def class_index(self, label: str) -> int:
        return self.classes.index(label)

    def images_of(self, label: str, splits: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
        assert "test" not in splits
        n = self.counts[label] if "train" in splits else 0
        rng = np.random.default_rng(self.class_index(label))
        images = rng.normal(80 + 40 * self.class_index(label), 30, (n, 8, 8, 3)).clip(0, 255).astype(np.uint8)
        return images, pd.DataFrame(
            {"file_name": [f"{i}.png" for i in range(n)], "split": "train"}, dtype=object
        )


class Pixels:
    name, sha256, dimension = "pixels", "0" * 64, 192

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), -1) / 255).astype(np.float32)


def test_of_a_dataset() -> None:
    rows = power.gate_power(Real(a=40, b=40, few=9), Pixels(), RULES)
    assert {row.label for row in rows} == {"a", "b"}  # with 9 images the gate judges nothing
    assert [row.real for row in rows if row.own] == [40, 40]
    document = json.loads(json.dumps(power.power_document(rows, Pixels(), RULES), allow_nan=False))
    assert document["features"]["name"] == "pixels" and len(document["rows"]) == len(rows)
    with pytest.raises(InputError, match="at least two are needed"):
        power.gate_power(Real(a=40, few=9), Pixels(), RULES)
