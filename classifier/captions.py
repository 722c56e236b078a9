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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from balancer.data.attributes import completed
from balancer.errors import InputError
from classifier.knowledge import ALIASES, CLASSES, ClassKnowledge, class_knowledge, plain
from classifier.lexicon import MUCH_NUCLEUS, RATIO_NAMES, WORDS

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
        names = {plain(name): name for name in (*CLASSES, *ALIASES)}
        near = difflib.get_close_matches(plain(label), names, n=1, cutoff=0.5)
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
    # No image shows a disease: the name says of what the rest is typical.
    name = f"{draw.choice(('', 'typical of '))}{_with_article(knowledge.name)}"
    first = f"{name}: {body}" if named else body
    seen = draw.sample(knowledge.seen, draw.randint(1, len(knowledge.seen)))
    return " ".join([_capital(first), *seen])
