"""The words for a cell's attributes: which ones a caption is made of, and which pieces a text is read as.

One table serves both ways, so that what `classifier.captions` writes is what `classifier.phrases` reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

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

CELL, NUCLEUS, CHROMATIN, RATIO = "cell", "nucleus", "chromatin", "ratio"
CYTOPLASM, VACUOLE, GRANULE, OTHER = "cytoplasm", "vacuole", "granule", "other"
OF_THINGS = {"cytoplasm_vacuole": VACUOLE, "granularity": GRANULE}  # attribute → what there is or is not
ANY = "any"  # of words that mean the same of all that has the attribute (`FITS`)

_SAID_OF = {
    "cell_size": CELL,
    "cell_shape": CELL,
    "nucleus_shape": NUCLEUS,
    "nuclear_cytoplasmic_ratio": RATIO,
    "chromatin_density": CHROMATIN,
    "cytoplasm_texture": CYTOPLASM,
    "cytoplasm_colour": CYTOPLASM,
    "granule_type": GRANULE,
    "granule_colour": GRANULE,
}

# What has an attribute beside what it is said of as a rule.
FITS = {
    "nucleus_shape": (NUCLEUS, CELL),
    "nuclear_cytoplasmic_ratio": (CELL, NUCLEUS, CYTOPLASM),
    "cytoplasm_texture": (CYTOPLASM, CELL),
    "cytoplasm_vacuole": (CYTOPLASM, CELL),
    "granularity": (CYTOPLASM, CELL),
    "granule_type": (CYTOPLASM, CELL),
}

# What people write besides: (what it is said of, attribute, value) → adjectives and phrases.
_UNDERSTOOD: dict[tuple[str, str, str], str] = {
    (CELL, "cell_size", "big"): "big sized, large sized, huge, enlarged",
    (CELL, "cell_size", "small"): "small sized, little, tiny",
    (CELL, "cell_shape", "round"): "spherical",
    (CELL, "cell_shape", "irregular"): "misshapen, irregularly outlined, irregularly contoured",
    (
        NUCLEUS,
        "nucleus_shape",
        "unsegmented-round",
    ): "rounded, spherical, unsegmented round, round unsegmented",
    (ANY, "nucleus_shape", "unsegmented-indented"): "kidney shaped, bean shaped, reniform, kidney like",
    (NUCLEUS, "nucleus_shape", "unsegmented-indented"): "notched, cleaved, convoluted, kidney",
    (ANY, "nucleus_shape", "unsegmented-band"): (
        "band shaped, band like, band form, horseshoe shaped, horseshoe like, u shaped, c shaped, s shaped, "
        "shaped like a band, shaped like a horseshoe"
    ),
    (
        NUCLEUS,
        "nucleus_shape",
        "unsegmented-band",
    ): "band, ribbon like, rod shaped, curved, horseshoe",
    (CELL, "nucleus_shape", "unsegmented-band"): "band",
    (ANY, "nucleus_shape", "segmented-bilobed"): (
        "bilobed, bi lobed, bilobate, two lobed, 2 lobed, two lobes, 2 lobes, bisegmented, two segments, "
        "double lobed"
    ),
    (ANY, "nucleus_shape", "segmented-multilobed"): (
        "multilobed, multi lobed, many lobed, multilobate, multilobulated, multisegmented, multi segmented, "
        "polymorphonuclear, polylobed, several lobes, multiple lobes, many lobes, three lobes, four lobes, five lobes, "
        "3 lobes, 4 lobes, 5 lobes, three to five lobes, three or more lobes, more than two lobes, three lobed, "
        "four lobed, five lobed, several segments, multiple segments, hypersegmented"
    ),
    (NUCLEUS, "nucleus_shape", "irregular"): "misshapen, irregularly outlined, irregularly contoured",
    (RATIO, "nuclear_cytoplasmic_ratio", "low"): "decreased, reduced",
    (RATIO, "nuclear_cytoplasmic_ratio", "high"): "increased, raised, elevated, large",
    (CYTOPLASM, "nuclear_cytoplasmic_ratio", "low"): (
        "abundant, plentiful, ample, copious, plenty of, much, a lot of, lots of, generous"
    ),
    (CYTOPLASM, "nuclear_cytoplasmic_ratio", "high"): (
        "scant, scanty, little, sparse, a narrow rim of, a thin rim of, narrow rim of, thin rim of, thin"
    ),
    (NUCLEUS, "nuclear_cytoplasmic_ratio", "high"): (
        "fills most of the cell, fills nearly the whole cell, takes up most of the cell, occupies most of the cell, "
        "fills almost the whole cell, occupying most of the cell, filling most of the cell, "
        "taking up most of the cell, dominates the cell"
    ),
    (ANY, "nuclear_cytoplasmic_ratio", "high"): (
        "hardly any cytoplasm, barely any cytoplasm, almost no cytoplasm, scarcely any cytoplasm"
    ),
    (
        CHROMATIN,
        "chromatin_density",
        "densely",
    ): "tightly packed, tight, clumped, coarsely clumped, dark, coarse",
    (NUCLEUS, "chromatin_density", "densely"): "condensed, dense, compact, densely packed, pyknotic",
    (CHROMATIN, "chromatin_density", "loosely"): (
        "loosely arranged, decondensed, dispersed, finely dispersed, fine, delicate, lacy, uncondensed, airy"
    ),
    (CYTOPLASM, "cytoplasm_texture", "clear"): "see through",
    (ANY, "cytoplasm_texture", "frosted"): (
        "frosted, ground glass, like ground glass, ground glass like, like frosted glass, frosted glass"
    ),
    (CYTOPLASM, "cytoplasm_texture", "frosted"): "frosty, cloudy, murky, opaque",
    (CYTOPLASM, "cytoplasm_colour", "light blue"): (
        "pale bluish, faint blue, faintly blue, lightly blue, weakly basophilic, slightly basophilic, "
        "lightly basophilic, sky blue"
    ),
    (CYTOPLASM, "cytoplasm_colour", "blue"): (
        "bluish, deep blue, deeply blue, dark blue, strongly blue, basophilic, deeply basophilic, "
        "strongly basophilic, medium blue"
    ),
    (CYTOPLASM, "cytoplasm_colour", "purple blue"): (
        "purple blue, violet blue, bluish violet, purplish blue, blue purple, blue violet, purplish, purple, violet"
    ),
    (ANY, "cytoplasm_vacuole", "yes"): "vacuolated, vacuolised, vacuolized, foamy",
    (ANY, "cytoplasm_vacuole", "no"): "unvacuolated, nonvacuolated, non vacuolated",
    (ANY, "granularity", "yes"): "granular, granulated",
    (
        ANY,
        "granularity",
        "no",
    ): "agranular, nongranular, non granular, ungranulated, agranulated, granule less",
    (ANY, "granule_type", "small"): "finely granular, finely granulated",
    (ANY, "granule_type", "coarse"): "coarsely granular, coarsely granulated",
    (GRANULE, "granule_type", "small"): "minute, dust like, little",
    (GRANULE, "granule_type", "round"): "spherical, circular",
    (GRANULE, "granule_type", "coarse"): "rough",
    (GRANULE, "granule_colour", "pink"): "pinkish, rose, rosy, salmon, salmon pink",
    (GRANULE, "granule_colour", "red"): (
        "reddish, orange, reddish orange, orange red, brick red, red orange, eosinophilic"
    ),
    (GRANULE, "granule_colour", "purple"): (
        "dark purple, deep purple, dark violet, purplish, blue black, basophilic, reddish purple, red purple"
    ),
}

# Several values, none of them named: they count where the text says nothing closer of the nucleus.
SEGMENTED = ("segmented-bilobed", "segmented-multilobed")
UNSEGMENTED = ("unsegmented-round", "unsegmented-indented", "unsegmented-band")
_GROUPS = {
    SEGMENTED: (
        "segmented, lobed, lobulated, lobes, segments, two to five lobes, two or more lobes, two or three lobes, "
        "two to four lobes, two to three lobes, 2 to 3 lobes, 2 or 3 lobes, 2 3 lobes, 2 to 4 lobes, 2 4 lobes, 2 to 5 lobes, 2 5 lobes"
    ),
    UNSEGMENTED: "unsegmented, non segmented, nonsegmented, unlobed, non lobed, undivided, single lobed, one lobe",
}

_NOUNS: dict[str, str] = {
    CELL: (
        "cell, cells, cell body, cell outline, cell shape, cell size, leucocyte, leukocyte, lymphocyte, monocyte, neutrophil, "
        "eosinophil, basophil, blast, lymphoblast, myeloblast, granulocyte, erythroblast, platelet, leucocytes, leukocytes, "
        "lymphocytes, monocytes, neutrophils, eosinophils, basophils, blasts, lymphoblasts, myeloblasts, granulocytes, "
        "erythroblasts, platelets"
    ),
    NUCLEUS: "nucleus, nuclei, nuclear outline, nuclear contour, nuclear shape, nuclear membrane",
    CHROMATIN: "chromatin, chromatin pattern, chromatin structure, nuclear chromatin",
    RATIO: (
        "nuclear to cytoplasmic ratio, nuclear cytoplasmic ratio, nucleus to cytoplasm ratio, nucleo cytoplasmic ratio, "
        "nuclear to cytoplasm ratio, nucleocytoplasmic ratio, nc ratio, ratio of nucleus to cytoplasm, nuclear ratio, "
        "ratio of the nucleus to the cytoplasm, nc"
    ),
    CYTOPLASM: "cytoplasm, cytoplasms, cytoplasmic colour, cytoplasmic color, cytoplasmic texture",
    VACUOLE: "vacuole, vacuoles, vacuolation, vacuolisation, vacuolization",
    GRANULE: "granule, granules, granulation, granulations, granularity, grains",
    OTHER: (
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
LITTLE = ("hardly any", "hardly", "barely", "scarcely", "less", "fewer")
_NEGATORS = (
    "no, not, without, sans, minus, never, nothing, neither, nor, clear of, clear from, lack, lacks, lacking, non, zero, free of, free from, devoid of, absence of, "
    f"lack of, lacks any, none of, none of the, none of its, {', '.join(LITTLE)}"
)
_ABSENT = "absent, missing, lacking, none, free, nil"
_SEEN = "seen, shown, visible, present, found, discernible, detectable, apparent, observed, evident, there, recognisable"
_CONNECTIVES = (
    "with, in, of, to, on, at, by, while, whose, which, that, its, the, this, these, it, as, but, for, from, around, "
    "within, inside, between, there, also, who, where, such, does, do, did, has been, under the microscope, under a microscope"
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
    "strongly basophilic, sky blue, huge, enlarged, dark purple, deep purple, dark violet, blue black, reddish purple, red purple, "
    "hardly any cytoplasm, barely any cytoplasm, almost no cytoplasm, scarcely any cytoplasm"
)
# Adjectives that describe a cell, in ways that the vocabulary has no value for.
_OUTSIDE = (
    "many, few, numerous, single, white, medium sized, medium, oval, central, eccentric, scattered, pale, bright, grey, gray, "
    "greyish, grayish, grey blue, gray blue, greyish blue, grayish blue, blue grey, blue gray, smooth, mature, immature, typical, "
    "characteristic"
)
_STOPS = {".", ";", "!", "?"}


Meaning = tuple[str, tuple[str, ...]]  # an attribute and values of it


@dataclass(frozen=True)
class Item:
    """A piece of a text: what kind of piece, and of an adjective what it means of what it is said of."""

    kind: str  # word, noun, copula, having, negator, absent, seen, and, or, article, neutral, connective, stop, comma, unknown
    text: str = ""  # of a noun: what it names
    means: Mapping[str, Meaning] = field(default_factory=dict)
    outside: bool = False  # whether it says something that the vocabulary does not have
    plural: bool = False  # of a noun

    def names(self, *topics: str) -> bool:
        """Whether it is a noun for one of these."""
        return self.kind == "noun" and self.text in topics


@cache
def _lexicon() -> dict[tuple[str, ...], Item]:
    """What the words, and the sequences of words, are that are known."""
    table: dict[tuple[str, ...], Item] = {}
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
        table |= {key: Item(kind, " ".join(key)) for key in _keys(words)}
    for kind, words in {
        "neutral": f"{_OUTSIDE}, {_DEGREES}",
        "copula": _HEDGES,
        "connective": _CONDITIONS,
    }.items():
        table |= {key: Item(kind, " ".join(key), outside=True) for key in _keys(words)}
    for topic, words in _NOUNS.items():
        table |= {key: Item("noun", topic, plural=key[-1] in _PLURALS) for key in _keys(words)}
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
            means(key, ANY, "nucleus_shape", values)
    sharper = set(_keys(_SHARPER))
    return table | {
        key: Item("word", " ".join(key), meaning, key in sharper) for key, meaning in meanings.items()
    }


def _keys(words: str) -> list[tuple[str, ...]]:
    return [tuple(phrase.split()) for phrase in words.split(", ")]


@cache
def _longest() -> int:
    return max(map(len, _lexicon()))


def equivalents(word: str) -> list[str]:
    """Words that stand for this one where it is not known: the plural or singular of a noun, "no" for another negator.

    >>> equivalents("granule"), equivalents("nuclei"), equivalents("without"), equivalents("fill")
    (['granules'], ['nucleus'], ['no'], [])
    """
    item = _lexicon().get((word,), Item("unknown"))
    if item.kind == "negator":
        return [] if word in LITTLE else ["no"]
    forms = (f"{word}s", word.removesuffix("s"), re.sub("us$", "i", word), re.sub("i$", "us", word))
    nouns = (form for form in forms if _lexicon().get((form,), Item("unknown")).names(item.text))
    return [form for form in nouns if form != word] if item.kind == "noun" else []


def normalised(text: str) -> str:
    """NFKC, every white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def lowered(text: str) -> str:
    """`normalised`, in lower case, with typewriter apostrophes."""
    return re.sub("[’‘ʼ`]", "'", normalised(text).lower())


def _tokens(text: str) -> list[str]:
    """Words in lower case, and punctuation marks; a hyphen within a word parts it."""
    text = re.sub(r"(?<=\w) ?& ?(?=\w)", " and ", lowered(text))
    text = re.sub(r"\b(nucleus|nuclear|n)\s?[:/]\s?(cytoplasm|cytoplasmic|c)\b", "nc", text)
    text = re.sub(r"\bw/o(?:ut)?\b", "without", text)
    text = re.sub(r"\b(do|does|did|is|are|was|were|has|have)nt\b", r"\1 not", text)
    text = re.sub(r"(?<=\w)'s\b", "", text).replace("n't", " not").replace("cannot", "can not")
    text = re.sub(r"\s[-–—]\s|—", ", ", text)
    text = re.sub(r"[-‐‑–]", " ", text)
    return re.findall(r"\w+|[^\w\s]", text)


def items_of(text: str) -> list[Item]:
    """The text as known pieces, the longest first."""
    lexicon, tokens = _lexicon(), _tokens(text)
    items: list[Item] = []
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
            items.append(Item(kind, mark))
            at += 1
    return items
