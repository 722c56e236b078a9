from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.gate import made, proof
from benchmarks.gate.made import CASES, GOOD

LABELS = ("lymphocyte", "neutrophil")


class Coarse:
    """Means of colour over an 8×8 grid: 192 features."""

    name, sha256, dimension = "coarse", "0" * 64, 192

    def __call__(self, images: np.ndarray) -> np.ndarray:
        side = images.shape[1] // 8
        blocks = images.reshape(len(images), 8, side, 8, side, 3)
        return (blocks.mean(axis=(2, 4)) / 64).reshape(len(images), -1).astype(np.float32)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, write_set: Callable[..., None]) -> Path:
    """A folder with one set of two rendered classes, 90 images each."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "pbc", LABELS, 90)
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One draw of two classes at n = 15, and one painted class."""
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "RESOLUTION": {"pbc": 64, "segwbc": 64},
        "SIZES": (15,),
        "REAL_DRAWS": {15: 4},
        "EVERY_DRAWS": {15: 2},
        "PAINTED_SHARES": (0.2, 1.0),
        "PAINTED_ON": (("pbc", "neutrophil"), ("segwbc", "neutrophil")),
        "inception": Coarse,
    }.items():
        monkeypatch.setattr(proof, name, value)


def test_copies_are_failed_as_copies_and_what_is_done_is_kept(
    sets: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = proof.table(sets, tmp_path / "jobs")
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in text.splitlines()}
    assert set(CASES) <= set(rows)
    assert rows[GOOD][1:3] == ["15", "4"] and rows[GOOD][6] == "0"  # draws, and none failed
    for name in ("exact copies", "flipped copies", "recompressed copies", "half good, half copies"):
        assert rows[name][2] == "2" and rows[name][6] == "2" and rows[name][9] == "2 of 2 (100%)", name
    assert rows["smooth chromatin"][0] and "Not found" in text and "segwbc" in text

    monkeypatch.setattr(proof, "judge_candidates", None)  # nothing is judged again
    assert proof.table(sets, tmp_path / "jobs") == text


def test_draws_of_a_class_are_disjoint_nested_and_repeatable() -> None:
    pool = np.zeros((90, 8, 8, 3), np.uint8)
    first, again, other = (made.cut("a", pool, 30, number) for number in (0, 0, 1))
    parts = [first.train, first.held_out, first.synthetic]
    assert len(np.unique(np.concatenate(parts))) == 90
    assert first.train.max() < made.train_side(90) <= min(first.held_out.min(), first.synthetic.min())
    assert np.array_equal(first.synthetic, again.synthetic)
    assert not np.array_equal(first.synthetic, other.synthetic)
    assert np.array_equal(made.cut("a", pool, 15, 0).synthetic, first.synthetic[:15])
    assert made.fits(90, 30) and not made.fits(90, 31)


@pytest.mark.parametrize("name", CASES)
def test_every_set_has_its_size_and_is_made_alike_twice(name: str) -> None:
    rng = np.random.default_rng(0)
    pools = {label: rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8) for label in "ab"}
    draw = made.cut("a", pools["a"], 16, 0)
    images, again = (CASES[name].make(draw, pools) for _ in range(2))
    assert images.shape == (16, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert (name == GOOD) == np.array_equal(images, pools["a"][draw.synthetic])
    if "copies" not in name:  # no image of the generator's is among what is judged
        known = pools["a"][draw.train]
        assert not any((known == image).all(axis=(1, 2, 3)).any() for image in images)


def test_a_bad_set_that_is_let_through_is_counted() -> None:
    row = {"set": "pbc", "label": "a", "n": 15, "causes": [], "images": 15, "rejected": {}}
    rows = pd.DataFrame([row | {"case": GOOD, "verdict": "fail"}, row | {"case": "noise", "verdict": "warn"}])
    assert "| all | 1 | 1 |" in proof.by_set(rows) and "| 1 | 1 | 2.5% to 100.0% |" in proof.by_set(rows)
    assert "| noise | 15 | 1 | 0 | 1 | 0 | 0 | 1 of 1 (100%) |" in proof.verdicts(rows)
