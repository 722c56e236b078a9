"""What a text says of a cell: the attributes that it states, and what it says beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from balancer.data.attributes import ATTRIBUTES
from classifier.lexicon import (
    ANY,
    CELL,
    CHROMATIN,
    CYTOPLASM,
    FITS,
    GRANULE,
    LITTLE,
    NUCLEUS,
    OTHER,
    RATIO,
    SEGMENTED,
    UNSEGMENTED,
    VACUOLE,
    Item,
    Meaning,
    items_of,
    normalised,
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
# Denials and exceptions of which `stated` would hear the opposite.
_UNREAD = re.compile(
    r"\b(?:can|could|may|might|must|should|would)\s*(?:not|n['’]t)\b|\bcan['’]?t\b|\bexcept\w*\b|\bexclu\w+\b|\binstead of\b|"
    r"\bthan\b(?! two lobes)|\ball but\b|\bany\w* but\b|\bnothing but\b|\bfar from\b|\bnegative\b|\bloss of\b|\bin ?complete\w*|"
    r"\bnot (?:only|just|at all|that|so|as|quite|many|much|numerous|prominent|yet|\w+ly)\b|\bno longer\b|\bnowhere\b|"
    r"\bwith ?(?:or|/) ?without\b|\bpresent or absent\b|\bor not\b|\bregardless\b|\birrespective\b|\bno matter\b|\bignor\w+|\bavoid\w*|"
    r"\binvisible\b|\bunseen\b|\bgone\b|\bnever seen\b|\b(?:absent|missing) (?:\w+ )?(?:granul|vacuol)\w*|\blittle to no\b|"
    r"[=(?]\s*(?:no|none|0)\b|\(\s*[-–−]\s*\)|:\s*(?:0\b|[-–−]|not\b)|\s[-–]\s*no\b|\b(?:0|zero) (?:granul|vacuol)\w*|\bun-\w+|"
    r"\b(?:no|none of the|none of these) (?:\w+ )?cells?\b|\b(?:one|1)\s*(?:or|to|[-–])\s*(?:two|2)\b|\bat (?:most|least)\b|\bup to\b|"
    r"\b(?:size|shape|colou?r) of\b|\bround (?:the|its|it|a)\b|\bmuch of the\b|"
    r"\b(?:granul|vacuol)\w*\s*/\s*(?:granul|vacuol)|\b(?:granul|vacuol)\w*, (?:granul|vacuol)\w*\s*:|"
    r"\b(?:no|without|lacks?|lacking)\b[^.;]*,\s*(?:granul|vacuol)\w*,?\s*(?:or|nor|and)\b|"
    r"\b(?:without|lacks?|lacking|free of|devoid of) (?:\w+ )?(?:granul|vacuol)\w* and (?!(?:with|has|have|contain|show))(?:\w+ ){1,2}"
    r"(?:granul|vacuol|nucle)\w*|"
    r", not (?:the )?(?:cell|nucleus|cytoplasm|chromatin|granules|vacuoles),"
)

_OF_NONE = ("no", "none of", "none of the", "none of its")


def stated(text: str) -> dict[str, set[str]]:
    """Attributes that a text states of a cell → the values that it states, in WBCAtt's vocabulary; others are missing.

    Several values are alternatives ("segmented nucleus": bilobed or multilobed). "round", "small", "blue" … count for what
    they are said of: the noun that they stand before, else the one that the clause is about, else the cell. What is denied
    is not stated ("not round"), but for vacuoles and granules, whose absence is a value. As in `balancer.data.attributes.completed`, no granules
    are granules of type and colour nil, and granules of some type or colour are granules. What the vocabulary has no
    word for (grey cytoplasm, an oval nucleus, large granules) states nothing.

    >>> stated("large cell with folded nucleus and no vacuoles")
    {'cell_size': {'big'}, 'nucleus_shape': {'unsegmented-indented'}, 'cytoplasm_vacuole': {'no'}}
    """
    items = items_of(text)
    found: dict[str, set[str]] = {}
    grouped: set[str] = set()
    adjectives, described = _adjectives(items)
    # "Red granules are absent" says no more of colours than "no red granules".
    of_none = {
        i
        for noun, first in described.items()
        if items[noun].names(VACUOLE, GRANULE) and _there(items, noun, first) is None
        for i in range(first, noun)
    }
    for i, _, meaning in adjectives:
        if meaning is None or i in of_none:
            continue
        attribute, values = meaning
        denied = _denied(items, i)
        if attribute in ("cytoplasm_vacuole", "granularity"):
            values = values if not denied else ("no",) if values == ("yes",) else ("yes",)
            found.setdefault(attribute, set()).update(values)
        elif len(values) > 1:
            grouped.update(values if not denied else SEGMENTED if values == UNSEGMENTED else UNSEGMENTED)
        elif not denied:
            found.setdefault(attribute, set()).update(values)
    for attribute, kind in (("cytoplasm_vacuole", VACUOLE), ("granularity", GRANULE)):
        for i, item in enumerate(items):
            if not item.names(kind) or _in_nucleus(items, i):
                continue
            if (there := _there(items, i, described.get(i))) is not None:
                found.setdefault(attribute, set()).add("yes" if there else "no")
    if grouped and "nucleus_shape" not in found:
        found["nucleus_shape"] = grouped
    if {"granule_type", "granule_colour"} & found.keys():
        found.setdefault("granularity", set()).add("yes")
    if "no" in found.get("granularity", ()):
        found.setdefault("granule_type", set()).add("nil")
        found.setdefault("granule_colour", set()).add("nil")
    return {name: found[name] for name in ATTRIBUTES if name in found}


def unsaid(text: str) -> set[str]:
    """Pieces of a text that say what `stated` does not give of it, or that it does not know; in lower case.

    Words and adjectives for what the vocabulary does not have (an oval nucleus), and those that it has for other things (a
    blue nucleus); what is denied (not round), denied twice (not free of granules) or only possible (may be round), but for
    vacuoles and granules that are not there; vacuoles and granules of the nucleus; several cells or nuclei; degrees and
    comparisons (very small, as small as its nucleus); names of what is no part of the description (a nucleolus). What is no
    adjective stands for itself by its topic.

    >>> sorted(unsaid("An immature cell with a blue nucleus, nicely round, and no red granules."))
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
    adjectives, described = _adjectives(items)
    if sum(items[noun].names(GRANULE) for noun in described) > 1:  # two sorts of them
        pieces.add(GRANULE)
    shapes = [meaning[1] for _, _, meaning in adjectives if meaning and meaning[0] == "nucleus_shape"]
    if any(set(shapes[0]).isdisjoint(shape) for shape in shapes):
        pieces.add(NUCLEUS)
    for i, topic, meaning in adjectives:
        name = None if meaning is None else meaning[0]
        of_granules = name in ("cytoplasm_vacuole", "granularity")
        if (
            name is None
            or (_denied(items, i) and not of_granules)
            or (name, topic) == ("nucleus_shape", CELL)
        ):
            pieces.add(items[i].text)
    for i, item in enumerate(items):
        if item.names(VACUOLE, GRANULE):
            if _there(items, i, described.get(i)) is None or _of_nucleus(items, i):
                pieces.add(item.text)
        elif item.kind == "noun" and _there(items, i, None) is not True:
            pieces.add(item.text)
    return pieces


def unread(text: str) -> str | None:
    """A piece of a text by which `stated` might hear the opposite of what it says ("anything except granules"), None for none.

    >>> unread("granules cannot be seen"), unread("a cell without granules")
    ('cannot', None)
    """
    found = _UNREAD.search(normalised(text).lower())
    return found.group().strip(" ,") if found else None


def _in_nucleus(items: list[Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are said to be nuclear, or of or in the nucleus."""
    k = _past_place(items, i)
    return (i > 0 and items[i - 1].text == "nuclear") or (
        k < len(items) and items[k].names(NUCLEUS, CHROMATIN)
    )


def _past_place(items: list[Item], i: int) -> int:
    """Index of what ends the words after the noun at `i` by which it is placed: a noun, a word like "around", or the end of them."""
    k = i + 1
    while k < len(items) and items[k].kind not in ("stop", "comma", "and", "or", "noun"):
        if items[k].text in ("with", "while", "whose", "but", "around", "between"):
            break
        k += 1
    return k


def _of_nucleus(items: list[Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are said to be of the nucleus, in it or had by it, or around something."""
    k = _past_place(items, i)
    if _in_nucleus(items, i) or (k < len(items) and items[k].text in ("around", "between")):
        return True
    parted = had = False
    for k in range(i - 1, -1, -1):
        item = items[k]
        if item.kind == "stop":
            return False
        if item.kind == "noun":
            return item.text in (NUCLEUS, CHROMATIN) and (had or not parted)
        parted |= item.kind in ("and", "or", "comma")
        had |= item.kind == "having" and not parted
    return False


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
            if any(name in ("cytoplasm_vacuole", "granularity") for name, _ in items[k].means.values()):
                return k
            k += 1
        if k < len(items) and items[k].names(VACUOLE, GRANULE):
            return k
    if items[i].kind == "absent" or items[i].text == "not":
        k = _before(items, i, "copula", "neutral", "seen")
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
            k = _past(items, i + 1, "word", "neutral", "article", "having", "copula", texts=skipped)
            if k == len(items) or not (items[k].kind == "negator" or items[k].names(VACUOLE, GRANULE)):
                return {"but"}
    return set()


def _placed(items: list[Item]) -> set[str]:
    """Places that are more than the cell or its cytoplasm, or the nucleus of its chromatin: what is said to lie there is not read."""
    found = set()
    for i, item in enumerate(items):
        if item.text not in _PLACES:
            continue
        k = _past(items, i + 1, "article", "word", "neutral", texts=_DETERMINERS)
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
        k = _before(items, i, "article", texts=_DETERMINERS)
        if k > 0 and items[k].kind in ("and", "or") and items[k - 1].names(*_PARTS):
            found.add(item.text)
        if i + 1 < len(items) and _OF_SEVERAL.fullmatch(items[i + 1].text):
            found.add(items[i + 1].text)
        k = _before(items, i, "article", "word", "neutral", "connective")
        if item.names(CELL) and k > 0 and items[k].kind == "having" and items[k - 1].names(*_PARTS):
            found.add(item.text)  # the nucleus has the cell's shape
    return found


def _pointing(items: list[Item]) -> set[str]:
    """Words by which something is said of what was named before ("these", "as is its nucleus"), "it" where that is not the cell; and
    words that say how many or how much."""
    found = {item.text for item in items if item.text in _VAGUE}
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else Item("stop")
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
        k = _past(items, k, "copula", "seen")
        if k < len(items) and items[k].text in ("in", "within", "inside", "from"):
            k = _past(items, k + 1, "article", "word", "neutral", "comma", texts=_DETERMINERS)
            k += k < len(items) and items[k].names(CELL, CYTOPLASM)
        k = _past(items, k, "copula", "seen")
        if k >= len(items) or items[k].kind in ("stop", "absent") or items[k].text in ("but", "nor", "while"):
            continue
        after = _past(items, k, *_JOINTS)
        if after == k:
            found.add(items[k].text)
        elif after < len(items) and not (
            items[after].kind in ("negator", "stop", "having", "copula") or items[after].text in _STARTS
        ):
            noun = _past(items, after, "article", "word", "neutral", "comma", texts=_DETERMINERS)
            ends = items[noun : noun + 2]
            if len(ends) < 2 or ends[0].kind != "noun" or ends[1].kind not in ("copula", "having"):
                found.add(items[after].text)
    return found


def _past(items: list[Item], k: int, *kinds: str, texts: Sequence[str] = ()) -> int:
    """Index of the first item from `k` on that is neither of these kinds nor one of these texts."""
    while k < len(items) and (items[k].kind in kinds or items[k].text in texts):
        k += 1
    return k


def _owners(items: list[Item]) -> set[str]:
    """Parts that are said to be or to have what they cannot, so that something else is meant: vacuoles that contain granules, a
    nucleus with cytoplasm, a cell that is a nucleus, a cell nucleus."""
    found: set[str] = set()
    for i, item in enumerate(items[:-1]):
        if item.kind != "noun":
            continue
        verb = items[i + 1]
        k = _past(items, i + 2, "article", "word", "neutral", texts=_DETERMINERS)
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
            k = _before(items, i, "word", "neutral", "comma", "and")
            times[item.text] += k >= 0 and items[k].kind == "article"
    return {text for text, n in times.items() if n > 1}


def _adjectives(items: list[Item]) -> tuple[list[tuple[int, str, Meaning | None]], dict[int, int]]:
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
    b = _before(items, i, "neutral", "article", "negator")
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


def _before(items: list[Item], i: int, *kinds: str, texts: Sequence[str] = ()) -> int:
    """Index of the nearest item before `i` that is neither of these kinds nor one of these texts, -1 where there is none."""
    k = i - 1
    while k >= 0 and (items[k].kind in kinds or items[k].text in texts):
        k -= 1
    return k


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


def _denied(items: list[Item], i: int) -> bool:
    """Whether the adjective at `i` is said not to hold, be it of none ("none of the granules are red")."""
    k = _before(items, i, "word", "neutral", "seen", "article", "and", "or")
    if k >= 0 and items[k].kind == "copula" and (noun := _subject(items, k)) is not None:
        k = _before(items, noun, "word", "neutral", "article")
        return k >= 0 and items[k].text in _OF_NONE
    return k >= 0 and items[k].kind == "negator"


def _there(items: list[Item], noun: int, first: int | None) -> bool | None:
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
        before = _before(items, k, "neutral", "copula", "having", "connective", "article")
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
