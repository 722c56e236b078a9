from __future__ import annotations

from collections.abc import Mapping

import pytest

from classifier.phrases import stated, unread

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
        ("none of the granules are red", {}),
        ("no coarse granules are red", {}),
        ("The barely granular cytoplasm is vacuolated.", {"cytoplasm_vacuole": {"yes"}, **NO_GRANULES}),
        ("The non-indented nucleus is round.", {"nucleus_shape": {"unsegmented-round"}}),
        ("Without lobes the nucleus is round", {"nucleus_shape": {"unsegmented-round"}}),
        ("A cell with the nucleus being round", {"nucleus_shape": {"unsegmented-round"}}),
        ("a cell without granules is small", {"cell_size": {"small"}, **NO_GRANULES}),
        ("a nucleus with dense chromatin is round", {
            "nucleus_shape": {"unsegmented-round"}, "chromatin_density": {"densely"}}),
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
        ("granularity: no", NO_GRANULES),
        ("cell has no granules and has vacuoles", {"cytoplasm_vacuole": {"yes"}, **NO_GRANULES}),
        ("there are no granules and there are vacuoles", {"cytoplasm_vacuole": {"yes"}, **NO_GRANULES}),
        ("no granules and a few vacuoles", {"cytoplasm_vacuole": {"yes"}, **NO_GRANULES}),
        ("no pink granules or vacuoles", {"cytoplasm_vacuole": {"no"}}),
        ("no nucleoli or granules", NO_GRANULES),
        ("no round nucleus or vacuoles", {"cytoplasm_vacuole": {"no"}}),
        ("w/o granules", NO_GRANULES),
        ("doesnt have granules", NO_GRANULES),
        ("cytoplasm clear of granules", NO_GRANULES),
        ("nucleus with 2-3 lobes", {"nucleus_shape": {"segmented-bilobed", "segmented-multilobed"}}),
        ("large cell nucleus", {}),
        ("no vacuoles in the nucleus", {}),
        ("vacuoles no, granules no", {"cytoplasm_vacuole": {"no"}, **NO_GRANULES}),
        ("granules are lacking", NO_GRANULES),
        ("there is nothing granular", NO_GRANULES),
        ("red granules are absent", {}),
        ("without visible red granules", {}),
        ("red granules absent, purple present", {"granule_colour": {"purple"}, "granularity": {"yes"}}),
        ("hardly any cytoplasm", {"nuclear_cytoplasmic_ratio": {"high"}}),
        ("horseshoe nucleus, low nuclear:cytoplasmic ratio", {
            "nucleus_shape": {"unsegmented-band"}, "nuclear_cytoplasmic_ratio": {"low"}}),
    ],
)  # fmt: skip
def test_what_people_write_is_read(text: str, expected: Mapping[str, set[str]]) -> None:
    assert stated(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "granules cannot be seen",
        "granules can't be found",
        "anything except granules",
        "excluding granules",
        "negative for granules",
        "granules (-)",
        "granules instead of vacuoles",
        "vacuoles rather than granules",
        "not only granules but also vacuoles",
        "cells other than large",
        "all but large",
        "far from round cell",
        "nucleus, not cell, is round",
        "without nucleoli, vacuoles or granules",
        "no vacuoles, granules, or inclusions",
        "no granules/vacuoles",
        "granules, vacuoles: none",
        "without vacuoles and pink granules",
        "cell lacking granules and a round nucleus",
        "0 granules",
        "granules: 0",
        "granules = no",
        "granules (no)",
        "vacuoles - no",
        "vacuoles: not seen",
        "granules negative",
        "absent granules",
        "granules never seen",
        "un-granulated",
        "nucleus is not perfectly round",
        "not really vacuolated",
        "not as large as a monocyte",
        "granules are nowhere to be seen",
        "more than one lobe",
        "fewer than three lobes",
        "nucleus with 1-2 lobes",
        "none of the cells have granules",
        "no cells with vacuoles",
        "larger than a small lymphocyte",
        "with or without granules",
        "granules present or absent",
        "size of nucleus: small",
        "granules round the nucleus",
        "not many granules",
        "granules are completely absent",
        "granules have not been found",
        "granules can hardly be seen",
        "granules are undetectable",
        "not with granules",
        "not a cell with red granules",
        "in no way granular",
        "no granules, vacuoles neither",
        "apart from granules",
        "devoid largely of granules",
        "with out granules",
        "no vacuoles + granules",
        "granularity 0",
        "background without granules",
        "granules outside the cell",
        "nucleus with vacuoles",
        "vacuole-less",
        "stripped of granules",
        "granules sparse or absent",
        "few or no granules",
        "less granular cytoplasm",
    ],
)
def test_a_text_that_denies_in_ways_that_are_not_read_is_known(text: str) -> None:
    assert unread(text)
    assert not unread("a cell with no granules, not large, that can be round but has vacuoles")


@pytest.mark.parametrize(
    "text",
    [
        "a cell with granules lacking vacuoles",
        "cell with round nucleus, not indented, with granules",
        "a cell that is not small and has coarse granules",
        "granulated cell without vacuoles",
        "the cell is not round and contains free granules",
        "bilobed nucleus with red granules",
        "on a clean background, a cell with N:C ratio > 0.8 and granules",
        "less mature cell with 2+ granules and empty vacuoles",
    ],
)
def test_a_denial_of_something_else_is_read(text: str) -> None:
    assert not unread(text) and stated(text)["granularity"] == {"yes"}


@pytest.mark.parametrize(
    "text", ["a cell that doesn’t have granules", "granules aren’t visible", "no vacuoles & granules"]
)
def test_typographic_marks_are_read(text: str) -> None:
    assert not unread(text) and stated(text)["granularity"] == {"no"}
