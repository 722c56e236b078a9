"""Texts of the user's own: sentences for classes, from a file, and queries."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pandas as pd

from balancer.errors import InputError
from balancer.files import read_json
from classifier.lexicon import normalised

MOST_CHARACTERS = 2000
_FAR_TOO_MANY = 10 * MOST_CHARACTERS  # before blanks are brought together: that takes long for odd ones


def read_sentences(path: Path) -> dict[str, tuple[str, ...]]:
    """The user's own sentences by label: JSON {label: sentence or [sentences]}, or CSV with the columns label, sentence.

    Raises InputError for a file that is missing, damaged or of another kind, for a label without a sentence, and for a
    sentence that `check_text` refuses.
    """
    path = Path(path)
    kinds: dict[str, Callable[[Path], list[tuple[str, str]]]] = {".json": _from_json, ".csv": _from_csv}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path} is neither .json nor .csv; give sentences as one of them.")
    sentences: dict[str, list[str]] = {}
    for label, sentence in kinds[path.suffix.lower()](path):
        try:
            checked = check_text(sentence)
        except InputError as error:
            raise InputError(f"{path}, class '{label}': {error}") from None
        sentences.setdefault(label, []).append(checked)
    if not sentences:
        raise InputError(f"{path} has no sentence; give at least one, with its label.")
    return {label: tuple(texts) for label, texts in sentences.items()}


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
    # pandas names the second of two columns so.
    twice = [column for column in ("label", "sentence") if f"{column}.1" in table]
    if twice:
        raise InputError(f"{path} has two columns {' and two columns '.join(twice)}; leave one of each.")
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
    if len(text) > _FAR_TOO_MANY:
        raise _too_long(len(text))
    line = normalised(text)
    if not line:
        raise InputError("The text is empty; write what is seen in the cell.")
    if any(unicodedata.category(character) in ("Cs", "Cc", "Cf") for character in line):
        raise InputError(
            "The text has characters that cannot be seen, perhaps from another encoding; write it again, in UTF-8."
        )
    if len(line) > MOST_CHARACTERS:
        raise _too_long(len(line))
    letters = [c.isalpha() and unicodedata.name(c, "").startswith("LATIN") for c in line]
    if any(map(all, pairwise(letters))):
        return line
    if any(c.isalpha() and not latin for c, latin in zip(line, letters, strict=True)):
        raise InputError(
            f"No word of the text '{line[:40]}' is in Latin script, the only one that the text encoders here know; "
            "write it in English."
        )
    raise InputError(f"There is no word in the text '{line[:40]}'; write what is seen in the cell.")


def _too_long(characters: int) -> InputError:
    return InputError(
        f"The text has {characters:,} characters; up to {MOST_CHARACTERS:,} are read. Shorten it."
    )
