from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from balancer import progress


def test_silent_by_default(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_display", progress._Silent())  # a command may have installed another one
    progress.note("x")
    progress.stage("y")
    assert list(progress.track(iter([1, 2]), "z")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_the_installed_display_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Display:
        def track(self, iterable: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:
            seen.append((description, total))
            yield from iterable

        def note(self, sentence: str) -> None:
            seen.append(sentence)

        def stage(self, name: str) -> None:
            seen.append(name)

    monkeypatch.setattr(progress, "_display", progress._display)
    progress.install(Display())
    assert list(progress.track([1, 2], "bar")) == [1, 2]
    progress.note("note")
    progress.stage("stage")
    assert seen == [("bar", 2), "note", "stage"]
