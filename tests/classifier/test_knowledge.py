from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from classifier.knowledge import ALIASES, CLASSES, class_knowledge
from classifier.phrases import stated


@pytest.mark.parametrize("label", CLASSES)
def test_what_else_is_seen_of_a_class_fits_its_attributes(label: str) -> None:
    attributes = CLASSES[label].attributes
    for sentence in CLASSES[label].seen:
        assert all(attributes.get(name) in (None, *values) for name, values in stated(sentence).items()), (
            sentence
        )


def test_the_course_of_a_disease_is_known_and_not_seen() -> None:
    assert "progresses slowly" in CLASSES["CLL"].known
    assert all(CLASSES[label].known for label in ("ALL", "AML", "CLL", "CML", "lymphoblast"))


@pytest.mark.parametrize(
    "spelling, label",
    [
        ("NEUTROPHIL", "neutrophil"),
        ("Basophils", "basophil"),
        ("IG", "immature granulocyte"),
        ("immature_granulocytes", "immature granulocyte"),
        ("SNE", "segmented neutrophil"),
        ("all", "ALL"),
        ("Acute Lymphoblastic Leukemia", "ALL"),
        ("acute-myeloid-leukaemia", "AML"),
        ("Pro-B", "Pro"),
    ],
)
def test_classes_are_known_in_other_spellings(spelling: str, label: str) -> None:
    assert class_knowledge(spelling) is CLASSES[label]


def test_every_other_spelling_leads_somewhere() -> None:
    assert set(ALIASES.values()) <= set(CLASSES)
    for alias, label in ALIASES.items():
        assert class_knowledge(alias) is CLASSES[label]


def test_typical_attributes_are_those_of_most_images(real_data: Path) -> None:
    table = pd.read_csv(real_data / "pbc" / "metadata.csv", keep_default_na=False)
    for label, images in table[table["cell_size"] != ""].groupby("label"):
        for name, value in CLASSES[str(label)].attributes.items():
            assert images[name].mode()[0] == value, (label, name)
