"""The words for a cell's attributes: which ones a caption is made of, and which attributes a text states.

One table of words serves both ways, so that what `classifier.captions` writes is what `stated` reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from balancer.data.attributes import ATTRIBUTES

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "cell_size": {"big": ("big", "large"), "small": ("small",)},
    "cell_shape": {
        "round": ("round", "rounded", "circular"),
        "irregular": ("irregular", "irregularly shaped"),
    },
    "nucleus_shape": {
        "unsegmented-round": ("round", "circular", "round, unsegmented", "unsegmented, round"),
        "unsegmented-indented": ("indented", "kidney-shaped", "folded", "bean-shaped"),
        "unsegmented-band": ("band-shaped", "horseshoe-shaped", "U-shaped", "band-like"),
        "segmented-bilobed": ("bilobed", "two-lobed", "bilobate"),
        "segmented-multilobed": ("multilobed", "multi-lobed", "many-lobed"),
        "irregular": ("irregular", "irregularly shaped"),
    },
    "nuclear_cytoplasmic_ratio": {"low": ("low",), "high": ("high",)},
    "chromatin_density": {
        "densely": ("dense", "densely packed", "condensed", "compact"),
        "loosely": ("loose", "loosely packed", "open"),
    },
    "cytoplasm_texture": {
        "clear": ("clear", "translucent", "transparent"),
        "frosted": ("frosted", "ground-glass", "hazy"),
    },
    "cytoplasm_colour": {
        "light blue": ("light blue", "pale blue"),
        "blue": ("blue", "plain blue"),
        "purple blue": ("purple-blue", "violet-blue", "bluish purple"),
    },
    "granule_type": {
        "small": ("small", "fine", "tiny"),
        "round": ("round", "rounded"),
        "coarse": ("coarse",),
    },
    "granule_colour": {
        "pink": ("pink", "rose-coloured"),
        "red": ("red", "orange-red"),
        "purple": ("purple", "violet"),
    },
}
"""Attribute → value → adjectives that captions are made of. Vacuoles and granules there are or not; they have none."""

RATIO_NAMES = ("nuclear-to-cytoplasmic ratio", "N:C ratio", "ratio of nucleus to cytoplasm")
MUCH_NUCLEUS = "fills most of the cell"  # what a nucleus does where the ratio is high

_CELL, _NUCLEUS, _CHROMATIN, _RATIO = "cell", "nucleus", "chromatin", "ratio"
_CYTOPLASM, _VACUOLE, _GRANULE, _OTHER = "cytoplasm", "vacuole", "granule", "other"
_ANY = "any"  # of words that mean the same of all that has the attribute (`_FITS`)

_SAID_OF = {
    "cell_size": _CELL,
    "cell_shape": _CELL,
    "nucleus_shape": _NUCLEUS,
    "nuclear_cytoplasmic_ratio": _RATIO,
    "chromatin_density": _CHROMATIN,
    "cytoplasm_texture": _CYTOPLASM,
    "cytoplasm_colour": _CYTOPLASM,
    "granule_type": _GRANULE,
    "granule_colour": _GRANULE,
}

# What has an attribute beside what it is said of as a rule.
_FITS = {
    "nucleus_shape": (_NUCLEUS, _CELL),
    "nuclear_cytoplasmic_ratio": (_CELL, _NUCLEUS, _CYTOPLASM),
    "cytoplasm_texture": (_CYTOPLASM, _CELL),
    "cytoplasm_vacuole": (_CYTOPLASM, _CELL),
    "granularity": (_CYTOPLASM, _CELL),
    "granule_type": (_CYTOPLASM, _CELL),
}

# What people write besides: (what it is said of, attribute, value) → adjectives and phrases.
_UNDERSTOOD: dict[tuple[str, str, str], str] = {
    (_CELL, "cell_size", "big"): "big sized, large sized, huge, enlarged",
    (_CELL, "cell_size", "small"): "small sized, little, tiny",
    (_CELL, "cell_shape", "round"): "spherical",
    (_CELL, "cell_shape", "irregular"): "misshapen, irregularly outlined, irregularly contoured",
    (
        _NUCLEUS,
        "nucleus_shape",
        "unsegmented-round",
    ): "rounded, spherical, unsegmented round, round unsegmented",
    (_ANY, "nucleus_shape", "unsegmented-indented"): "kidney shaped, bean shaped, reniform, kidney like",
    (_NUCLEUS, "nucleus_shape", "unsegmented-indented"): "notched, cleaved, convoluted, kidney",
    (_ANY, "nucleus_shape", "unsegmented-band"): (
        "band shaped, band like, band form, horseshoe shaped, horseshoe like, u shaped, c shaped, s shaped, "
        "shaped like a band, shaped like a horseshoe"
    ),
    (
        _NUCLEUS,
        "nucleus_shape",
        "unsegmented-band",
    ): "band, ribbon like, rod shaped, curved, horseshoe",
    (_CELL, "nucleus_shape", "unsegmented-band"): "band",
    (_ANY, "nucleus_shape", "segmented-bilobed"): (
        "bilobed, bi lobed, bilobate, two lobed, 2 lobed, two lobes, 2 lobes, bisegmented, two segments, "
        "double lobed"
    ),
    (_ANY, "nucleus_shape", "segmented-multilobed"): (
        "multilobed, multi lobed, many lobed, multilobate, multilobulated, multisegmented, multi segmented, "
        "polymorphonuclear, polylobed, several lobes, multiple lobes, many lobes, three lobes, four lobes, five lobes, "
        "3 lobes, 4 lobes, 5 lobes, three to five lobes, three or more lobes, more than two lobes, three lobed, "
        "four lobed, five lobed, several segments, multiple segments, hypersegmented"
    ),
    (_NUCLEUS, "nucleus_shape", "irregular"): "misshapen, irregularly outlined, irregularly contoured",
    (_RATIO, "nuclear_cytoplasmic_ratio", "low"): "decreased, reduced",
    (_RATIO, "nuclear_cytoplasmic_ratio", "high"): "increased, raised, elevated, large",
    (_CYTOPLASM, "nuclear_cytoplasmic_ratio", "low"): (
        "abundant, plentiful, ample, copious, plenty of, much, a lot of, lots of, generous"
    ),
    (_CYTOPLASM, "nuclear_cytoplasmic_ratio", "high"): (
        "scant, scanty, little, sparse, a narrow rim of, a thin rim of, narrow rim of, thin rim of, thin"
    ),
    (_NUCLEUS, "nuclear_cytoplasmic_ratio", "high"): (
        "fills most of the cell, fills nearly the whole cell, takes up most of the cell, occupies most of the cell, "
        "fills almost the whole cell, occupying most of the cell, filling most of the cell, "
        "taking up most of the cell, dominates the cell"
    ),
    (_ANY, "nuclear_cytoplasmic_ratio", "high"): (
        "hardly any cytoplasm, barely any cytoplasm, almost no cytoplasm, scarcely any cytoplasm"
    ),
    (
        _CHROMATIN,
        "chromatin_density",
        "densely",
    ): "tightly packed, tight, clumped, coarsely clumped, dark, coarse",
    (_NUCLEUS, "chromatin_density", "densely"): "condensed, dense, compact, densely packed, pyknotic",
    (_CHROMATIN, "chromatin_density", "loosely"): (
        "loosely arranged, decondensed, dispersed, finely dispersed, fine, delicate, lacy, uncondensed, airy"
    ),
    (_CYTOPLASM, "cytoplasm_texture", "clear"): "see through",
    (_ANY, "cytoplasm_texture", "frosted"): (
        "frosted, ground glass, like ground glass, ground glass like, like frosted glass, frosted glass"
    ),
    (_CYTOPLASM, "cytoplasm_texture", "frosted"): "frosty, cloudy, murky, opaque",
    (_CYTOPLASM, "cytoplasm_colour", "light blue"): (
        "pale bluish, faint blue, faintly blue, lightly blue, weakly basophilic, slightly basophilic, "
        "lightly basophilic, sky blue"
    ),
    (_CYTOPLASM, "cytoplasm_colour", "blue"): (
        "bluish, deep blue, deeply blue, dark blue, strongly blue, basophilic, deeply basophilic, "
        "strongly basophilic, medium blue"
    ),
    (_CYTOPLASM, "cytoplasm_colour", "purple blue"): (
        "purple blue, violet blue, bluish violet, purplish blue, blue purple, blue violet, purplish, purple, violet"
    ),
    (_ANY, "cytoplasm_vacuole", "yes"): "vacuolated, vacuolised, vacuolized, foamy",
    (_ANY, "cytoplasm_vacuole", "no"): "unvacuolated, nonvacuolated, non vacuolated",
    (_ANY, "granularity", "yes"): "granular, granulated",
    (
        _ANY,
        "granularity",
        "no",
    ): "agranular, nongranular, non granular, ungranulated, agranulated, granule less",
    (_ANY, "granule_type", "small"): "finely granular, finely granulated",
    (_ANY, "granule_type", "coarse"): "coarsely granular, coarsely granulated",
    (_GRANULE, "granule_type", "small"): "minute, dust like, little",
    (_GRANULE, "granule_type", "round"): "spherical, circular",
    (_GRANULE, "granule_type", "coarse"): "rough",
    (_GRANULE, "granule_colour", "pink"): "pinkish, rose, rosy, salmon, salmon pink",
    (_GRANULE, "granule_colour", "red"): (
        "reddish, orange, reddish orange, orange red, brick red, red orange, eosinophilic"
    ),
    (_GRANULE, "granule_colour", "purple"): (
        "dark purple, deep purple, dark violet, purplish, blue black, basophilic, reddish purple, red purple"
    ),
}

# Several values, none of them named: they count where the text says nothing closer of the nucleus.
_SEGMENTED = ("segmented-bilobed", "segmented-multilobed")
_UNSEGMENTED = ("unsegmented-round", "unsegmented-indented", "unsegmented-band")
_GROUPS = {
    _SEGMENTED: (
        "segmented, lobed, lobulated, lobes, segments, two to five lobes, two or more lobes, two or three lobes, "
        "two to four lobes"
    ),
    _UNSEGMENTED: "unsegmented, non segmented, nonsegmented, unlobed, non lobed, undivided, single lobed, one lobe",
}

_NOUNS: dict[str, str] = {
    _CELL: (
        "cell, cells, cell body, cell outline, cell shape, cell size, leucocyte, leukocyte, lymphocyte, monocyte, neutrophil, "
        "eosinophil, basophil, blast, lymphoblast, myeloblast, granulocyte, erythroblast, platelet, leucocytes, leukocytes, "
        "lymphocytes, monocytes, neutrophils, eosinophils, basophils, blasts, lymphoblasts, myeloblasts, granulocytes, "
        "erythroblasts, platelets"
    ),
    _NUCLEUS: "nucleus, nuclei, nuclear outline, nuclear contour, nuclear shape, nuclear membrane",
    _CHROMATIN: "chromatin, chromatin pattern, chromatin structure, nuclear chromatin",
    _RATIO: (
        "nuclear to cytoplasmic ratio, nuclear cytoplasmic ratio, nucleus to cytoplasm ratio, nucleo cytoplasmic ratio, "
        "nuclear to cytoplasm ratio, nucleocytoplasmic ratio, nc ratio, ratio of nucleus to cytoplasm, nuclear ratio, "
        "ratio of the nucleus to the cytoplasm, nc"
    ),
    _CYTOPLASM: "cytoplasm, cytoplasms, cytoplasmic colour, cytoplasmic color, cytoplasmic texture",
    _VACUOLE: "vacuole, vacuoles, vacuolation, vacuolisation, vacuolization",
    _GRANULE: "granule, granules, granulation, granulations, granularity, grains",
    _OTHER: (
        "red cell, red cells, red blood cell, red blood cells, erythrocyte, erythrocytes, nucleolus, nucleoli, background, "
        "auer rod, auer rods"
    ),
}

_PLURALS = ("cells", "nuclei", "cytoplasms")  # of what a caption speaks of once

_COPULAS = "is, are, was, were, be, being, appears, appear, looks, look, remains, remain"
_HAVING = (
    "contain, contains, containing, have, has, having, show, shows, showing, hold, holds, bear, bears, display, displays, "
    "displaying, reveal, reveals, carry, carries, carrying, exhibit, exhibits, feature, features, featuring, possess, "
    "possesses, include, includes, including, enclose, encloses, holding"
)
# Negators after which there may be some.
_LITTLE = ("hardly any", "hardly", "barely", "scarcely", "less", "fewer")
_NEGATORS = (
    "no, not, without, never, neither, nor, lack, lacks, lacking, free of, free from, devoid of, absence of, non, zero, "
    f"lack of, lacks any, none of, none of the, none of its, {', '.join(_LITTLE)}"
)
_ABSENT = "absent, missing, lacking, none, free, nil"
_SEEN = (
    "seen, visible, present, found, discernible, detectable, apparent, observed, evident, there, recognisable"
)
_CONNECTIVES = (
    "with, in, of, to, on, at, by, while, whose, which, that, its, the, this, these, it, as, but, for, from, around, "
    "within, inside, between, there, also, who, where, such, does, do, did, has been"
)
# Adjectives and adverbs that say nothing of a cell by themselves, and what may stand between others.
_NEUTRAL = (
    "visible, discernible, some, blood, cytoplasmic, nuclear, yet, any, own, stained, staining, coloured, colored, shaped, both, "
    "evidence of"
)
# What makes a statement weaker, stronger or one of two.
_DEGREES = (
    "very, rather, quite, fairly, mostly, relatively, somewhat, slightly, markedly, clearly, clear cut, deeply, evenly, distinct, "
    "obvious, noticeable, prominent, conspicuous, generally, overall, sign of, signs of, trace of, traces of"
)
_HEDGES = "seems, seem"
_CONDITIONS = "than, when, if, unless, may, can, could"
# Adjectives that say more than the value that they are read as.
_SHARPER = (
    "hypersegmented, pyknotic, cleaved, convoluted, foamy, three lobes, four lobes, five lobes, 3 lobes, 4 lobes, 5 lobes, "
    "three lobed, four lobed, five lobed, deep blue, deeply blue, dark blue, strongly blue, deeply basophilic, "
    "strongly basophilic, sky blue"
)
# Adjectives that describe a cell, in ways that the vocabulary has no value for.
_OUTSIDE = (
    "many, few, numerous, single, white, medium sized, medium, oval, central, eccentric, scattered, pale, bright, grey, gray, "
    "greyish, grayish, grey blue, gray blue, greyish blue, grayish blue, blue grey, blue gray, smooth, mature, immature, typical, "
    "characteristic"
)
_STOPS = {".", ";", "!", "?"}


_Meaning = tuple[str, tuple[str, ...]]  # an attribute and values of it


@dataclass(frozen=True)
class _Item:
    """A piece of a text: what kind of piece, and of an adjective what it means of what it is said of."""

    kind: str  # word, noun, copula, having, negator, absent, seen, and, or, article, neutral, connective, stop, comma, unknown
    text: str = ""  # of a noun: what it names
    means: Mapping[str, _Meaning] = field(default_factory=dict)
    outside: bool = False  # whether it says something that the vocabulary does not have
    plural: bool = False  # of a noun

    def names(self, *topics: str) -> bool:
        """Whether it is a noun for one of these."""
        return self.kind == "noun" and self.text in topics


@cache
def _lexicon() -> dict[tuple[str, ...], _Item]:
    """What the words, and the sequences of words, are that are known."""
    table: dict[tuple[str, ...], _Item] = {}
    kinds = {
        "connective": _CONNECTIVES,
        "neutral": _NEUTRAL,
        "having": _HAVING,
        "seen": _SEEN,
        "copula": _COPULAS,
        "absent": _ABSENT,
        "negator": _NEGATORS,
        "and": "and, plus",
        "or": "or",
        "article": "a, an",
    }
    for kind, words in kinds.items():
        table |= {key: _Item(kind, " ".join(key)) for key in _keys(words)}
    for kind, words in {
        "neutral": f"{_OUTSIDE}, {_DEGREES}",
        "copula": _HEDGES,
        "connective": _CONDITIONS,
    }.items():
        table |= {key: _Item(kind, " ".join(key), outside=True) for key in _keys(words)}
    for topic, words in _NOUNS.items():
        table |= {key: _Item("noun", topic, plural=key[-1] in _PLURALS) for key in _keys(words)}
    meanings: dict[tuple[str, ...], dict[str, tuple[str, tuple[str, ...]]]] = {}

    def means(key: tuple[str, ...], topic: str, attribute: str, values: tuple[str, ...]) -> None:
        meanings.setdefault(key, {})[topic] = (attribute, values)

    for attribute, of_value in WORDS.items():
        for value, phrases in of_value.items():
            for phrase in phrases:
                if "," not in phrase:  # the others are words that have meanings of their own
                    means(tuple(_tokens(phrase)), _SAID_OF[attribute], attribute, (value,))
    for (topic, attribute, value), words in _UNDERSTOOD.items():
        for key in _keys(words):
            means(key, topic, attribute, (value,))
    for values, words in _GROUPS.items():
        for key in _keys(words):
            means(key, _ANY, "nucleus_shape", values)
    sharper = set(_keys(_SHARPER))
    return table | {
        key: _Item("word", " ".join(key), meaning, key in sharper) for key, meaning in meanings.items()
    }


def _keys(words: str) -> list[tuple[str, ...]]:
    return [tuple(phrase.split()) for phrase in words.split(", ")]


@cache
def _longest() -> int:
    return max(map(len, _lexicon()))


def normalised(text: str) -> str:
    """NFKC, every white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _tokens(text: str) -> list[str]:
    """Words in lower case, and punctuation marks; a hyphen within a word parts it."""
    text = normalised(text).lower()
    text = re.sub(r"\b(nucleus|nuclear|n)\s?[:/]\s?(cytoplasm|cytoplasmic|c)\b", "nc", text)
    text = re.sub(r"(?<=\w)['’]s\b", "", text).replace("n't", " not").replace("cannot", "can not")
    text = re.sub(r"\s[-–—]\s|—", ", ", text)
    text = re.sub(r"[-‐‑–]", " ", text)
    return re.findall(r"\w+|[^\w\s]", text)


def _items(text: str) -> list[_Item]:
    """The text as known pieces, the longest first."""
    lexicon, tokens = _lexicon(), _tokens(text)
    items: list[_Item] = []
    at = 0
    while at < len(tokens):
        for length in range(min(_longest(), len(tokens) - at), 0, -1):
            if found := lexicon.get(tuple(tokens[at : at + length])):
                items.append(found)
                at += length
                break
        else:
            mark = tokens[at]
            kind = "stop" if mark in _STOPS else "unknown" if mark[0].isalnum() else "comma"
            items.append(_Item(kind, mark))
            at += 1
    return items


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
    items = _items(text)
    found: dict[str, set[str]] = {}
    grouped: set[str] = set()
    adjectives, described = _adjectives(items)
    for i, _, meaning in adjectives:
        if meaning is None:
            continue
        attribute, values = meaning
        denied = _denied(items, i)
        if attribute in ("cytoplasm_vacuole", "granularity"):
            values = values if not denied else ("no",) if values == ("yes",) else ("yes",)
            found.setdefault(attribute, set()).update(values)
        elif len(values) > 1:
            grouped.update(values if not denied else _SEGMENTED if values == _UNSEGMENTED else _UNSEGMENTED)
        elif not denied:
            found.setdefault(attribute, set()).update(values)
    for attribute, kind in (("cytoplasm_vacuole", _VACUOLE), ("granularity", _GRANULE)):
        for i, item in enumerate(items):
            if item.names(kind) and (there := _there(items, i, described.get(i))) is not None:
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
    items = _items(text)
    pieces = {
        item.text
        for item in items
        if item.outside or item.plural or item.kind == "unknown" or item.text == _OTHER
    }
    pieces |= _loose(items) | _repeated(items) | _alternatives(items) | _misplaced(items)
    for i, item in enumerate(items):  # "as small as", but for "as well as"
        if item.text == "as" and "as" in [other.text for other in items[i + 2 : i + 4]]:
            pieces |= {"as"} if items[i + 1].text != "well" else set()
    adjectives, described = _adjectives(items)
    for i, topic, meaning in adjectives:
        name = None if meaning is None else meaning[0]
        of_granules = name in ("cytoplasm_vacuole", "granularity")
        if (
            name is None
            or (_denied(items, i) and not of_granules)
            or (name, topic) == ("nucleus_shape", _CELL)
        ):
            pieces.add(items[i].text)
    for i, item in enumerate(items):
        if item.names(_VACUOLE, _GRANULE):
            if _there(items, i, described.get(i)) is None or _of_nucleus(items, i):
                pieces.add(item.text)
        elif item.kind == "noun" and _there(items, i, None) is not True:
            pieces.add(item.text)
    return pieces


def _of_nucleus(items: list[_Item], i: int) -> bool:
    """Whether the granules or vacuoles named at `i` are said to be of the nucleus, in it or had by it, or around something."""
    if i and items[i - 1].text == "nuclear":
        return True
    k = i + 1
    while k < len(items) and items[k].kind not in ("stop", "comma", "and", "or", "noun"):
        if items[k].text in ("with", "while", "whose", "but"):
            break
        if items[k].text in ("around", "between"):
            return True
        k += 1
    if k < len(items) and items[k].names(_NUCLEUS, _CHROMATIN):
        return True
    parted = had = False
    for k in range(i - 1, -1, -1):
        item = items[k]
        if item.kind == "stop":
            return False
        if item.kind == "noun":
            return item.text in (_NUCLEUS, _CHROMATIN) and (had or not parted)
        parted |= item.kind in ("and", "or", "comma")
        had |= item.kind == "having" and not parted
    return False


def _loose(items: list[_Item]) -> set[str]:
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


def _denied_noun(items: list[_Item], i: int) -> int | None:
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
        if k < len(items) and items[k].names(_VACUOLE, _GRANULE):
            return k
    if items[i].kind == "absent" or items[i].text == "not":
        k = _before(items, i, "copula", "neutral", "seen")
        if k >= 0 and items[k].names(_VACUOLE, _GRANULE):
            return k
    return None


def _alternatives(items: list[_Item]) -> set[str]:
    """ "or", where it does not join what is said not to be there ("no vacuoles or granules")."""
    for i, item in enumerate(items):
        if item.kind == "or":
            k = i - 1
            while k >= 0 and items[k].kind not in ("negator", "stop", "comma"):
                k -= 1
            if k < 0 or items[k].kind != "negator" or _denied_noun(items, k) is None:
                return {"or"}
    return set()


def _misplaced(items: list[_Item]) -> set[str]:
    """Exceptions ("no granules but in the nucleus"), and other things than chromatin that are said to lie in the nucleus."""
    found = set()
    for i, item in enumerate(items):
        if item.text == "but":
            rest = items[
                i + 1 : next((k for k in range(i, len(items)) if items[k].kind == "stop"), len(items))
            ]
            if not any(one.kind == "negator" or one.text in (_VACUOLE, _GRANULE) for one in rest):
                found.add("but")
        if item.names(_NUCLEUS):
            k = i - 1
            while k >= 0 and (
                items[k].kind in ("word", "neutral", "article") or items[k].text in ("the", "its")
            ):
                k -= 1
            if k >= 1 and items[k].text in ("in", "within", "inside"):
                before = [one.text for one in items[:k] if one.kind == "noun" or one.kind == "stop"]
                if before and before[-1] in (_CELL, _CYTOPLASM):
                    found.add(items[k].text)
    return found


def _repeated(items: list[_Item]) -> set[str]:
    """What is spoken of as one more although there is one: "a cell and a small cell"."""
    times: Counter[str] = Counter()
    for i, item in enumerate(items):
        if item.names(_CELL, _NUCLEUS):
            k = _before(items, i, "word", "neutral", "comma", "and")
            times[item.text] += k >= 0 and items[k].kind == "article"
    return {text for text, n in times.items() if n > 1}


def _adjectives(items: list[_Item]) -> tuple[list[tuple[int, str, _Meaning | None]], dict[int, int]]:
    """Where adjectives stand, what they are said of and what they mean of it, None for nothing; and nouns → the first adjective before them."""
    found: list[tuple[int, str, _Meaning | None]] = []
    described: dict[int, int] = {}
    predicates: set[int] = set()
    for i, item in enumerate(items):
        if item.kind == "word":
            noun = _noun_of(items, i, predicates)
            topic = _CELL if noun is None else items[noun].text if noun >= 0 else _OTHER
            anywhere = item.means.get(_ANY)
            fits = anywhere is not None and topic in _FITS[anywhere[0]]
            found.append((i, topic, item.means.get(topic) or (anywhere if fits else None)))
            if noun is not None and noun > i:
                described.setdefault(noun, i)
    return found, described


def _noun_of(items: list[_Item], i: int, predicates: set[int]) -> int | None:
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
        return j
    before = items[i - 1] if i else _Item("stop")
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


def _before(items: list[_Item], i: int, *kinds: str) -> int:
    """Index of the nearest item before `i` that is of none of these kinds, -1 where there is none."""
    k = i - 1
    while k >= 0 and items[k].kind in kinds:
        k -= 1
    return k


def _subject(items: list[_Item], i: int) -> int | None:
    """The noun that the clause around `i` is about: the nearest before it but for those that tell where ("of the cell")."""
    for k in range(i - 1, -1, -1):
        if items[k].kind == "stop":
            return None
        if items[k].kind == "noun":
            b = k - 1
            while b >= 0 and (
                items[b].kind in ("article", "word", "neutral") or items[b].text in ("the", "this", "its")
            ):
                b -= 1
            if b < 0 or items[b].text not in ("of", "in", "within", "around", "inside", "from"):
                return k
    return None


def _denied(items: list[_Item], i: int) -> bool:
    """Whether the adjective at `i` is said not to hold."""
    k = _before(items, i, "word", "neutral", "article", "and", "or")
    return k >= 0 and items[k].kind == "negator"


def _there(items: list[_Item], noun: int, first: int | None) -> bool | None:
    """Whether the things named at `noun` are said to be there; None where only such of one kind are said not to be.

    `first`: the first of the adjectives that describe them.
    """
    k = (noun if first is None else first) - 1
    unknown = 0
    while k >= 0:
        item = items[k]
        if item.kind == "unknown" and unknown < 2:
            unknown += 1
        elif item.kind in ("and", "comma"):
            # "no vacuoles and pink granules" has granules; "no vacuoles and granules" has none.
            after = items[noun + 1].kind if noun + 1 < len(items) else ""
            if first is not None or (item.kind == "comma" and after not in ("and", "or")):
                break
        elif not (
            item.kind in ("neutral", "seen", "or", "article", "having", "copula")
            or (item.names(_VACUOLE, _GRANULE) and items[k + 1].kind != "having")
        ):
            break
        k -= 1
    if k >= 0 and items[k].kind == "negator":
        before = _before(items, k, "neutral", "copula", "having", "connective", "article")
        part = (
            items[k].text.startswith("none of") and noun + 1 < len(items) and items[noun + 1].kind == "copula"
        )
        if items[k].text in _LITTLE or part or (before >= 0 and items[before].kind == "negator"):
            return None
        return False if first is None else None
    k = noun + 1
    while k < len(items) and (
        (
            (items[k].kind in ("copula", "neutral", "and", "or", "connective") or items[k].text == "there")
            and items[k].text not in ("with", "which", "that", "but")
        )
        or (items[k].names(_VACUOLE, _GRANULE))
    ):
        k += 1
    if k + 1 < len(items) and items[k].kind == "comma" and items[k + 1].kind == "absent":  # "vacuoles: none"
        k += 1
    if k < len(items) and items[k].kind == "absent":
        return False if first is None else None
    if k < len(items) and items[k].text == "not":
        after = items[k + 1].kind if k + 1 < len(items) else "stop"
        if after in ("seen", "neutral", "stop"):
            return False if first is None else None
    return True
