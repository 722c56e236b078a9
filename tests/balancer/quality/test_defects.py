from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from balancer.errors import InputError
from balancer.quality import defects
from balancer.quality.measures import COLOURS

NAMES = [name for name in defects._MEASURES if name != "stain"]
RATE = defects.RATE


def drawn(n: int, seed: int, heavy: bool = False) -> pd.DataFrame:
    """A table as `measures` gives it, of random numbers: half of the measures with tails like |t| with 3 degrees of freedom."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(5, 1, (n, len(NAMES))), columns=NAMES)
    if heavy:
        table.iloc[:, ::2] = 5 + rng.standard_t(3, table.iloc[:, ::2].shape)
    table["lobes"] = rng.integers(1, 4, n).astype(float)
    base = rng.normal(0, 0.05, (n, 1))
    table[COLOURS] = 0.3 + base + rng.normal(0, 0.02, (n, len(COLOURS)))
    return table


@pytest.mark.parametrize("n", [12, 25, 200])
@pytest.mark.parametrize("heavy", [False, True])
def test_real_images_are_rejected_at_the_rate(n: int, heavy: bool) -> None:
    shares = []
    for draw in range(6):
        real = {label: drawn(200, 10 * draw + k, heavy) for k, label in enumerate(("a", "b"))}
        real["small"] = drawn(n, 10 * draw + 5, heavy)
        limits = defects.fit(real)
        reasons = defects.check(drawn(400, 10 * draw + 7, heavy), "small", limits)
        shares.append(np.mean([reason is not None for reason in reasons]))
    # A mean of six shares, each of a limit that scatters by chance. Few images may make it cautious, not careless.
    assert np.mean(shares) < RATE + 0.015
    assert n < 25 or np.mean(shares) > RATE / 3


@pytest.mark.parametrize("heavy", [False, True])
def test_train_images_say_what_is_usual(heavy: bool) -> None:
    """With them images by one measure too large are caught that a few unseen ones let through, and no more real ones are."""
    rejected, caught = [], {True: 0, False: 0}
    for draw in range(6):
        unseen = {label: drawn(20, 10 * draw + k, heavy) for k, label in enumerate(("a", "b", "c"))}
        known = {label: drawn(180, 1000 + 10 * draw + k, heavy) for k, label in enumerate(("a", "b", "c"))}
        limits = {True: defects.fit(unseen, known), False: defects.fit(unseen)}
        for label in unseen:
            fresh = drawn(300, 2000 + draw, heavy)
            rejected += [reason is not None for reason in defects.check(fresh, label, limits[True])]
            fresh["seam"] = 5 + 5.5  # a measure with normal tails
            for with_known, one in limits.items():
                caught[with_known] += sum(reason is not None for reason in defects.check(fresh, label, one))
    assert RATE / 3 < np.mean(rejected) < RATE + 0.015
    assert caught[True] > 1.2 * caught[False]
    assert "from 200 real images, 20 of which no generator was trained on" in limits[True].notes["a"]


def test_a_class_is_checked_where_hardly_any_images_were_held_out() -> None:
    limits = defects.fit(
        {"a": drawn(30, 0), "small": drawn(15, 1)}, {"a": drawn(90, 2), "small": drawn(10, 3)}
    )
    assert limits.limits["a"] is not None and limits.limits["small"] is not None
    reasons = defects.check(drawn(400, 4), "a", limits)
    assert np.mean([reason is not None for reason in reasons]) < 3 * RATE


def test_the_limit_of_a_few_images_is_not_that_of_the_oddest() -> None:
    rng = np.random.default_rng(0)
    own, lent = np.append(rng.uniform(0, 1, 39), 9.0), rng.uniform(0, 1, 2000)
    assert defects._limit(own, np.empty(0)) == 9.0
    assert defects._limit(own, lent) == pytest.approx(
        1 - RATE, abs=0.01
    )  # 40 and 400 images, one of them odd
    own = rng.uniform(0, 2, 4000)
    assert defects._limit(own, lent[:0]) == pytest.approx(2 * (1 - RATE), abs=0.02)
    assert defects._limit(own, lent) == pytest.approx(2 - 2 * RATE * 1.1, abs=0.02)  # a tenth more, all below


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_further_than_real_images_is_named(name: str) -> None:
    limits = defects.fit({"a": drawn(200, 0), "b": drawn(200, 1)})
    measure = defects._MEASURES[name]
    table = drawn(20, 2)
    table[name] = 5 + 30.0 * measure.sign
    reasons = defects.check(table, "a", limits)
    assert all(reason is not None and reason.startswith(measure.told.split("{")[0]) for reason in reasons)
    assert set(defects.surprises(table, "a", limits).idxmax(axis=1)) == {measure.defect}
    table[name] = (
        5 - 30.0 * measure.sign
    )  # the good side, unless another measure looks at the same from there
    assert sum(reason is not None for reason in defects.check(table, "a", limits)) <= 3


def test_stain_off_is_told_from_a_second_batch_of_slides() -> None:
    real = drawn(300, 0)
    real.loc[:40, COLOURS] += 0.5  # some of the real slides are stained more, all colours alike
    limits = defects.fit({"a": real})
    alike, off = drawn(50, 3), drawn(50, 4)
    alike[COLOURS] += 0.5
    off["nucleus_green"] += 0.25
    off["nucleus_red"] -= 0.25
    assert sum(reason is not None for reason in defects.check(alike, "a", limits)) < 8
    reasons = defects.check(off, "a", limits)
    assert sum(reason is not None and reason.startswith("stain off") for reason in reasons) > 40


def test_a_measure_that_no_image_has_decides_nothing() -> None:
    real = {"a": drawn(100, 0), "b": drawn(100, 1)}
    real["a"]["granularity"] = real["b"]["granularity"] = np.nan
    table = drawn(10, 2)
    table["granularity"] = 1e6
    assert sum(r is not None for r in defects.check(table, "a", defects.fit(real))) <= 2


def test_too_few_images_are_said_and_not_judged() -> None:
    limits = defects.fit({"a": drawn(200, 0), "tiny": drawn(4, 1), "small": drawn(20, 2)})
    assert limits.limits["tiny"] is None
    assert "4 real images" in limits.notes["tiny"]
    assert "images of a scatter" in limits.notes["small"] and limits.limits["small"] is not None
    assert defects.check(drawn(3, 3), "tiny", limits) == [None] * 3
    alone = defects.fit({"small": drawn(20, 2)})
    assert alone.limits["small"] is None and "too few to borrow" in alone.notes["small"]
    assert defects.check(drawn(3, 3), "small", alone) == [None] * 3


def test_an_unknown_class_is_refused() -> None:
    limits = defects.fit({"a": drawn(60, 0)})
    with pytest.raises(InputError, match="no class 'c'"):
        defects.check(drawn(3, 1), "c", limits)
    with pytest.raises(InputError, match="no class 'c'"):
        defects.surprises(drawn(3, 1), "c", limits)
