"""Progress, notes and stages on stderr, drawn with rich: what the command line installs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 30.0


class RichDisplay:
    """Bars with remaining time on a terminal; a line now and then where stderr is a file or a pipe."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._begun = time.monotonic()
        self._noted: set[str] = set()

    def track(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        if not self.console.is_terminal:
            yield from self._lines(iterable, description, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield from progress.track(iterable, total=total, description=description)

    def _lines(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        begun = last = time.monotonic()
        for done, item in enumerate(iterable):
            now = time.monotonic()
            if now - last > _SECONDS_BETWEEN_LINES:
                last = now
                left = f", {_clock((now - begun) / done * (total - done))} left" if total and done else ""
                self._print(f"  {description}: {done} of {total or '?'}{left}")
            yield item

    def note(self, sentence: str) -> None:
        if sentence not in self._noted:  # a cache that cannot be read says so at every use
            self._noted.add(sentence)
            self._print(f"  {sentence}")

    def stage(self, name: str) -> None:
        self._print(f"\n[{_clock(time.monotonic() - self._begun)}] {name}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table on stdout; numbers stand to the right."""
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    rows = [list(row) for row in rows]
    for index, column in enumerate(table.columns):
        if all(isinstance(row[index], int | float) for row in rows):
            column.justify = "right"
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else escape(str(value)) for value in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
