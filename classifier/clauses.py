"""What the pieces of a text are said of, and whether they are said to hold."""

from __future__ import annotations

from collections.abc import Sequence

from classifier.lexicon import (
    ANY,
    CELL,
    CHROMATIN,
    FITS,
    GRANULE,
    LITTLE,
    NUCLEUS,
    OTHER,
    VACUOLE,
    Item,
    Meaning,
)

_TRANSPARENT = (
    "size",
    "shape",
    "outline",
    "contour",
    "form",
    "colour",
    "color",
    "texture",
)  # nouns of any noun
_OF_NONE = ("no", "none of", "none of the", "none of its")


def adjectives_of(items: list[Item]) -> tuple[list[tuple[int, str, Meaning | None]], dict[int, int]]:
    """Where adjectives stand, what they are said of and what they mean of it, None for nothing; and nouns → the first adjective before them."""
    found: list[tuple[int, str, Meaning | None]] = []
    described: dict[int, int] = {}
    predicates: set[int] = set()
    for i, item in enumerate(items):
        if item.kind == "word":
            noun = _noun_of(items, i, predicates)
            topic = CELL if noun is None else items[noun].text if noun >= 0 else OTHER
            anywhere = item.means.get(ANY)
            fits = anywhere is not None and topic in FITS[anywhere[0]]
            found.append((i, topic, item.means.get(topic) or (anywhere if fits else None)))
            if noun is not None and noun > i:
                described.setdefault(noun, i)
    return found, described


def _noun_of(items: list[Item], i: int, predicates: set[int]) -> int | None:
    """Index of the noun that the adjective at `i` is said of; None: of the cell; -1: of something unknown.

    `predicates`: adjectives before it that follow their noun, to which it is added where it does too.
    """
    if i + 2 < len(items) and items[i + 1].text == "of":  # a band of cytoplasm, two lobes of the nucleus
        j = i + 2 + (items[i + 2].kind == "article" or items[i + 2].text in ("the", "its"))
        if j < len(items) and items[j].kind == "noun":
            return j
    j = i + 1
    while j + 1 < len(items) and (
        items[j].kind in ("word", "neutral", "seen")
        or (items[j].kind == "unknown" and items[j + 1].kind == "noun")  # a small abnormal lymphocyte
    ):
        j += 1
    if j < len(items) and items[j].kind == "noun":
        while j + 1 < len(items) and items[j + 1].kind == "noun":  # a round cell nucleus
            j += 1
        return j
    before = items[i - 1] if i else Item("stop")
    joined = i > 1 and before.kind in ("and", "or", "comma") and i - 2 in predicates
    b = skip_back(items, i, "neutral", "article", "negator")
    if joined or (b >= 0 and items[b].kind in ("copula", "noun")):
        predicates.add(i)
        return _subject(items, i)
    while j < len(items) and items[j].kind in ("word", "neutral", "and", "or", "comma"):
        j += 1
    if j < len(items) and items[j].kind == "noun" and items[j - 1].kind in ("word", "neutral"):
        return j
    subject = _subject(items, i)
    if subject is None:  # "Round and unsegmented, the nucleus …"
        while j < len(items) and items[j].kind in ("article", "connective") and items[j - 1].kind != "noun":
            if items[j].text not in ("the", "its", "a", "an"):
                break
            j += 1
        if j < len(items) and items[j].kind == "noun" and items[j - 1].kind in ("article", "connective"):
            return j
    if i + 1 < len(items) and items[i + 1].kind == "unknown" and items[i + 1].text not in _TRANSPARENT:
        return -1
    predicates.add(i)
    return subject


def _subject(items: list[Item], i: int) -> int | None:
    """The noun that the clause around `i` is about: the nearest before it but for those that tell where ("of the cell") and what
    the subject has ("a cell without granules is small")."""
    for k in range(i - 1, -1, -1):
        if items[k].kind == "stop":
            return None
        if items[k].kind == "noun":
            b, determined = k - 1, False
            while b >= 0:
                determiner = items[b].kind == "article" or items[b].text in (
                    "the",
                    "this",
                    "its",
                    "no",
                    "any",
                )
                if not determiner and (determined or items[b].kind not in ("word", "neutral")):
                    break
                determined |= determiner
                b -= 1
            where = b >= 0 and items[b].text in ("of", "in", "within", "around", "inside", "from")
            predicate = items[k + 1].kind == "copula" and items[k + 1].text != "being"
            had = b >= 0 and items[b].text in ("with", "without", "lacking") and predicate
            if not (where or had):
                return k
    return None


def is_denied(items: list[Item], i: int) -> bool:
    """Whether the adjective at `i` is said not to hold, be it of none ("none of the granules are red")."""
    k = skip_back(items, i, "word", "neutral", "seen", "article", "and", "or")
    if k >= 0 and items[k].kind == "copula" and (noun := _subject(items, k)) is not None:
        k = skip_back(items, noun, "word", "neutral", "article")
        return k >= 0 and items[k].text in _OF_NONE
    return k >= 0 and items[k].kind == "negator"


def is_there(items: list[Item], noun: int, first: int | None) -> bool | None:
    """Whether the things named at `noun` are said to be there; None where only such of one kind are said not to be.

    `first`: the first of the adjectives that describe them.
    """
    k = (noun if first is None else first) - 1
    unknown, bare, joined, either = 0, True, False, False
    while k >= 0:
        item = items[k]
        if item.kind == "unknown" and unknown < 2:
            unknown += 1
        elif item.kind in ("and", "comma"):
            # "no vacuoles and pink granules", "and has granules" or "and some granules" have granules; "no vacuoles and granules" has none.
            after = items[noun + 1].kind if noun + 1 < len(items) else ""
            if (
                first is not None
                or not bare
                or (item.kind == "comma" and not either and after not in ("and", "or"))
            ):
                break
            joined = True
        elif joined and not either and item.kind in ("having", "copula", "seen"):
            break  # "no granules are seen and vacuoles …"
        elif joined and (
            (item.kind == "word" and items[k + 1].kind in ("word", "noun"))
            or (either and item.kind == "noun")
        ):  # no pink granules or vacuoles, no nucleoli or granules
            pass
        elif not (
            item.kind in ("neutral", "seen", "or", "article", "having", "copula")
            or (item.names(VACUOLE, GRANULE) and items[k + 1].kind != "having")
        ):
            break
        if item.kind == "or":
            joined = either = True
        bare &= item.kind in ("and", "or", "comma", "noun", "word") or item.text == "any"
        k -= 1
    if k >= 0 and items[k].kind == "negator":
        before = skip_back(items, k, "neutral", "copula", "having", "connective", "article")
        part = (
            items[k].text.startswith("none of") and noun + 1 < len(items) and items[noun + 1].kind == "copula"
        )
        if items[k].text in LITTLE or part or (before >= 0 and items[before].kind == "negator"):
            return None
        return False if first is None else None
    k = noun + 1
    while k < len(items) and (
        (
            (items[k].kind in ("copula", "neutral", "and", "or", "connective") or items[k].text == "there")
            and items[k].text not in ("with", "which", "that", "but")
        )
        or (items[k].names(VACUOLE, GRANULE))
    ):
        k += 1
    if k + 1 < len(items) and items[k].kind == "comma" and items[k + 1].kind == "absent":  # "vacuoles: none"
        k += 1
    if k < len(items) and (
        items[k].kind == "absent" or (items[k].text == "lacking" and items[k - 1].kind == "copula")
    ):
        return False if first is None else None
    no = k + 1 if k < len(items) and items[k].text == ":" else k  # "granularity: no"
    ends = no + 1 >= len(items) or items[no + 1].kind in ("stop", "comma", "and")
    if no < len(items) and items[no].text == "no" and ends:
        return False if first is None else None
    if k < len(items) and items[k].text == "not":
        after = items[k + 1].kind if k + 1 < len(items) else "stop"
        if after in ("seen", "stop"):
            return False if first is None else None
    return True


def in_nucleus(items: list[Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are said to be nuclear, or of or in the nucleus."""
    k = past_place(items, i)
    return (i > 0 and items[i - 1].text == "nuclear") or (
        k < len(items) and items[k].names(NUCLEUS, CHROMATIN)
    )


def past_place(items: list[Item], i: int) -> int:
    """Index of what ends the words after the noun at `i` by which it is placed: a noun, a word like "around", or the end of them."""
    k = i + 1
    while k < len(items) and items[k].kind not in ("stop", "comma", "and", "or", "noun"):
        if items[k].text in ("with", "while", "whose", "but", "around", "between"):
            break
        k += 1
    return k


def skip(items: list[Item], k: int, *kinds: str, texts: Sequence[str] = ()) -> int:
    """Index of the first item from `k` on that is neither of these kinds nor one of these texts."""
    while k < len(items) and (items[k].kind in kinds or items[k].text in texts):
        k += 1
    return k


def skip_back(items: list[Item], i: int, *kinds: str, texts: Sequence[str] = ()) -> int:
    """Index of the nearest item before `i` that is neither of these kinds nor one of these texts, -1 where there is none."""
    k = i - 1
    while k >= 0 and (items[k].kind in kinds or items[k].text in texts):
        k -= 1
    return k
