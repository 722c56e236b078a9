"""What a text states of a cell, in attributes."""

from __future__ import annotations

import re

from balancer.data.attributes import ATTRIBUTES
from classifier.clauses import adjectives_of, in_nucleus, is_denied, is_there
from classifier.lexicon import GRANULE, SEGMENTED, UNSEGMENTED, VACUOLE, items_of, normalised

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
    # "Red granules are absent" says no more of colours than "no red granules".
    of_none = {
        i
        for noun, first in described.items()
        if items[noun].names(VACUOLE, GRANULE) and is_there(items, noun, first) is None
        for i in range(first, noun)
    }
    for i, _, meaning in adjectives:
        if meaning is None or i in of_none:
            continue
        attribute, values = meaning
        denied = is_denied(items, i)
        if attribute in ("cytoplasm_vacuole", "granularity"):
            values = values if not denied else ("no",) if values == ("yes",) else ("yes",)
            found.setdefault(attribute, set()).update(values)
        elif len(values) > 1:
            grouped.update(values if not denied else SEGMENTED if values == UNSEGMENTED else UNSEGMENTED)
        elif not denied:
            found.setdefault(attribute, set()).update(values)
    for attribute, kind in (("cytoplasm_vacuole", VACUOLE), ("granularity", GRANULE)):
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
    found = _UNREAD.search(normalised(text).lower())
    return found.group().strip(" ,") if found else None
