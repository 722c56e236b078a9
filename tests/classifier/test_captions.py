from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from balancer.data.attributes import ATTRIBUTES, completed
from balancer.errors import InputError
from balancer.imaging.morphology import measure
from classifier.captions import (
    ALIASES,
    CLASSES,
    MEASURED,
    check_text,
    class_knowledge,
    class_sentences,
    describe,
    measured_attributes,
    read_sentences,
)
from classifier.phrases import stated, unsaid

DISEASE = ("leuk", "cancer", "disease", "acute", "chronic", "progress", "child", "marrow")


def drawn_attributes(seed: int, share: float) -> dict[str, str]:
    draw = random.Random(seed)
    return {name: draw.choice(values) for name, values in ATTRIBUTES.items() if draw.random() < share}


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3, 0.1])
def test_a_description_states_the_known_attributes_and_no_other(share: float) -> None:
    for seed in range(500):
        attributes = drawn_attributes(seed, share)
        text = describe(attributes, seed)
        assert stated(text) == {name: {value} for name, value in completed(attributes).items()}, text
        assert unsaid(text) <= {"image", "single", "like"}, text


def test_every_value_alone_is_told_and_read() -> None:
    for name, values in ATTRIBUTES.items():
        for value in values:
            texts = {describe({name: value}, seed) for seed in range(60)}
            assert len(texts) > 3
            for text in texts:
                assert stated(text) == {k: {v} for k, v in completed({name: value}).items()}, text


def test_descriptions_are_sentences_of_fair_length() -> None:
    lengths = []
    for seed in range(300):
        text = describe(drawn_attributes(seed, 1.0), seed)
        lengths.append(len(text.split()))
        assert text.endswith(".") and not any(wrong in text for wrong in ("  ", " ,", "..", ",,", " ."))
        assert all(sentence[0].isupper() for sentence in text.split(". "))
        words = text.replace(",", "").replace(";", "").lower().split()
        for article, following in pairwise(words):
            vowel = following[0] in "aeiou" and not following.startswith("u-")
            assert article != ("a" if vowel else "an"), text
    assert min(lengths) >= 15 and max(lengths) <= 45


def test_descriptions_vary_with_the_seed_and_only_with_it() -> None:
    attributes = drawn_attributes(0, 1.0)
    assert describe(attributes, 3) == describe(dict(reversed(attributes.items())), 3)
    assert len({describe(attributes, seed) for seed in range(100)}) > 80
    # Pinned, so that a change of version or machine that would change captions is seen.
    assert describe({"cell_size": "big", "granularity": "no"}, 0) == PINNED


PINNED = "A large blood cell with no granules."


def test_of_an_unknown_cell_nothing_is_said() -> None:
    texts = {describe({}, seed) for seed in range(100)}
    assert "A blood cell." in texts and all(stated(text) == {} for text in texts)


def test_attributes_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(InputError, match="no attribute 'colour'"):
        describe({"colour": "blue"}, 0)
    with pytest.raises(InputError, match="no value of cell_size 'large'"):
        describe({"cell_size": "large"}, 0)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"granularity": "no"}, {"granule_type": "nil", "granule_colour": "nil", "granularity": "no"}),
        ({"granule_type": "nil"}, {"granule_type": "nil", "granule_colour": "nil", "granularity": "no"}),
        ({"granule_colour": "red"}, {"granule_colour": "red", "granularity": "yes"}),
        # Contradictions, of which WBCAtt has two among 7,199 images.
        ({"granularity": "yes", "granule_type": "nil", "granule_colour": "red"}, {"granule_colour": "red", "granularity": "yes"}),
        ({"granularity": "no", "granule_type": "round"}, {"granule_type": "nil", "granule_colour": "nil", "granularity": "no"}),
        ({"granule_type": "round", "granule_colour": "nil"}, {}),
    ],
)  # fmt: skip
def test_what_attributes_of_granules_say_together(given: dict[str, str], expected: dict[str, str]) -> None:
    assert completed(given) == expected


NO_GRANULES = {"granule_type": {"nil"}, "granule_colour": {"nil"}, "granularity": {"no"}}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("large cell with folded nucleus and grey cytoplasm", {"cell_size": {"big"}, "nucleus_shape": {"unsegmented-indented"}}),
        ("No vacuoles", {"cytoplasm_vacuole": {"no"}}),
        ("vacuolated cytoplasm", {"cytoplasm_vacuole": {"yes"}}),
        ("not vacuolated", {"cytoplasm_vacuole": {"no"}}),
        ("vacuoles are not seen", {"cytoplasm_vacuole": {"no"}}),
        ("The cytoplasm doesn't contain any vacuoles.", {"cytoplasm_vacuole": {"no"}}),
        ("two-lobed nucleus", {"nucleus_shape": {"segmented-bilobed"}}),
        ("a nucleus with 2 lobes", {"nucleus_shape": {"segmented-bilobed"}}),
        ("lacks granules", NO_GRANULES),
        ("there are no visible granules", NO_GRANULES),
        ("agranular", NO_GRANULES),
        ("neither vacuoles nor granules", {"cytoplasm_vacuole": {"no"}, **NO_GRANULES}),
        ("Vacuoles and granules are absent.", {"cytoplasm_vacuole": {"no"}, **NO_GRANULES}),
        ("No granules can be seen, nor are there vacuoles.", {"cytoplasm_vacuole": {"no"}, **NO_GRANULES}),
        ("There are vacuoles, granules are missing.", {"cytoplasm_vacuole": {"yes"}, **NO_GRANULES}),
        ("no vacuoles and small pink granules", {
            "cytoplasm_vacuole": {"no"}, "granule_type": {"small"}, "granule_colour": {"pink"}, "granularity": {"yes"}}),
        ("no coarse granules", {}),
        ("hardly any granules", {}),
        ("frosted/ground-glass cytoplasm", {"cytoplasm_texture": {"frosted"}}),
        ("nucleus round, cytoplasm blue, pink granules", {
            "nucleus_shape": {"unsegmented-round"}, "cytoplasm_colour": {"blue"}, "granule_colour": {"pink"}, "granularity": {"yes"}}),
        ("Round and unsegmented, the nucleus fills most of the cell.", {
            "nucleus_shape": {"unsegmented-round"}, "nuclear_cytoplasmic_ratio": {"high"}}),
        ("The nucleus of the cell is round.", {"nucleus_shape": {"unsegmented-round"}}),
        ("The cytoplasm around the nucleus is purple-blue", {"cytoplasm_colour": {"purple blue"}}),
        ("a thin rim of pale blue cytoplasm", {"nuclear_cytoplasmic_ratio": {"high"}, "cytoplasm_colour": {"light blue"}}),
        ("N/C ratio: low", {"nuclear_cytoplasmic_ratio": {"low"}}),
        ("the nucleus is not round", {}),
        ("segmented nucleus", {"nucleus_shape": {"segmented-bilobed", "segmented-multilobed"}}),
        ("a bilobed, segmented nucleus", {"nucleus_shape": {"segmented-bilobed"}}),
        ("round red blood cells around a cell", {}),
        ("The nucleus takes up 62 % of the cell's area.", {}),
        ("largely blueish smallpox", {}),
        ("The nucleus of the small cell is round.", {"cell_size": {"small"}, "nucleus_shape": {"unsegmented-round"}}),
        ("The cytoplasm of this large cell is blue", {"cell_size": {"big"}, "cytoplasm_colour": {"blue"}}),
        ("no large granules and no big vacuoles", {}),
        ("less dense chromatin, and fewer granules", {}),
        ("The cell is not large and round.", {}),
        ("a nucleus that is not round or indented", {}),
        ("small abnormal lymphocyte", {"cell_size": {"small"}}),
        ("hardly any cytoplasm", {"nuclear_cytoplasmic_ratio": {"high"}}),
        ("horseshoe nucleus, low nuclear:cytoplasmic ratio", {
            "nucleus_shape": {"unsegmented-band"}, "nuclear_cytoplasmic_ratio": {"low"}}),
    ],
)  # fmt: skip
def test_what_people_write_is_read(text: str, expected: Mapping[str, set[str]]) -> None:
    assert stated(text) == expected


@pytest.mark.parametrize(
    "text, beside",
    [
        ("A small, round cell without granules; the image shows its nucleus.", {"image"}),
        ("A nicely oval nucleus and blue chromatin", {"nicely", "oval", "blue"}),
        ("The nucleus is not round.", {"round", "not"}),
        ("It may have coarse granules, and no red granules.", {"may", "red", "granule"}),
        ("no nucleus", {"nucleus", "no"}),
        ("Small cells", {"cell"}),
        ("granules in the round nucleus", {"granule"}),
        ("a nucleus with fine granules", {"granule"}),
        ("The nucleoli are large.", {"other", "large"}),
    ],
)
def test_what_a_text_says_beside_attributes_is_known(text: str, beside: set[str]) -> None:
    assert unsaid(text) == beside


@pytest.mark.parametrize("label", CLASSES)
def test_texts_of_a_class_tell_what_is_seen_and_never_what_is_known(label: str) -> None:
    knowledge = CLASSES[label]
    texts = class_sentences(label, 40, seed=1, named=False)
    assert len(texts) == 40 and len(set(texts)) > 15
    for text in texts:
        assert not any(word in text.lower() for word in DISEASE)
        assert not knowledge.known or knowledge.known not in text
        assert any(seen in text for seen in knowledge.seen)
        found = stated(text)
        for name, value in completed(knowledge.attributes).items():
            assert value in found[name], (text, name)
    for text in class_sentences(label, 5, seed=1):
        assert knowledge.name in text.split(":")[0]
    assert class_sentences(label, 3, 7) == class_sentences(label, 3, 7) != class_sentences(label, 3, 8)


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


def test_a_class_of_which_nothing_is_known_needs_a_sentence() -> None:
    assert class_knowledge("schistocyte") is None
    with pytest.raises(InputError, match="'basofil'.*--sentences FILE.*nearest that is known is 'basophil'"):
        class_sentences("basofil", 1, 0)
    given = {"basofil": ("One.", "Two."), "basophil": ("Own.",)}
    assert class_sentences("basofil", 3, 0, given) == ["One.", "Two.", "One."]
    assert class_sentences("basophil", 1, 0, given) == ["Own."]
    assert "monocyte" in class_sentences("monocyte", 1, 0, given)[0]


def test_sentences_are_read_from_json_and_csv(tmp_path: Path) -> None:
    own = {"a": "One cell.", "b": ["Two  cells.", "Three cells."]}
    (tmp_path / "s.json").write_text(json.dumps(own), encoding="utf-8-sig")  # as some editors write it
    (tmp_path / "s.csv").write_text('label,sentence\nb,Two cells.\nNA,"One, and more."\nb,Three cells.\n')
    assert read_sentences(tmp_path / "s.json") == {"a": ("One cell.",), "b": ("Two cells.", "Three cells.")}
    assert read_sentences(tmp_path / "s.csv") == {
        "b": ("Two cells.", "Three cells."),
        "NA": ("One, and more.",),
    }


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("s.json", "{", "not valid JSON"),
        ("s.json", '["a"]', "no JSON object"),
        ("s.json", "{}", "no sentence"),
        ("s.json", '{"a": 3}', "class 'a'"),
        ("s.json", '{"a": "A cell.", "b": "B.", "a": "Another."}', "'a' 2 times"),
        ("s.json", '{"a": "A\u200b cell."}', "cannot be seen"),
        ("s.json", '{"a": []}', "class 'a'"),
        ("s.json", '{"a": "  "}', "class 'a'.*empty"),
        ("s.json", '{"a": "большая клетка"}', "class 'a'.*Latin"),
        ("s.csv", "label,text\na,b\n", "no column sentence"),
        ("s.csv", "", "cannot be read"),
        ("s.csv", "label,sentence\n,A cell.\n", "without a label in row 2"),
        ("s.csv", f"label,sentence\na,{'long ' * 500}\n", "class 'a'.*2,499 characters"),
        ("s.csv", "label,sentence\na,a small cell, round nucleus\n", "stands in quotes"),
        ("s.txt", "a", "neither .json nor .csv"),
    ],
)
def test_damaged_sentences_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_sentences(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["s.json", "s.csv"])
def test_missing_sentences_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} does not exist"):
        read_sentences(tmp_path / name)


def test_a_query_is_brought_into_one_line() -> None:
    assert check_text("  ｌａｒｇｅ\n\tcell\u00a0with  naïve nucleus ") == "large cell with naïve nucleus"
    assert check_text("клетка cell") == "клетка cell"
    assert len(check_text("ab " * 666)) == 1997


@pytest.mark.parametrize(
    "text, message",
    [
        (" \n", "empty"),
        ("ab " * 700, "2,099 characters"),
        ("большая клетка", "Latin"),
        ("大细胞", "Latin"),
        ("12 34 !", "no word"),
        ("a", "no word"),
        ("x y z", "no word"),
        ("cell \udcff", "UTF-8"),
        ("cell\x00", "UTF-8"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_text(text)


def test_measures_support_what_they_are_clear_about() -> None:
    clear: dict[str, float | None] = {
        "nc_ratio": 0.8,
        "chromatin_density": 0.5,
        "vacuoles": 0.0,
        "cell_circularity": 0.97,
        "nucleus_solidity": 0.97,
        "cell_area_um2": 60.0,
        "granules": 80.0,
    }
    assert measured_attributes(clear) == {
        "nuclear_cytoplasmic_ratio": "high",
        "chromatin_density": "densely",
        "cytoplasm_vacuole": "no",
        "cell_shape": "round",
        "nucleus_shape": "unsegmented-round",
        "cell_size": "small",
    }
    between = {"chromatin_density": 0.415, "vacuoles": 2.0, "cell_circularity": 0.9, "cell_area_um2": 113.0}
    assert measured_attributes(between) == {}
    # A cell's outline that fell to the nucleus's, and measures that are not there.
    missing = {"nc_ratio": 0.99, "vacuoles": None, "chromatin_density": float("nan"), "cell_area_px2": 3000.0}
    assert measured_attributes(missing) == {}


def test_measured_columns_are_those_that_are_measured() -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    columns = measure(image, np.zeros((32, 32), np.uint8), um_per_pixel=0.2)
    assert {rule.column for rule in MEASURED} <= columns.keys()
    assert all(rule.value in ATTRIBUTES[rule.attribute] for rule in MEASURED)
