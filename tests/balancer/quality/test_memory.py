"""Judgements kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balancer.quality import memory
from balancer.quality.memory import key_of
from balancer.quality.memory import remembered as keep  # before the tests' fixture makes it forget

KEY = "0" * 64


def remembered(key: str, make: Callable[[], Any]) -> Any:
    return keep(key, make, lambda made: {"kept": made}, lambda value: value["kept"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))


def test_what_was_made_once_is_not_made_again() -> None:
    assert remembered(KEY, lambda: {"value": [0.1, None]}) == {"value": [0.1, None]}
    assert remembered(KEY, lambda: {"value": "other"}) == {"value": [0.1, None]}
    assert remembered("1" * 64, lambda: {"value": "other"}) == {"value": "other"}


def test_a_damaged_or_missing_place_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(memory, "note", notes.append)
    remembered(KEY, lambda: {"value": 1})
    (path,) = tmp_path.rglob("*.json")
    for damaged in ("", "{", "null", "[]", "{}", '"text"'):
        path.write_text(damaged)
        assert remembered(KEY, lambda: {"value": 2}) == {"value": 2}
        assert remembered(KEY, lambda: {"value": 3}) == {"value": 2}
        assert "cannot be read" in notes.pop() and not notes, damaged
    assert remembered("2" * 64, lambda: float("nan")) != 0 and "cannot be kept" in notes.pop()
    monkeypatch.setenv("HEMABALANCE_CACHE", "/proc/nowhere")
    assert remembered(KEY, lambda: {"value": 4}) == {"value": 4}
    assert "cannot be kept" in notes.pop()


def test_keys_tell_arrays_of_other_type_shape_value_or_order_apart() -> None:
    a, b = np.arange(6, dtype=np.uint8), np.zeros(6, dtype=np.uint8)
    names = np.array(["x", "y"], dtype=object)
    keys = [
        key_of(a),
        key_of(a.reshape(2, 3)),
        key_of(a.astype(np.int8)),
        key_of(b),
        key_of(a, b),
        key_of(b, a),
    ]
    keys += [key_of(names), key_of(names[::-1]), key_of("x"), key_of(["x"]), key_of("x", "y"), key_of("xy")]
    assert len(set(keys)) == len(keys)
    assert key_of(a, names, {"p": 1, "q": 2}) == key_of(a.copy(), names.copy(), {"q": 2, "p": 1})
