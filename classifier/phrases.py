"""What a text states of a cell, in attributes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from balancer.data.attributes import ATTRIBUTES
from classifier.clauses import adjectives_of, in_nucleus, is_denied, is_there, skip
from classifier.lexicon import (
    CELL,
    GRANULE,
    OF_THINGS,
    SEGMENTED,
    UNSEGMENTED,
    VACUOLE,
    Item,
    items_of,
    lowered,
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
    r"\bwith out\b|\bempty of\b|\bbackground (?:with\w*|has|having|contain\w*)\b|\bunder ?granul\w*|\bless (?:granul|vacuol)\w*|"
    r"(?<![\d ])\s*[+<>~×✗✘❌∅≠]\s*(?:\w+ )?(?:granul|vacuol)\w*|\b(?:granul|vacuol)\w*\s*[<>~×✗✘❌∅≠]|"
    r"\b(?:granul|vacuol)\w*[ -]less\b|\bfew (?:or|to) (?:no|none)\b|\bor (?:absent|lacking|missing|none)\b|"
    r"(?:(?:^|\b(?:a|the|its) )(?:nucleus|nuclei|chromatin) with(?:out)?|\b(?:nucleus|nuclei|chromatin) (?:has|having|contain\w*)) "
    r"(?:\w+ )?(?:granul|vacuol)\w*|"
    r", not (?:the )?(?:cell|nucleus|cytoplasm|chromatin|granules|vacuoles),"
)


# Words beside vacuoles and granules by which they may not be there, or be elsewhere.
_DENIALS = re.compile(
    "apart|save|minus|wo|void|exempt|devoid|depleted|deficient|lost|missing|cleared|stripped|emptied|denuded|dissolved|washed|"
    "disappeared|vanished|poor|poorly|fail|fails|failed|neither|none|0|hardly|barely|scarcely|rarely|imperceptible|undetectable|"
    "undetected|undiscernible|unobservable|unobserved|unrecognisable|outside|beyond|elsewhere|extracellular"
)


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
    adjectives, described = adjectives_of(items)
    of_none = _of_none(items, described)
    for i, _, meaning in adjectives:
        if meaning is None or i in of_none:
            continue
        attribute, values = meaning
        absent = is_denied(items, i)
        if attribute in OF_THINGS:
            values = values if not absent else ("no",) if values == ("yes",) else ("yes",)
            found.setdefault(attribute, set()).update(values)
        elif len(values) > 1:
            grouped.update(values if not absent else SEGMENTED if values == UNSEGMENTED else UNSEGMENTED)
        elif not absent:
            found.setdefault(attribute, set()).update(values)
    for attribute, kind in OF_THINGS.items():
        for i, item in enumerate(items):
            if not item.names(kind) or in_nucleus(items, i):
                continue
            if (there := is_there(items, i, described.get(i))) is not None:
                found.setdefault(attribute, set()).add("yes" if there else "no")
    if grouped and "nucleus_shape" not in found:
        found["nucleus_shape"] = grouped
    if {"granule_type", "granule_colour"} & found.keys():
        found.setdefault("granularity", set()).add("yes")
    if "no" in found.get("granularity", ()):
        found.setdefault("granule_type", set()).add("nil")
        found.setdefault("granule_colour", set()).add("nil")
    return {name: found[name] for name in ATTRIBUTES if name in found}


def unread(text: str) -> str | None:
    """A piece of a text by which `stated` might hear the opposite of what it says ("anything except granules"), None for none.

    >>> unread("granules cannot be seen"), unread("a cell without granules")
    ('cannot', None)
    """
    found = _UNREAD.search(lowered(text))
    return found.group().strip(" ,") if found else _denied_otherwise(items_of(text))


def denied(text: str) -> list[str]:
    """What a text denies without stating anything thereby: adjectives, and vacuoles and granules of which there may be some.

    >>> denied("a cell that is not small, with no pink granules and no vacuoles, the nucleus not segmented")
    ['small', 'pink']
    >>> denied("hardly any granules")
    ['granule']
    """
    items = items_of(text)
    adjectives, described = adjectives_of(items)
    of_none = _of_none(items, described)
    things = [
        item.text
        for i, item in enumerate(items)
        if item.names(VACUOLE, GRANULE) and i not in described and is_there(items, i, None) is None
    ]
    return things + [
        items[i].text
        for i, _, meaning in adjectives
        if i in of_none
        or (meaning and meaning[0] not in OF_THINGS and len(meaning[1]) == 1 and is_denied(items, i))
    ]


def _of_none(items: list[Item], described: Mapping[int, int]) -> set[int]:
    """Where adjectives stand of vacuoles and granules of which only such are said not to be there: "red granules are absent" says no
    more of colours than "no red granules"."""
    return {
        i
        for noun, first in described.items()
        if items[noun].names(VACUOLE, GRANULE) and is_there(items, noun, first) is None
        for i in range(first, noun)
    }


def _denied_otherwise(items: list[Item]) -> str | None:
    """A word beside vacuoles or granules that `stated` takes to be there by which they may not be, or be elsewhere."""
    _, described = adjectives_of(items)
    for i, item in enumerate(items):
        if item.names(VACUOLE, GRANULE):
            if in_nucleus(items, i) or is_there(items, i, described.get(i)) is not True:
                continue
            first = described.get(i, i)
        elif any(name in OF_THINGS for name, _ in item.means.values()) and not is_denied(items, i):
            first = i
        else:
            continue
        for start, step in ((first - 1, -1), (i + 1, 1)):
            k = start
            while 0 <= k < len(items) and not _ends(items[k]):
                absent = items[k].kind == "absent" and items[k].text != "free"
                if (
                    absent
                    or _DENIALS.fullmatch(items[k].text)
                    or (items[k].kind == "negator" and not _of_another(items, k, range(first, i + 1)))
                ):
                    return items[k].text
                k += step
    return None


def _ends(item: Item) -> bool:
    """Whether what is said of vacuoles or granules ends with this item."""
    other = item.kind == "noun" and item.text != CELL
    return other or item.kind in ("stop", "comma", "and", "or") or item.text in ("but", "while", "whose")


def _of_another(items: list[Item], k: int, mine: range) -> bool:
    """Whether the negator at `k` denies an adjective or a noun that follows it, but for those at `mine`."""
    if items[k].text in ("less", "fewer"):
        return True
    j = skip(items, k + 1, "article", "neutral", "having", "connective")
    if j >= len(items) or j in mine:
        return False
    return items[j].kind == "word" or (items[j].kind == "noun" and items[j].text != CELL)
