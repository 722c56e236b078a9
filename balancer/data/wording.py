"""Parts of the sentences in which the readers of images report: numbers, and names that may be many."""

from __future__ import annotations

from collections.abc import Sequence


def number(n: int, one: str, many: str) -> str:
    """A number with the words that go with it.

    >>> number(1, "image was", "images were"), number(2, "image was", "images were")
    ('1 image was', '2 images were')
    """
    return f"{n} {one if n == 1 else many}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a sentence."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def lines(sentences: Sequence[str], most: int = 20) -> str:
    """Each sentence on an indented line of its own, the first `most` of them, then how many more there are."""
    more = [f"… and {len(sentences) - most} more."] if len(sentences) > most else []
    return "".join(f"\n  {sentence}" for sentence in [*sentences[:most], *more])
