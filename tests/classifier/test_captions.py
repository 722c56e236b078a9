from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from balancer.data.attributes import ATTRIBUTES, completed
from balancer.errors import InputError
from balancer.imaging.morphology import measure
from classifier.captions import MEASURED, class_sentences, describe, measured_attributes
from classifier.knowledge import CLASSES, class_knowledge
from classifier.phrases import stated
from classifier.surplus import surplus

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
        assert surplus(text) <= {"image", "single", "like"}, text


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


def test_a_class_of_which_nothing_is_known_needs_a_sentence() -> None:
    assert class_knowledge("schistocyte") is None
    with pytest.raises(InputError, match="'basofil'.*--sentences FILE.*nearest that is known is 'basophil'"):
        class_sentences("basofil", 1, 0)
    given = {"basofil": ("One.", "Two."), "basophil": ("Own.",)}
    assert class_sentences("basofil", 3, 0, given) == ["One.", "Two.", "One."]
    assert class_sentences("basophil", 1, 0, given) == ["Own."]
    assert "monocyte" in class_sentences("monocyte", 1, 0, given)[0]


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
