from __future__ import annotations

import json
from pathlib import Path

import pytest

from balancer.errors import InputError
from classifier.sentences import check_text, read_sentences


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
        ("s.csv", "label,label,sentence\na,b,A cell.\n", "two columns label"),
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
        ("a" + "\u0301\u0316" * 300_000, "600,001 characters"),
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
