"""What textbooks say of classes of cells, by label and other spellings of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from balancer.errors import InputError
from classifier.lexicon import normalised

_SHORT = 3  # letters of a name that may be a word of another meaning ("all")
_DENIAL = re.compile(
    r"\b(not|no|non|nor|neither|never|without|unlike|except)(?:[ -]\w+){0,2}[ -]$", re.IGNORECASE
)


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
_LYMPHOCYTE = {
    "cell_size": "small",
    "cell_shape": "round",
    "nucleus_shape": "unsegmented-round",
    "nuclear_cytoplasmic_ratio": "high",
    "chromatin_density": "densely",
    "cytoplasm_vacuole": "no",
    **_NO_GRANULES,
}
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
        _LYMPHOCYTE | {"cytoplasm_colour": "blue"},
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
        _LYMPHOCYTE | {"cytoplasm_colour": "light blue"},
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
    names = {plain(name): name for name in CLASSES} | {plain(a): name for a, name in ALIASES.items()}
    found = names.get(plain(label))
    return None if found is None else CLASSES[found]


def plain(label: str) -> str:
    words = normalised(label).casefold().replace("-", " ").replace("_", " ").replace("leukemia", "leukaemia")
    return " ".join(word[:-1] if len(word) > 4 and word.endswith("s") else word for word in words.split())


def named_classes(text: str, labels: Iterable[str]) -> tuple[str, ...]:
    """Those of the labels that a text names, in any spelling of `ALIASES`; short names in their own letters alone.

    Raises InputError for a name that is denied.

    >>> named_classes("Basophils with purple granules, all alike", ["ALL", "basophil", "monocyte"])
    ('basophil',)
    """
    found = []
    for label in labels:
        known = {
            alias for alias, name in ALIASES.items() if plain(name) == plain(label) and len(alias) > _SHORT
        }
        for name in (label, *known):
            flags = re.IGNORECASE if len(name) > _SHORT else 0
            match = re.search(rf"\b{re.escape(name)}s?\b", text, flags)
            if match and (denied := _DENIAL.search(text[: match.start()])):
                raise InputError(
                    f"What '{denied.group(1)}' does before '{match.group()}' in the text '{text}' is not read; say what is seen in the "
                    "cell, or name the class that is meant."
                )
            if match:
                found.append(label)
                break
    return tuple(found)
