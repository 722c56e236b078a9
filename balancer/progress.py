"""Progress and notes of long work, shown by whoever listens; silent by default.

The library never prints. The command line installs a `Display` that draws on stderr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Display(Protocol):
    """What the command line provides."""

    def track(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]: ...

    def note(self, sentence: str) -> None: ...

    def stage(self, name: str) -> None: ...


class _Silent:
    def track(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        yield from iterable

    def note(self, sentence: str) -> None:
        pass

    def stage(self, name: str) -> None:
        pass


_display: Display = _Silent()


def install(display: Display) -> None:
    """Show progress and notes on `display` from now on."""
    global _display
    _display = display


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable` while a bar with remaining time is shown."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return _display.track(iterable, description, total)


def note(sentence: str) -> None:
    """Tell the user something that is no result: a choice made, a warning."""
    _display.note(sentence)


def stage(name: str) -> None:
    """Name the stage of a longer piece of work that begins now."""
    _display.stage(name)
