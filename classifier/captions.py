"""Captions of cells: from attributes, from measured morphology and from what is known of classes.

What is seen in an image and what is known of the disease are two things: `describe` and
`class_sentences` tell the first; `ClassKnowledge.known` holds the second, and no caption has anything of it. Every
function is pure: the same arguments give the same sentences, on every machine.
"""

from __future__ import annotations

import difflib
import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd

from balancer.data.attributes import completed
from balancer.errors import InputError
from balancer.files import read_json
from classifier.phrases import MUCH_NUCLEUS, RATIO_NAMES, WORDS, normalised

MOST_CHARACTERS = 2000

Facts = Mapping[str, str]


# From attributes


def describe(attributes: Mapping[str, str], seed: int) -> str:
    """One or more sentences that state the known attributes (name → value of WBCAtt) and nothing else.

    `stated` finds in them just what `completed` makes of the attributes. Without any: "A blood cell." No class and no
    disease is named. Raises InputError for an attribute or a value outside the vocabulary.
    """
    body = _body(completed(attributes), _draw("describe", seed, sorted(attributes.items())))
    opening = _draw("opening", seed, sorted(attributes.items())).choice(("", "This is ", "The image shows "))
    return _capital(opening + body if body.startswith(("a ", "an ")) else body)


def _draw(*key: object) -> random.Random:
    """Random numbers that depend on the key alone: seeding by text is the same on every machine."""
    return random.Random(repr(key))


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _body(facts: Facts, draw: random.Random) -> str:
    """Sentences that state facts, the first without its capital."""
    if not facts:
        return draw.choice(("a blood cell.", "a single blood cell."))
    return draw.choice((_in_one_sentence, _in_sentences, _in_a_list))(facts, draw)


def _in_one_sentence(facts: Facts, draw: random.Random) -> str:
    """ "a small, round cell with a low N:C ratio; its nucleus is …; the cytoplasm is … and contains …"."""
    ratio = _ratio(facts, draw)
    head = _cell(facts, draw) + (f" with {ratio}" if ratio else "")
    return (
        "; ".join([head, *_shuffled([_nucleus_clause(facts, draw), _cytoplasm_clause(facts, draw)], draw)])
        + "."
    )


def _in_sentences(facts: Facts, draw: random.Random) -> str:
    """ "the cell is small and round. Its nucleus … . The cytoplasm …"."""
    adjectives = _adjectives(facts, draw, "cell_size", "cell_shape")
    cell = f"{draw.choice(('the cell', 'this cell'))} is {' and '.join(adjectives)}" if adjectives else ""
    sentences = [cell, *_shuffled([_nucleus_clause(facts, draw), _cytoplasm_clause(facts, draw)], draw)]
    ratio = facts.get("nuclear_cytoplasmic_ratio")
    if ratio == "high" and draw.random() < 0.3:
        sentences.append(f"the nucleus {MUCH_NUCLEUS}")
    elif ratio:
        name = draw.choice(RATIO_NAMES)
        sentences.insert(
            draw.choice((1, len(sentences))),
            f"the {name} is {_word(facts, draw, 'nuclear_cytoplasmic_ratio')}",
        )
    first, *others = [sentence for sentence in sentences if sentence]
    first = re.sub("^its ", "the ", first)  # nothing has been named that it could be
    return ". ".join([first, *map(_capital, others)]) + "."


def _in_a_list(facts: Facts, draw: random.Random) -> str:
    """ "a small, round cell with a low N:C ratio, a bilobed nucleus, …, pink granules and no vacuoles."."""
    there, missing = _inclusions(facts, draw)
    nucleus = _adjectives(facts, draw, "nucleus_shape")
    chromatin = _adjectives(facts, draw, "chromatin_density")
    cytoplasm = _adjectives(facts, draw, "cytoplasm_texture", "cytoplasm_colour")
    parts = [
        _ratio(facts, draw),
        _with_article(f"{nucleus[0]} nucleus".replace(",", "")) if nucleus else "",
        f"{chromatin[0]} chromatin" if chromatin else "",
        f"{' '.join(cytoplasm)} cytoplasm" if cytoplasm else "",
        *there,
    ]
    parts = _shuffled(parts, draw)
    if missing:  # last, so that nothing else can seem to be missing
        parts.append(_without(missing, draw))
    return _cell(facts, draw) + (f" with {_joined(parts)}" if parts else "") + "."


def _cell(facts: Facts, draw: random.Random) -> str:
    adjectives = ", ".join(_adjectives(facts, draw, "cell_size", "cell_shape"))
    return _with_article(f"{adjectives} {draw.choice(('cell', 'blood cell'))}".lstrip())


def _ratio(facts: Facts, draw: random.Random) -> str:
    words = _adjectives(facts, draw, "nuclear_cytoplasmic_ratio")
    return f"a {words[0]} {draw.choice(RATIO_NAMES)}" if words else ""


def _nucleus_clause(facts: Facts, draw: random.Random) -> str:
    nucleus = _adjectives(facts, draw, "nucleus_shape")
    chromatin = _adjectives(facts, draw, "chromatin_density")
    owner = draw.choice(("the", "its"))
    if nucleus and chromatin:
        shape = nucleus[0].replace(", ", " and ")
        return draw.choice(
            (
                f"{owner} nucleus is {shape} with {chromatin[0]} chromatin",
                f"{owner} nucleus is {shape} and its chromatin is {chromatin[0]}",
                f"{owner} {nucleus[0]} nucleus has {chromatin[0]} chromatin",
            )
        )
    if nucleus:
        return f"{owner} nucleus is {nucleus[0].replace(', ', ' and ')}"
    return f"{owner} chromatin is {chromatin[0]}" if chromatin else ""


def _cytoplasm_clause(facts: Facts, draw: random.Random) -> str:
    adjectives = _adjectives(facts, draw, "cytoplasm_texture", "cytoplasm_colour")
    there, missing = _inclusions(facts, draw)
    contents = _contents(there, missing, draw)
    holds = draw.choice(("contains", "holds", "has"))
    owner = draw.choice(("the", "its"))
    if not adjectives:
        return f"{owner} cytoplasm {holds} {contents}" if contents else ""
    if not contents:
        return f"{owner} cytoplasm is {' and '.join(adjectives)}"
    return draw.choice(
        (
            f"{owner} cytoplasm is {' and '.join(adjectives)} and {holds} {contents}",
            f"{owner} {', '.join(adjectives)} cytoplasm {holds} {contents}",
        )
    )


def _contents(there: Sequence[str], missing: Sequence[str], draw: random.Random) -> str:
    """What the cytoplasm contains, as the object of a verb."""
    without = _without(missing, draw) if missing else ""
    return " but ".join(part for part in (" and ".join(there), without) if part)


def _without(missing: Sequence[str], draw: random.Random) -> str:
    if len(missing) == 1:
        return f"no {missing[0]}"
    return draw.choice((f"no {' or '.join(missing)}", f"neither {' nor '.join(missing)}"))


def _inclusions(facts: Facts, draw: random.Random) -> tuple[list[str], list[str]]:
    """What there is of vacuoles and granules, the latter with type and colour, and what there is not."""
    there, missing = [], []
    for attribute, noun in (("cytoplasm_vacuole", "vacuoles"), ("granularity", "granules")):
        if attribute not in facts:
            continue
        if facts[attribute] == "no":
            missing.append(noun)
        elif noun == "granules":
            adjectives = _adjectives(facts, draw, "granule_type", "granule_colour")
            there.append(" ".join([*adjectives, noun]))
        else:
            there.append(noun)
    return _shuffled(there, draw), _shuffled(missing, draw)


def _word(facts: Facts, draw: random.Random, attribute: str) -> str:
    return draw.choice(WORDS[attribute][facts[attribute]])


def _adjectives(facts: Facts, draw: random.Random, *attributes: str) -> list[str]:
    """A word for each of the attributes that is known, in their order."""
    return [_word(facts, draw, name) for name in attributes if name in facts]


def _shuffled(parts: Iterable[str], draw: random.Random) -> list[str]:
    kept = [part for part in parts if part]
    return draw.sample(kept, len(kept))


def _with_article(noun: str) -> str:
    """
    >>> _with_article("irregular cell"), _with_article("U-shaped nucleus")
    ('an irregular cell', 'a U-shaped nucleus')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


# From measured morphology


@dataclass(frozen=True)
class Range:
    """A measured column from `least` to `most`, both included, supports a value of an attribute."""

    attribute: str
    value: str
    column: str
    least: float
    most: float


def _disc(diameter: float) -> float:
    return math.pi / 4 * diameter**2


MEASURED: tuple[Range, ...] = (
    # Where outlines fail, the cell's falls to the nucleus's: a share near 1 supports nothing.
    Range("nuclear_cytoplasmic_ratio", "low", "nc_ratio", 0.0, 0.70),
    Range("nuclear_cytoplasmic_ratio", "high", "nc_ratio", 0.70, 0.95),
    Range("chromatin_density", "loosely", "chromatin_density", 0.0, 0.39),
    Range("chromatin_density", "densely", "chromatin_density", 0.435, math.inf),
    # Not that there are some: gaps between granules are counted too.
    Range("cytoplasm_vacuole", "no", "vacuoles", 0, 0),
    Range("cell_shape", "irregular", "cell_circularity", 0.0, 0.69),
    Range("cell_shape", "round", "cell_circularity", 0.955, 1.0),
    Range("nucleus_shape", "unsegmented-round", "nucleus_solidity", 0.966, 1.0),
    # A micrometre on either side of the 12 µm that part small from big in `balancer.smear`.
    Range("cell_size", "small", "cell_area_um2", 0.0, _disc(11)),
    Range("cell_size", "big", "cell_area_um2", _disc(13), math.inf),
)
"""What measures support, on masks by segmentation. Colours, texture, granules and lobes are not supported well enough.

Chosen on one half (3,050 images by hash) of PBC's train images with WBCAtt's attributes such that a value, were it as
frequent as the others together, would be right in 85 % of the cells of which it is stated; for chromatin and the nucleus
in 90 %, which no range of a high N:C reaches. Between the ranges nothing is stated. On the other half (3,110), at PBC's own
frequencies, under which the rare values are more often wrong:

| attribute | stated of | accuracy | balanced | right where it is stated |
|---|---|---|---|---|
| nuclear_cytoplasmic_ratio | 100 % | 0.87 | 0.88 | high 0.49, low 0.98 |
| chromatin_density | 82 % | 0.92 | 0.92 | loosely 0.54, densely 0.99 |
| cytoplasm_vacuole | 49 % | 0.99 | – | no 0.99 |
| cell_shape | 69 % | 0.94 | 0.73 | irregular 0.75, round 0.95 |
| nucleus_shape | 15 % | 0.59 | – | unsegmented-round 0.59 |

A high ratio is stated wrongly mostly of basophils (four in five), whose granules are taken for nucleus. PBC has no scale:
both sizes are a convention, not calibrated.
"""


def measured_attributes(measures: Mapping[str, float | None]) -> dict[str, str]:
    """The attributes that the measures of a cell support (columns of `balancer.imaging.morphology.measure`; others are ignored).

    What is missing, None or NaN supports nothing; see `MEASURED` for what does.
    """
    found: dict[str, str] = {}
    for rule in MEASURED:
        value = measures.get(rule.column)
        if value is not None and rule.least <= value <= rule.most:
            found[rule.attribute] = rule.value
    return found


# From what is known of classes


@dataclass(frozen=True)
class ClassKnowledge:
    """What textbooks say of a class.

    `name`: a noun that takes an article; `attributes`: WBCAtt's attributes that are typical of it, others vary or do not
    apply; `seen`: what else an image may show, whole sentences; `known`: what is known and no image shows, "" for nothing.
    """

    name: str
    attributes: Mapping[str, str]
    seen: tuple[str, ...]
    known: str


_NO_GRANULES = {"granule_type": "nil", "granule_colour": "nil", "granularity": "no"}
_GRANULOCYTE = {
    "cell_shape": "round",
    "nuclear_cytoplasmic_ratio": "low",
    "chromatin_density": "densely",
    "cytoplasm_vacuole": "no",
    "cytoplasm_texture": "clear",
    "cytoplasm_colour": "light blue",
    "granularity": "yes",
}
_NEUTROPHIL = _GRANULOCYTE | {"cell_size": "big", "granule_type": "small", "granule_colour": "pink"}
_LYMPHOBLAST = {
    "cell_shape": "round",
    "nucleus_shape": "unsegmented-round",
    "nuclear_cytoplasmic_ratio": "high",
    "chromatin_density": "loosely",
    "cytoplasm_colour": "blue",
    **_NO_GRANULES,
}
_LYMPHOBLAST_SEEN = (
    "Nucleoli are few, faint or not seen.",
    "The cytoplasm is a narrow rim around the nucleus.",
    "The outline of the nucleus may have a cleft.",
)
_ALL = "Acute lymphoblastic leukaemia is the commonest cancer of childhood and progresses fast."
_MARKERS = "The subtype is told by markers on the surface of the cells, not by their look."

CLASSES: dict[str, ClassKnowledge] = {
    "neutrophil": ClassKnowledge(
        "neutrophil",
        _NEUTROPHIL,
        (
            "The nucleus is a curved band or falls into two to five lobes.",
            "Thin strands join the parts of the nucleus.",
        ),
        "Neutrophils are the commonest leucocytes of adult blood and fight bacteria.",
    ),
    "band neutrophil": ClassKnowledge(
        "band neutrophil",
        _NEUTROPHIL | {"nucleus_shape": "unsegmented-band"},
        ("The nucleus is bent and about as wide in the middle as at its ends.",),
        "Band neutrophils are the last stage before the mature cell; more of them come with infection.",
    ),
    "segmented neutrophil": ClassKnowledge(
        "segmented neutrophil",
        _NEUTROPHIL | {"nucleus_shape": "segmented-multilobed"},
        ("Thin strands join the parts of the nucleus.",),
        "Segmented neutrophils are mature cells that fight bacteria.",
    ),
    "eosinophil": ClassKnowledge(
        "eosinophil",
        _GRANULOCYTE
        | {
            "cell_size": "big",
            "nucleus_shape": "segmented-bilobed",
            "granule_type": "round",
            "granule_colour": "red",
        },
        ("The granules are even in size and fill the cytoplasm.", "The granules lie close to each other."),
        "Eosinophils are more numerous in allergy and with parasites.",
    ),
    "basophil": ClassKnowledge(
        "basophil",
        _GRANULOCYTE | {"cell_size": "small", "granule_type": "coarse", "granule_colour": "purple"},
        ("The granules cover much of the nucleus and hide its outline.", "The granules differ in size."),
        "Basophils are the rarest leucocytes of healthy blood; more of them come with chronic myeloid leukaemia.",
    ),
    "monocyte": ClassKnowledge(
        "monocyte",
        {
            "cell_size": "big",
            "cell_shape": "irregular",
            "nucleus_shape": "unsegmented-indented",
            "nuclear_cytoplasmic_ratio": "low",
            "chromatin_density": "loosely",
            "cytoplasm_texture": "frosted",
            "cytoplasm_colour": "purple blue",
            **_NO_GRANULES,
        },
        ("The chromatin looks like folded strands.", "The edge of the cell may put out blunt processes."),
        "Monocytes leave the blood and become macrophages.",
    ),
    "lymphocyte": ClassKnowledge(
        "lymphocyte",
        {
            "cell_size": "small",
            "cell_shape": "round",
            "nucleus_shape": "unsegmented-round",
            "nuclear_cytoplasmic_ratio": "high",
            "chromatin_density": "densely",
            "cytoplasm_vacuole": "no",
            "cytoplasm_colour": "blue",
            **_NO_GRANULES,
        },
        ("The cytoplasm is a narrow rim around the nucleus.", "The chromatin forms smudged blocks."),
        "Lymphocytes carry the specific defence of the body.",
    ),
    "erythroblast": ClassKnowledge(
        "erythroblast",
        {
            "cell_size": "small",
            "cell_shape": "round",
            "nucleus_shape": "unsegmented-round",
            "chromatin_density": "densely",
            "cytoplasm_vacuole": "no",
            **_NO_GRANULES,
        },
        (
            "The chromatin is almost black.",
            "The tint of the cytoplasm lies between blue and the pink of a red cell.",
        ),
        "Erythroblasts are precursors of red cells and do not belong in the blood of healthy adults.",
    ),
    "platelet": ClassKnowledge(
        "platelet",
        {"cell_size": "small", "granule_type": "small", "granule_colour": "purple", "granularity": "yes"},
        ("There is no nucleus.", "It is far smaller than the red cells around it."),
        "Platelets are fragments of megakaryocytes and stop bleeding.",
    ),
    "immature granulocyte": ClassKnowledge(
        "immature granulocyte",
        {
            "cell_size": "big",
            "cell_shape": "round",
            "chromatin_density": "loosely",
            "cytoplasm_vacuole": "no",
            "granularity": "yes",
        },
        (
            "The nucleus is round, oval or kidney-shaped.",
            "The granules vary between fine and coarse and from purple to pink.",
        ),
        "Promyelocytes, myelocytes and metamyelocytes belong in the bone marrow; in blood they come with infection or "
        "with a disease of the marrow.",
    ),
    "ALL": ClassKnowledge("blast of acute lymphoblastic leukaemia", _LYMPHOBLAST, _LYMPHOBLAST_SEEN, _ALL),
    "AML": ClassKnowledge(
        "blast of acute myeloid leukaemia",
        {
            "cell_size": "big",
            "nuclear_cytoplasmic_ratio": "high",
            "chromatin_density": "loosely",
            "cytoplasm_colour": "blue",
        },
        (
            "One or more nucleoli stand out in the nucleus.",
            "Auer rods, slender needles in the cytoplasm, may be seen.",
            "The outline of the nucleus is often uneven.",
        ),
        "Acute myeloid leukaemia progresses fast and is the commonest acute leukaemia of adults.",
    ),
    "CLL": ClassKnowledge(
        "lymphocyte of chronic lymphocytic leukaemia",
        {
            "cell_size": "small",
            "cell_shape": "round",
            "nucleus_shape": "unsegmented-round",
            "nuclear_cytoplasmic_ratio": "high",
            "chromatin_density": "densely",
            "cytoplasm_vacuole": "no",
            "cytoplasm_colour": "light blue",
            **_NO_GRANULES,
        },
        (
            "The chromatin forms blocks with pale lines between them.",
            "Smudged remains of broken cells may lie nearby.",
            "Nucleoli are not seen.",
        ),
        "Chronic lymphocytic leukaemia progresses slowly and is a disease of older people.",
    ),
    "CML": ClassKnowledge(
        "granulocyte of chronic myeloid leukaemia",
        {"cell_size": "big", "cell_shape": "round", "granularity": "yes"},
        (
            "The nucleus is that of a granulocyte at any stage, from myelocyte to mature form.",
            "Other granulocytes of several stages may lie nearby.",
        ),
        "Chronic myeloid leukaemia comes from the fusion of the genes BCR and ABL1; it begins slowly and turns into an "
        "acute leukaemia where it is not treated.",
    ),
    "lymphoblast": ClassKnowledge("lymphoblast", _LYMPHOBLAST, _LYMPHOBLAST_SEEN, _ALL),
    "normal": ClassKnowledge(
        "normal leukocyte",
        {"chromatin_density": "densely"},
        ("The cell looks mature.", "Nucleoli are not seen."),
        "",
    ),
    "Benign": ClassKnowledge(
        "benign haematogone",
        {
            "cell_size": "small",
            "cell_shape": "round",
            "nucleus_shape": "unsegmented-round",
            "nuclear_cytoplasmic_ratio": "high",
            "chromatin_density": "densely",
            **_NO_GRANULES,
        },
        ("The chromatin is even.", "Nucleoli are not seen."),
        "Haematogones are normal precursors of B cells and no leukaemia.",
    ),
    "Early": ClassKnowledge(
        "blast of early pre-B acute lymphoblastic leukaemia",
        _LYMPHOBLAST,
        _LYMPHOBLAST_SEEN,
        f"{_ALL} {_MARKERS}",
    ),
    "Pre": ClassKnowledge(
        "blast of pre-B acute lymphoblastic leukaemia", _LYMPHOBLAST, _LYMPHOBLAST_SEEN, f"{_ALL} {_MARKERS}"
    ),
    "Pro": ClassKnowledge(
        "blast of pro-B acute lymphoblastic leukaemia", _LYMPHOBLAST, _LYMPHOBLAST_SEEN, f"{_ALL} {_MARKERS}"
    ),
}
"""Label → what is known of it. Attributes are those of most cells of the class in PBC where WBCAtt has it, but for vacuoles and
the shape of the nucleus where classes are divided; else from haematology's textbooks. ALL's subtypes look alike.
"""

ALIASES: dict[str, str] = {
    "ne": "neutrophil",
    "polymorphonuclear neutrophil": "neutrophil",
    "bne": "band neutrophil",
    "neutrophil band": "band neutrophil",
    "sne": "segmented neutrophil",
    "neutrophil segmented": "segmented neutrophil",
    "segmented": "segmented neutrophil",
    "eo": "eosinophil",
    "ba": "basophil",
    "mo": "monocyte",
    "ly": "lymphocyte",
    "typical lymphocyte": "lymphocyte",
    "erb": "erythroblast",
    "normoblast": "erythroblast",
    "nucleated red cell": "erythroblast",
    "thrombocyte": "platelet",
    "ig": "immature granulocyte",
    "pmy": "immature granulocyte",
    "my": "immature granulocyte",
    "mmy": "immature granulocyte",
    "promyelocyte": "immature granulocyte",
    "myelocyte": "immature granulocyte",
    "metamyelocyte": "immature granulocyte",
    "acute lymphoblastic leukaemia": "ALL",
    "acute lymphocytic leukaemia": "ALL",
    "acute myeloid leukaemia": "AML",
    "acute myelogenous leukaemia": "AML",
    "myeloblast": "AML",
    "chronic lymphocytic leukaemia": "CLL",
    "chronic myeloid leukaemia": "CML",
    "chronic myelogenous leukaemia": "CML",
    "healthy": "normal",
    "normal cell": "normal",
    "haematogone": "Benign",
    "hematogone": "Benign",
    "early pre b": "Early",
    "pre b": "Pre",
    "pro b": "Pro",
}
"""Other spellings → label. Capitals, a plural's s, hyphens, underscores and American spelling do not matter."""


def class_knowledge(label: str) -> ClassKnowledge | None:
    """What is known of a class by its label, in any spelling of `CLASSES` and `ALIASES`; None when nothing is."""
    names = {_plain(name): name for name in CLASSES} | {_plain(a): name for a, name in ALIASES.items()}
    found = names.get(_plain(label))
    return None if found is None else CLASSES[found]


def _plain(label: str) -> str:
    words = normalised(label).casefold().replace("-", " ").replace("_", " ").replace("leukemia", "leukaemia")
    return " ".join(word[:-1] if len(word) > 4 and word.endswith("s") else word for word in words.split())


def class_sentences(
    label: str,
    n: int,
    seed: int,
    given: Mapping[str, Sequence[str]] | None = None,
    named: bool = True,
) -> list[str]:
    """n texts of what is seen in cells of a class, varied by seed; with `named` they begin with the class's name.

    `given`: label → sentences of the user's own, which are taken instead, in turn and as they are. Raises InputError for a
    label of which nothing is known and for which none is given.
    """
    if own := (given or {}).get(label):
        return [own[i % len(own)] for i in range(n)]
    knowledge = class_knowledge(label)
    if knowledge is None:
        names = {_plain(name): name for name in (*CLASSES, *ALIASES)}
        near = difflib.get_close_matches(_plain(label), names, n=1, cutoff=0.5)
        hint = f" The nearest that is known is '{names[near[0]]}'." if near else ""
        raise InputError(
            f"Nothing is known of the class '{label}'; say what is seen in its cells with --sentences FILE (JSON or CSV: "
            f"label, sentence). Known: {', '.join(CLASSES)}.{hint}"
        )
    return [_class_text(knowledge, _draw("class", label, seed, i), named) for i in range(n)]


def class_facts(label: str, given: Mapping[str, Sequence[str]] | None = None, named: bool = True) -> str:
    """What `class_sentences` says of a class in whatever words: equal for classes of which the same is said."""
    if own := (given or {}).get(label):
        return json.dumps(sorted(set(own)))
    knowledge = class_knowledge(label)
    assert knowledge is not None, label  # or there would be no sentence
    name = knowledge.name if named else None
    return json.dumps([name, completed(knowledge.attributes), sorted(knowledge.seen)])


def _class_text(knowledge: ClassKnowledge, draw: random.Random, named: bool) -> str:
    body = _body(completed(knowledge.attributes), draw)
    name = _with_article(knowledge.name)
    first = f"{draw.choice(('', 'this is ', 'the image shows '))}{name}: {body}" if named else body
    seen = draw.sample(knowledge.seen, draw.randint(1, len(knowledge.seen)))
    return " ".join([_capital(first), *seen])


# From the user


def read_sentences(path: Path) -> dict[str, tuple[str, ...]]:
    """The user's own sentences by label: JSON {label: sentence or [sentences]}, or CSV with the columns label, sentence.

    Raises InputError for a file that is missing, damaged or of another kind, for a label without a sentence, and for a
    sentence that `check_text` refuses.
    """
    path = Path(path)
    kinds: dict[str, Callable[[Path], list[tuple[str, str]]]] = {".json": _from_json, ".csv": _from_csv}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path} is neither .json nor .csv; give sentences as one of them.")
    sentences: dict[str, tuple[str, ...]] = {}
    for label, sentence in kinds[path.suffix.lower()](path):
        try:
            checked = check_text(sentence)
        except InputError as error:
            raise InputError(f"{path}, class '{label}': {error}") from None
        sentences[label] = (*sentences.get(label, ()), checked)
    if not sentences:
        raise InputError(f"{path} has no sentence; give at least one, with its label.")
    return sentences


def _from_json(path: Path) -> list[tuple[str, str]]:
    content = read_json(path)
    form = 'write {"basophil": ["A cell with …", "…"]}.'
    if not isinstance(content, dict):
        raise InputError(f"{path} is no JSON object of labels and sentences; {form}")
    pairs = []
    for label, value in content.items():
        sentences = [value] if isinstance(value, str) else value
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences) or not sentences:
            raise InputError(
                f"{path} has neither a sentence nor a list of sentences for the class '{label}'; {form}"
            )
        pairs += [(label.strip(), sentence) for sentence in sentences]
    return pairs


def _from_csv(path: Path) -> list[tuple[str, str]]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if not isinstance(
            table.index, pd.RangeIndex
        ):  # more fields than columns: pandas takes the first for the index
            raise ValueError(
                "a row has more fields than the header; a sentence with a comma stands in quotes"
            )
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path} cannot be read as CSV ({error}); make it again.") from None
    missing = [column for column in ("label", "sentence") if column not in table]
    if missing:
        raise InputError(f"{path} has no column {' or '.join(missing)}; it needs label and sentence.")
    labels = table["label"].str.strip()
    if (labels == "").any():
        raise InputError(
            f"{path} has a sentence without a label in row {int((labels == '').argmax()) + 2}; give one."
        )
    return list(zip(labels, table["sentence"], strict=True))


def check_text(text: str) -> str:
    """A query or sentence in one line, NFKC, without blanks at its ends.

    Raises InputError for a text that is empty, longer than 2,000 characters, damaged, or without a word in Latin script: the
    text encoders here know no other.
    """
    line = normalised(text)
    if not line:
        raise InputError("The text is empty; write what is seen in the cell.")
    if any(unicodedata.category(character) in ("Cs", "Cc", "Cf") for character in line):
        raise InputError(
            "The text has characters that cannot be seen, perhaps from another encoding; write it again, in UTF-8."
        )
    if len(line) > MOST_CHARACTERS:
        raise InputError(
            f"The text has {len(line):,} characters; up to {MOST_CHARACTERS:,} are read. Shorten it."
        )
    letters = [c.isalpha() and unicodedata.name(c, "").startswith("LATIN") for c in line]
    if any(map(all, pairwise(letters))):
        return line
    if any(c.isalpha() and not latin for c, latin in zip(line, letters, strict=True)):
        raise InputError(
            f"No word of the text '{line[:40]}' is in Latin script, the only one that the text encoders here know; "
            "write it in English."
        )
    raise InputError(f"There is no word in the text '{line[:40]}'; write what is seen in the cell.")
