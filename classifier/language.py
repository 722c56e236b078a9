"""What is said of the images of a training: their attributes and captions, and the sentences of the classes."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from balancer.data import PreparedDataset
from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices, attribute_values, completed
from balancer.data.wording import number
from balancer.errors import InputError, unknown_name
from balancer.generators.processes import processes
from balancer.imaging.morphology import measure
from balancer.imaging.segmentation import segment
from balancer.progress import note, track
from balancer.quality.features import cache_folder
from classifier.captions import class_facts, class_sentences, describe, measured_attributes
from classifier.config import TrainingConfig
from classifier.models.vision_language import CLASS, READ_ATTRIBUTES, READ_TEXT
from classifier.sentences import read_sentences
from classifier.text_encoders import Reader, make_reader, words
from classifier.transforms import Images

if TYPE_CHECKING:
    from classifier.endpoints import Endpoint

KEY = "HEMABALANCE_LLM_KEY"  # the environment variable with the key of the endpoints
CAPTIONS = 4  # of an image; one of them is drawn whenever the image is
SENTENCES = 8  # of a class
LEARNED = 5  # train images of a class with an attribute, below which it is not said to have been learned of the class
_MEASURED = 64  # images measured at a time
# Captions, and what each states → the captions in other words.
Rewrite = Callable[[Sequence[str], Sequence[Mapping[str, str]]], list[str]]


@dataclass(frozen=True)
class Language:
    """What is said of N images and K classes.

    `sentences`: of each class, K×V texts, V = `SENTENCES`. `attributes`: int64 N×11, -1 where unknown. `captions`: M texts
    for each image, M = `CAPTIONS`. `meaning`: int64 N, equal for images of which the same is said. `present`: bool K, which
    classes have images; the others are known by their sentences alone. `described`: of each class
    the attributes that at least `LEARNED` of its images have. `given`: labels with sentences of the user's own.
    """

    reader: Reader
    sentences: tuple[tuple[str, ...], ...]
    attributes: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    meaning: np.ndarray
    present: np.ndarray
    described: tuple[tuple[str, ...], ...]
    given: tuple[str, ...]
    read: Tensor = field(init=False)  # the captions as the reader gives them, N×M×…
    text: Tensor = field(init=False)  # their numbers, int64 N×M, equal where the reader gives the same
    read_sentences: Tensor = field(init=False)  # those of the classes, K×V×…

    def __post_init__(self) -> None:
        distinct: dict[str, int] = {}  # an encoder reads each text once
        rows = [[distinct.setdefault(text, len(distinct)) for text in texts] for texts in self.captions]
        read, numbers = self.reader(list(distinct)), torch.tensor(rows)
        object.__setattr__(self, "read", read[numbers])
        object.__setattr__(self, "text", read.unique(dim=0, return_inverse=True)[1][numbers])
        flat = [text for texts in self.sentences for text in texts]
        sentences = self.reader(flat).unflatten(0, (len(self.sentences), -1))
        object.__setattr__(self, "read_sentences", sentences)

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of all of it."""
        about = [self.reader.to_json(), self.sentences, self.captions, self.attributes.tolist()]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def language_for(
    config: TrainingConfig,
    rows: pd.DataFrame,
    images: Callable[[], Images],
    classes: Sequence[str],
    where: Path | str,
) -> Language | None:
    """The language that the head of `config` needs, as `language_of` makes it; None for the head `class`.

    `images` gives those of the rows, where the captions are to be measured. What language models made of captions is kept
    in the user's cache, and asked for once.
    """
    if config.head == CLASS:
        return None
    given = check_language(config, rows, classes, where)
    asked: Rewrite | None = None
    if config.captions == "llm":
        from classifier.rewriting import rewrite  # needs an HTTP client

        endpoints = [_endpoint(text) for text in config.endpoints]
        kept = cache_folder().parent / "captions" / "rewritten.jsonl"

        def asked(captions: Sequence[str], values: Sequence[Mapping[str, str]]) -> list[str]:
            with processes().main_process_first():  # the others find its answers kept
                return rewrite(captions, values, endpoints, kept, config.seed)

    taught = config.head != "contrastive"
    if config.captions == "measured":
        rows = with_measured(rows, images(), where)
        _check_attributes(config, rows, where)
    made = language_of(rows, classes, where, config.text_encoder, given, taught, asked)
    if config.head in READ_TEXT:
        _say_unread(made, classes)
    if config.head in ("text", "contrastive"):
        of = {label: class_facts(label, given, taught) for label in classes}
        for facts, n in Counter(of.values()).items():
            if n > 1:
                alike = " and ".join(label for label in classes if of[label] == facts)
                note(f"The same is said of {alike}: by sentences they cannot be told apart.")
    return made


def _say_unread(language: Language, classes: Sequence[str]) -> None:
    """Note what the encoder does not read of the sentences of classes without images, and of the user's own: words past its longest text,
    and those that mean nothing to it."""
    for label, there, sentences in zip(classes, language.present, language.sentences, strict=True):
        if there and label not in language.given:
            continue
        longest = language.reader.longest
        if longest and (long := sum(len(words(text)) > longest for text in dict.fromkeys(sentences))):
            note(f"Of {number(long, 'sentence', 'sentences')} of {label} the first {longest} words are read.")
        unread = language.reader.unread(" ".join(dict.fromkeys(sentences)))
        if unread:
            note(
                f"Words of the sentences of {label} that no training caption has, so that they mean nothing: {', '.join(unread)}."
            )


def check_language(
    config: TrainingConfig, rows: pd.DataFrame, classes: Sequence[str], where: Path | str
) -> dict[str, tuple[str, ...]]:
    """The sentences by label in the user's file, if `config` names one.

    Raises InputError for what `language_for` refuses before it loads, measures or asks anything: as `read_sentences`, with the
    nearest class for a label that is none; for a class of which nothing is known where there is no sentence of it; for an
    endpoint of another form; and for attributes outside the vocabulary, or none where there is nothing else to learn.
    """
    for endpoint in config.endpoints:
        _endpoint(endpoint).key()
    given = read_sentences(Path(config.sentences)) if config.sentences else {}
    for label, texts in given.items():
        if label not in classes:
            raise InputError(f"{config.sentences}: {unknown_name('class', label, classes)}")
        if len(texts) > SENTENCES:
            note(
                f"{config.sentences} has {len(texts):,} sentences of {label}; the first {SENTENCES} are read."
            )
            given[label] = texts[:SENTENCES]
    for label in classes:
        class_sentences(label, 1, 0, given)
    if config.captions != "measured":
        _check_attributes(config, rows, where)
    return given


def _check_attributes(config: TrainingConfig, rows: pd.DataFrame, where: Path | str) -> None:
    known = attribute_indices(rows, where) != UNKNOWN
    if config.head not in READ_ATTRIBUTES or known.any():
        return
    nothing = f"No train image of {where} has an attribute (columns such as cell_size and nucleus_shape)"
    if config.head == "attributes":
        raise InputError(
            f"{nothing}, so that the head attributes has nothing to learn; take --captions measured, or another --head."
        )
    note(f"{nothing}: the head joint learns classes and sentences alone.")


def _endpoint(text: str) -> Endpoint:
    """MODEL@URL; the key is in the environment where there is one."""
    from classifier.endpoints import Endpoint

    model, _, url = text.partition("@http")
    if not url:
        raise InputError(
            f"The endpoint '{text}' is not of the form MODEL@URL, for example llama@http://localhost:8000/v1."
        )
    return Endpoint(f"http{url}", model, KEY if os.environ.get(KEY) else None)


def known_attributes(config: TrainingConfig, data: PreparedDataset, split: str) -> np.ndarray:
    """The attributes of a split's images, int64 N×11, -1 where unknown: measured where the captions of `config` are."""
    rows, where = data.tables[split], data.root / split / "metadata.csv"
    if config.captions == "measured":
        rows = with_measured(rows, data.images(split), where)
    return attribute_indices(rows, where)


def with_measured(rows: pd.DataFrame, images: Images, where: Path | str) -> pd.DataFrame:
    """The rows with attributes, as far as morphology supports them, for images that have none.

    The cell is segmented (`balancer.imaging.segmentation`) and measured; its scale is the row's `um_per_pixel` where it
    names one. `where` the rows come from is for the errors.
    """
    rows = rows.copy()
    unknown = np.flatnonzero((attribute_indices(rows, where) == UNKNOWN).all(axis=1))
    scales = pd.to_numeric(rows["um_per_pixel"]) if "um_per_pixel" in rows else pd.Series(np.nan, rows.index)
    supported = 0
    for start in track(range(0, len(unknown), _MEASURED), "Measuring cells"):
        some = unknown[start : start + _MEASURED]
        pixels = images[some]
        for i, image, found in zip(some, pixels, segment(list(pixels)), strict=True):
            scale = None if np.isnan(scales.iloc[i]) else float(scales.iloc[i])
            values = measured_attributes(measure(image, found.mask, scale))
            supported += bool(values)
            for name, value in values.items():
                rows.loc[rows.index[i], name] = value
    note(
        f"Attributes by measures: of {supported:,} of {len(unknown):,} images without attributes in {where}."
    )
    return rows


def language_of(
    rows: pd.DataFrame,
    classes: Sequence[str],
    where: Path | str,
    encoder: str,
    given: Mapping[str, Sequence[str]] | None = None,
    taught: bool = True,
    reword: Rewrite | None = None,
) -> Language:
    """The language of a training on the images of `rows`: a label for each, and attributes in columns of their names.

    An image with known attributes is captioned by them, any other by the sentences of its class. `given`: sentences of one's
    own by label. `taught`: whether the training learns the sentences of classes that have images. Only then the others name
    their class, since a name that is never learned would say nothing, and only then their words are known to a text encoder
    that is trained here. `reword` gives the captions by attributes other words. The same arguments give the same captions.
    `where` the rows come from is for the errors: InputError for attributes outside the vocabulary, for a class of which
    nothing is known or given, and for an `encoder` that does not exist or cannot be had.
    """
    attributes = attribute_indices(rows, where)
    sentences = {label: tuple(class_sentences(label, SENTENCES, 0, given, taught)) for label in classes}
    values = [attribute_values(row) for row in attributes]
    labels = rows["label"].tolist()
    captions = [
        _captions(value, sentences[label], row)
        for row, (value, label) in enumerate(zip(values, labels, strict=True))
    ]
    if reword is not None:
        captions = _reworded(captions, values, reword)
    of_class = {label: class_facts(label, given, taught) for label in classes}
    said = [
        json.dumps(completed(value)) if value else of_class[label]
        for value, label in zip(values, labels, strict=True)
    ]
    present = np.isin(classes, labels)
    learned = [sentences[label] for label, there in zip(classes, present, strict=True) if there and taught]
    corpus = [text for texts in [*captions, *learned] for text in texts]
    return Language(
        make_reader(encoder, corpus),
        tuple(sentences[label] for label in classes),
        attributes,
        tuple(captions),
        pd.factorize(pd.Series(said))[0].astype(np.int64),
        present,
        tuple(_learned(attributes[rows["label"].to_numpy() == label]) for label in classes),
        tuple(label for label in classes if label in (given or {})),
    )


def _learned(attributes: np.ndarray) -> tuple[str, ...]:
    """Names of the attributes that enough images have, from those of a class, int64 N×11."""
    counts = (attributes != UNKNOWN).sum(axis=0)
    return tuple(name for name, n in zip(ATTRIBUTES, counts, strict=True) if n >= LEARNED)


def _captions(values: Mapping[str, str], sentences: Sequence[str], row: int) -> tuple[str, ...]:
    if not values:
        return tuple(sentences[(row + i) % len(sentences)] for i in range(CAPTIONS))
    return tuple(describe(values, row * CAPTIONS + i) for i in range(CAPTIONS))


def _reworded(
    captions: Sequence[tuple[str, ...]], values: Sequence[Mapping[str, str]], reword: Rewrite
) -> list[tuple[str, ...]]:
    """The captions by attributes in other words, each distinct one asked for once."""
    asked = {text: value for texts, value in zip(captions, values, strict=True) if value for text in texts}
    new = dict(zip(asked, reword(list(asked), list(asked.values())), strict=True))
    return [tuple(new.get(text, text) for text in texts) for texts in captions]
