"""What a text says beside the attributes that it states."""

from __future__ import annotations

import re
from collections import Counter

from classifier.clauses import adjectives_of, in_nucleus, is_denied, is_there, past_place, skip, skip_back
from classifier.lexicon import (
    CELL,
    CHROMATIN,
    CYTOPLASM,
    GRANULE,
    NUCLEUS,
    OF_THINGS,
    OTHER,
    RATIO,
    VACUOLE,
    Item,
    items_of,
)
from classifier.phrases import unread

_PARTS = (CELL, NUCLEUS, CHROMATIN, RATIO, CYTOPLASM)
_JOINTS = ("and", "or", "comma")
_STARTS = ("but", "while", "whose", "with", "there", "it")  # of another statement
_VAGUE = (
    "these",
    "both",
    "some",
    "such",
    "yet",
    "where",
    "stained",
    "staining",
    "coloured",
    "colored",
    "shaped",
    "own",
    "nuclear",
)
_DETERMINERS = ("the", "its", "this")  # beside articles
_PLACES = ("in", "on", "at", "around", "within", "inside", "between", "from", "by", "for", "to")
# Verbs of which one part alone is not the subject.
_OF_SEVERAL = re.compile(
    "are|were|appear|look|remain|have|contain|show|hold|bear|display|reveal|carry|exhibit|feature|possess|include|enclose"
)


def surplus(text: str) -> set[str]:
    """Pieces of a text that say what `stated` does not give of it, or that it does not know; in lower case.

    Words and adjectives for what the vocabulary does not have (an oval nucleus), and those that it has for other things (a
    blue nucleus); what is denied (not round), denied twice (not free of granules) or only possible (may be round), but for
    vacuoles and granules that are not there; vacuoles and granules of the nucleus; several cells or nuclei; degrees and
    comparisons (very small, as small as its nucleus); names of what is no part of the description (a nucleolus). What is no
    adjective stands for itself by its topic.

    >>> sorted(surplus("An immature cell with a blue nucleus, nicely round, and no red granules."))
    ['blue', 'granule', 'immature', 'nicely', 'red']
    """
    items = items_of(text)
    pieces = {
        item.text
        for item in items
        if item.outside or item.plural or item.kind == "unknown" or item.text == OTHER
    }
    for found in (
        _loose,
        _repeated,
        _alternatives,
        _exceptions,
        _placed,
        _together,
        _pointing,
        _beyond,
        _owners,
    ):
        pieces |= found(items)
    if piece := unread(text):
        pieces.add(piece)
    adjectives, described = adjectives_of(items)
    if sum(items[noun].names(GRANULE) for noun in described) > 1:  # two sorts of them
        pieces.add(GRANULE)
    shapes = [meaning[1] for _, _, meaning in adjectives if meaning and meaning[0] == "nucleus_shape"]
    if any(set(shapes[0]).isdisjoint(shape) for shape in shapes):
        pieces.add(NUCLEUS)
    for i, topic, meaning in adjectives:
        name = None if meaning is None else meaning[0]
        of_granules = name in OF_THINGS
        if (
            name is None
            or (is_denied(items, i) and not of_granules)
            or (name, topic) == ("nucleus_shape", CELL)
        ):
            pieces.add(items[i].text)
    for i, item in enumerate(items):
        if item.names(VACUOLE, GRANULE):
            if is_there(items, i, described.get(i)) is None or _of_nucleus(items, i) or _of_named(items, i):
                pieces.add(item.text)
        elif item.kind == "noun" and is_there(items, i, None) is not True:
            pieces.add(item.text)
    return pieces


def _loose(items: list[Item]) -> set[str]:
    """Negators that deny something else than vacuoles and granules, and those of things that another negator denies too."""
    denied: set[int] = set()
    loose: set[str] = set()
    for i, item in enumerate(items):
        if item.kind not in ("negator", "absent"):
            continue
        at = _denied_noun(items, i)
        if at is None or at in denied:
            loose.add(item.text)
        else:
            denied.add(at)
    return loose


def _denied_noun(items: list[Item], i: int) -> int | None:
    """Index of the vacuoles or granules, or of the adjective for them, that the negator at `i` denies; None for anything else."""
    if items[i].kind == "negator":
        k = i + 1
        while k < len(items) and items[k].kind in (
            "word",
            "neutral",
            "article",
            "having",
            "seen",
            "connective",
        ):
            if any(name in OF_THINGS for name, _ in items[k].means.values()):
                return k
            k += 1
        if k < len(items) and items[k].names(VACUOLE, GRANULE):
            return k
    if items[i].kind == "absent" or items[i].text == "not":
        k = skip_back(items, i, "copula", "neutral", "seen")
        if k >= 0 and items[k].names(VACUOLE, GRANULE):
            return k
    return None


def _alternatives(items: list[Item]) -> set[str]:
    """ "or", where it does not join what is said not to be there ("no vacuoles or granules")."""
    for i, item in enumerate(items):
        if item.kind == "or":
            k = i - 1
            while k >= 0 and items[k].kind not in ("negator", "stop", "comma"):
                k -= 1
            if k < 0 or items[k].kind != "negator" or _denied_noun(items, k) is None:
                return {"or"}
    return set()


def _exceptions(items: list[Item]) -> set[str]:
    """ "but", where what follows is not another statement of granules or vacuoles ("no granules but in the cytoplasm")."""
    for i, item in enumerate(items):
        if item.text == "but":
            skipped = (CELL, CYTOPLASM, "the", "its", "it", "there", "also", "does", "do")
            k = skip(items, i + 1, "word", "neutral", "article", "having", "copula", texts=skipped)
            if k == len(items) or not (items[k].kind == "negator" or items[k].names(VACUOLE, GRANULE)):
                return {"but"}
    return set()


def _placed(items: list[Item]) -> set[str]:
    """Places that are more than the cell or its cytoplasm, or the nucleus of its chromatin: what is said to lie there is not read."""
    found = set()
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else Item("stop")
        if item.text in ("there", "within", "inside") and following.kind in ("stop", "comma", "and"):
            found.add(item.text)
        if item.text in ("in", "within", "inside") and following.text in ("it", "there"):
            found.add(item.text)
        if item.text not in _PLACES:
            continue
        k = skip(items, i + 1, "article", "word", "neutral", texts=_DETERMINERS)
        if k < len(items) and items[k].kind == "noun":
            inside = (CELL, CYTOPLASM, NUCLEUS) if i and items[i - 1].names(CHROMATIN) else (CELL, CYTOPLASM)
            if not (item.text in ("in", "within", "inside", "from") and items[k].names(*inside)):
                found.add(item.text)
    return found


def _together(items: list[Item]) -> set[str]:
    """Parts of which something is said together ("the nucleus and the cell are round"): only the last of them is read."""
    found = set()
    for i, item in enumerate(items):
        if not item.names(*_PARTS):
            continue
        k = skip_back(items, i, "article", texts=_DETERMINERS)
        if k > 0 and items[k].kind in ("and", "or") and items[k - 1].names(*_PARTS):
            found.add(item.text)
        if i + 1 < len(items) and _OF_SEVERAL.fullmatch(items[i + 1].text):
            found.add(items[i + 1].text)
        k = skip_back(items, i, "article", "word", "neutral", "connective")
        if item.names(CELL) and k > 0 and items[k].kind == "having" and items[k - 1].names(*_PARTS):
            found.add(item.text)  # the nucleus has the cell's shape
    return found


def _pointing(items: list[Item]) -> set[str]:
    """Words by which something is said of what was named before ("these", "as is its nucleus"), "it" where that is not the cell; and
    words that say how many or how much."""
    found = {item.text for item in items if item.text in _VAGUE}
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else Item("stop")
        if item.text == "to" and following.kind in ("copula", "having"):  # is to be, has to have
            found.add("to")
        if item.text == "as":
            well = [one.text for one in items[max(i - 1, 0) : i + 3]]
            of = [one for one in items[i + 1 :] if one.kind in ("noun", "negator", "stop")][:1]
            if (well[-3:] != ["as", "well", "as"] and well[:2] != ["well", "as"]) or not (
                of and (of[0].kind == "negator" or of[0].names(VACUOLE, GRANULE))
            ):
                found.add("as")
        elif item.text == "it":
            clause: list[Item] = []
            for one in reversed(items[: i - 1 if i and items[i - 1].kind == "stop" else i]):
                if one.kind == "stop":
                    break
                clause = [one] if one.names(*_PARTS) else clause
            if clause and not clause[0].names(CELL):
                found.add("it")
        elif item.text == "little" and i and items[i - 1].kind == "article":
            found.add("little")
        elif (
            item.text in ("much", "a lot of", "lots of", "plenty of") and following.text in _DETERMINERS
        ) or (item.text == "evidence of" and not (i and items[i - 1].kind == "negator")):
            found.add(item.text)
    return found


def _beyond(items: list[Item]) -> set[str]:
    """What follows vacuoles and granules that are denied where it is neither an end nor another statement: it may be denied too."""
    found: set[str] = set()
    for i, item in enumerate(items):
        at = _denied_noun(items, i) if item.kind == "negator" else None
        if item.kind != "absent" and (at is None or at < i):
            continue
        k = i + 1
        if at is not None and at > i:
            found |= {one.text for one in items[k:at] if one.kind == "negator"}
            k = at + 1
        while k + 1 < len(items) and items[k].kind in _JOINTS and items[k + 1].names(VACUOLE, GRANULE):
            k += 2
        k = skip(items, k, "copula", "seen")
        if k < len(items) and items[k].text in ("in", "within", "inside", "from"):
            k = skip(items, k + 1, "article", "word", "neutral", "comma", texts=_DETERMINERS)
            k += k < len(items) and items[k].names(CELL, CYTOPLASM)
        k = skip(items, k, "copula", "seen")
        if k >= len(items) or items[k].kind in ("stop", "absent") or items[k].text in ("but", "nor", "while"):
            continue
        after = skip(items, k, *_JOINTS)
        if after == k:
            found.add(items[k].text)
        elif after < len(items) and not (
            items[after].kind in ("negator", "stop", "having", "copula") or items[after].text in _STARTS
        ):
            noun = skip(items, after, "article", "word", "neutral", "comma", texts=_DETERMINERS)
            ends = items[noun : noun + 2]
            if len(ends) < 2 or ends[0].kind != "noun" or ends[1].kind not in ("copula", "having"):
                found.add(items[after].text)
    return found


def _owners(items: list[Item]) -> set[str]:
    """Parts that are said to be or to have what they cannot, so that something else is meant: vacuoles that contain granules, a
    nucleus with cytoplasm, a cell that is a nucleus, a cell nucleus."""
    found: set[str] = set()
    for i, item in enumerate(items[:-1]):
        if item.kind != "noun":
            continue
        verb = items[i + 1]
        k = skip(items, i + 2, "article", "word", "neutral", texts=_DETERMINERS)
        of = items[k] if k < len(items) and items[k].kind == "noun" else None
        if verb.kind == "noun" and item.names(*_PARTS):
            found.add(verb.text)
        elif verb.kind == "copula" and of:
            found.add(of.text)
        elif item.names(VACUOLE, GRANULE) and (
            verb.kind == "having" or verb.text in ("with", "whose", "free of", "not")
        ):
            found.add(verb.text)
        elif item.names(VACUOLE, GRANULE) and verb.text in ("which", "that"):
            if [one.kind for one in items[i + 2 : i + 4]] != ["copula", "word"]:
                found.add(verb.text)
        elif verb.kind == "having" and of:
            fits = {CELL: True, CYTOPLASM: of.names(VACUOLE, GRANULE), NUCLEUS: of.names(CHROMATIN)}
            if not fits.get(item.text, False):
                found.add(of.text)
    return found


def _repeated(items: list[Item]) -> set[str]:
    """What is spoken of as one more although there is one: "a cell and a small cell"."""
    times: Counter[str] = Counter()
    for i, item in enumerate(items):
        if item.names(CELL, NUCLEUS):
            k = skip_back(items, i, "word", "neutral", "comma", "and")
            times[item.text] += k >= 0 and items[k].kind == "article"
    return {text for text, n in times.items() if n > 1}


def _of_nucleus(items: list[Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are said to be of the nucleus, in it or had by it, or around something."""
    k = past_place(items, i)
    if in_nucleus(items, i) or (k < len(items) and items[k].text in ("around", "between")):
        return True
    parted = had = placed = False
    for k in range(i - 1, -1, -1):
        item = items[k]
        if item.kind == "stop":
            return False
        if item.kind == "noun":
            subject = items[k + 1].kind == "copula"  # "is indented and with granules"
            return item.text in (NUCLEUS, CHROMATIN) and (had or not parted or (placed and subject))
        parted |= item.kind in ("and", "or", "comma")
        had |= item.kind == "having" and not parted
        placed |= item.text in ("with", "without", "lacking", "free of", "devoid of", "of") and not parted
    return False


def _of_named(items: list[Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are of or in what was named before ("its", "in it", "in which"), and that is the
    nucleus: for "which" the last part named, else what the sentence, or the one before, is about."""
    for k in range(i - 1, -1, -1):
        item = items[k]
        if item.kind == "stop" or item.names(*_PARTS):
            return False
        existential = item.text == "there" and items[k + 1].kind == "copula"
        if item.text in ("its", "it", "there", "which", "that", "therein") and not existential:
            break
    else:
        return False
    clauses: list[list[Item]] = [[]]
    for one in items[:k]:
        if one.kind == "stop":
            clauses.append([])
        elif one.names(*_PARTS):
            clauses[-1].append(one)
    parts = next((named for named in reversed(clauses) if named), [])
    about = parts[-1 if item.text in ("which", "that") else 0 :][:1]
    return bool(about) and about[0].names(NUCLEUS, CHROMATIN)
