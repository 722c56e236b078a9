"""The trainings that the benchmark of vision and language consists of, and how one is done.

All images are PBC's with WBCAtt's attributes: trained on its train split, chosen on one half of its val split and reported on
the other, the halves by a hash of the file's name.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from balancer.data import ImageStore, PreparedDataset, prepare
from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices, attribute_values
from balancer.files import write_csv
from benchmarks.classifiers.study import subset
from benchmarks.kept import key_of
from benchmarks.vision_language.retrieval import average_precision, ranks
from classifier import training
from classifier.attributes import attribute_probabilities, calibrate_attributes, embed_images
from classifier.calibration import unseen_rule
from classifier.captions import class_sentences, describe
from classifier.jobs import code_version
from classifier.language import SENTENCES, Language, known_attributes, language_for
from classifier.models.classifier import Classifier
from classifier.models.vision_language import CLASS, READ_ATTRIBUTES, READ_TEXT, VisionLanguage
from classifier.text_encoders import words
from classifier.training import TrainingConfig
from classifier.transforms import Images
from classifier.vision_language import caption_probabilities, embed_texts

SEEDS = (0, 1, 2)
CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
UNSEEN = "segwbc"
STUDY_SPLITS = ("train", "validation", "test")
STAGES = ("zero-shot", "attributes", "retrieval", "language")
BASE: dict[str, Any] = {"sampling": "balanced", "evaluations": 4}
# What a row is about, beside an attribute.
CLASS_PREDICTION, RETRIEVAL, NEW_WORDS, CONTROL = "class", "retrieval", "new words", "control"
COUNTED = "image to text, frequency counted"  # as `classifier search` ranks captions
# Retrieval without looking at the images → which way. Captions by how often train images have them, all or those of the image's
# own class; images in any order, or by how often train images of their class have the caption.
BY_FREQUENCY, BY_CLASS = "by frequency", "by the true class and frequency"
AT_RANDOM, BY_CLASSES = "at random", "by the true class of each image"
BLIND = dict.fromkeys((BY_FREQUENCY, BY_CLASS), "image to text") | dict.fromkeys(
    (AT_RANDOM, BY_CLASSES), "text to image"
)
_DRAWS = 50  # of an order among equals
# The attribute that is commonest in train, of all images or of those of the true class: what a reader of attributes is measured by.
COMMONEST, COMMONEST_OF_CLASS = "commonest", "commonest of the true class"
# Controls of zero-shot recognition, all but the last at the same price: by the rule without novelty; by a constant in place of the
# likeness to the class's sentences, without novelty (unlike the sentences of all other classes) and with it; by novelty alone; with
# sentences of classes that the set does not have; and by the nearest sentence, without a price.
OWN_ALONE, UNCERTAIN_ALONE = "its sentences alone", "unlike all other sentences"
NO_SENTENCE, NOVELTY_ALONE = "no sentence", "novelty alone"
OUTSIDERS, NEAREST = "sentences of other cells", "nearest sentence"
NOT_THERE = ("erythroblast", "platelet", "immature granulocyte", "AML")
CLASS_AND_ATTRIBUTES = "class + attributes"  # the head joint with hardly any weight on texts
_HARDLY = 1e-6


@dataclass(frozen=True)
class Training:
    """One training: of which stage, on which resolution, without which class, from how many of the labels, with which seed."""

    stage: str
    name: str
    settings: tuple[tuple[str, Any], ...]
    seed: int
    resolution: int = 64
    left_out: str = ""  # the class that has no image in train and validation
    share: float = 1.0

    def __str__(self) -> str:
        without = f" without {self.left_out}" if self.left_out else ""
        return f"{self.stage}: {self.name}{without}, {self.share:.0%} of the labels, {self.resolution} px, seed {self.seed}"

    @property
    def config(self) -> TrainingConfig:
        """All settings."""
        return TrainingConfig(**(BASE | dict(self.settings)), seed=self.seed).resolved()

    @property
    def key(self) -> str:
        """SHA-256 (hex, 16 digits) over the settings that the training depends on. Not over what sentences and captions say: the
        page counts the versions of the code."""
        asked = {
            "zero-shot": {"asked": "controls of all images"},
            "attributes": {"kept": "the last step", "clipped": "apart"},
            "retrieval": {"asked": "controls too"},
        }.get(self.stage, {})
        of = {"resolution": self.resolution, "left_out": self.left_out, "share": self.share}
        return key_of(self.config, **of, **asked)


def trainings(stage: str) -> Iterator[Training]:
    """The trainings of a stage."""

    def made(
        name: str, *, resolution: int = 64, left_out: str = "", share: float = 1.0, **settings: Any
    ) -> Iterator[Training]:
        for seed in SEEDS:
            chosen = tuple(sorted(settings.items()))
            yield Training(stage, name, chosen, seed, resolution, left_out, share)

    if stage == "zero-shot":
        for encoder in ("small", "minilm"):
            for left_out in CLASSES:
                yield from made(
                    f"contrastive, {encoder}", left_out=left_out, arch="convnextv2", steps=600, head="contrastive",
                    text_encoder=encoder,
                )  # fmt: skip
    elif stage == "attributes":
        # By the images as they are: balanced over the classes it came to 0.002 less in accuracy on the half that is chosen by.
        yield from made(
            "attributes", resolution=128, arch="resnet18", steps=1500, head="attributes", sampling="natural"
        )
    elif stage == "retrieval":
        for head in ("contrastive", "joint"):
            yield from made(head, arch="convnextv2", steps=1000, head=head)
    elif stage == "language":
        for arch, samplings in (("resnet18", ("balanced",)), ("convnextv2", ("natural", "balanced"))):
            for share, steps in ((0.01, 150), (0.1, 250), (1.0, 400)):
                for sampling in samplings:
                    about = {"share": share, "arch": arch, "steps": steps, "sampling": sampling}
                    for head in (CLASS, "text", "joint"):
                        yield from made(f"{arch}, {head}, {sampling}", head=head, **about)
                    if (arch, sampling) == ("convnextv2", "balanced"):
                        weights = (1.0, _HARDLY, _HARDLY, 1.0)
                        name = f"{arch}, {CLASS_AND_ATTRIBUTES}, {sampling}"
                        yield from made(name, head="joint", joint_weights=weights, **about)
    else:
        raise ValueError(stage)


NAMES = ("stage", "name", "left_out", "share", "seed")  # what a training stands for in the page


def every() -> list[Training]:
    """All trainings of the study."""
    return [unit for stage in STAGES for unit in trainings(stage)]


def prepared(sets: Path, out: Path, resolution: int, left_out: str = "") -> PreparedDataset:
    """PBC's images with attributes in WBCAtt's splits, prepared once; the class `left_out` has images in test alone."""
    root = out / "data" / f"wbcatt-{resolution}{'-without-' + left_out if left_out else ''}"
    if not (root / "dataset.json").is_file():
        source = sets / "pbc"
        table = pd.read_csv(source / "metadata.csv", keep_default_na=False)
        table = table[table["wbcatt_split"] != ""].reset_index(drop=True)
        half = np.where(table["file_name"].map(in_report_half), "test", "validation")
        table["split"] = np.where(table["wbcatt_split"] == "train", "train", half)
        if left_out:
            gone = (table["label"] == left_out) & (table["split"] != "test")
            table["split"] = table["split"].mask(gone, "heldout")
        listing = out / "sources" / root.name / "metadata.csv"
        listing.parent.mkdir(parents=True, exist_ok=True)
        table["file_name"] = [os.path.relpath(source / name, listing.parent) for name in table["file_name"]]
        write_csv(listing, table)
        prepare(listing, root, resolution=resolution, keep_splits=True, overwrite=True)
    return PreparedDataset.load(root)


def prepare_all(units: Iterable[Training], sets: Path, out: Path) -> None:
    """Prepare the datasets of these trainings, and the unseen set."""
    for resolution, left_out in sorted({(unit.resolution, unit.left_out) for unit in units}):
        prepared(sets, out, resolution, left_out)
        unseen(sets, out, resolution)


def in_report_half(file_name: str) -> bool:
    """Whether an image of WBCAtt's val split is in the half that is reported, by the SHA-256 of its file name."""
    return int(hashlib.sha256(Path(file_name).name.encode()).hexdigest(), 16) % 2 == 1


def unseen(sets: Path, out: Path, resolution: int) -> PreparedDataset:
    """All of the unseen set."""
    root = out / "data" / f"{UNSEEN}-{resolution}"
    if not (root / "dataset.json").is_file():
        prepare(sets / UNSEEN, root, resolution=resolution, overwrite=True)
    return PreparedDataset.load(root)


def do(unit: Training, sets: Path, out: Path) -> pd.DataFrame:
    """Train, and judge the report half and the unseen set: a row per image and question.

    Columns: key, test (the set), what ("class", an attribute, "retrieval" or "new words"); of class and attributes group, label,
    predicted, confidence (calibrated for attributes), classes (number of values) and metric (by which rule without a network);
    of retrieval metric, query and answers (how many there are); of controls metric, query and label; value of these and of
    new words; seconds, code.
    """
    data = prepared(sets, out, unit.resolution, unit.left_out)
    rows = subset(data.labels("train"), unit.share, unit.seed)
    paths, masks = data.paths("train"), data.mask_paths("train")
    train = ImageStore([paths[i] for i in rows], data.resolution, [masks[i] for i in rows])
    table = data.tables["train"].iloc[rows].reset_index(drop=True)
    language = language_for(unit.config, table, lambda: train, data.classes, data.root)
    begun = time.process_time()
    fitted = training.fit(
        unit.config,
        train,
        data.labels("train")[rows],
        data.images("validation"),
        data.labels("validation"),
        len(data.classes),
        "cpu",
        language=language,
    )
    seconds = time.process_time() - begun
    known = known_attributes(unit.config, data, "validation")
    calibrate_attributes(fitted.model, data.images("validation"), known)
    other = unseen(sets, out, unit.resolution)
    tables = []
    for name, judges, splits in (("wbcatt", data, ("test",)), (UNSEEN, other, STUDY_SPLITS)):
        for split in splits:
            tables += _judged(fitted.model, unit.config.head, name, data.classes, judges, split)
    if unit.stage == "attributes":
        tables += _commonest(data)
    if unit.config.head in READ_TEXT:
        assert language is not None
        tables += _retrieved(fitted.model, language, data, other)
        if unit.left_out:
            tables += [
                _new_words(language, data, unit.left_out),
                _controls(fitted.model, language, data, unit.left_out),
            ]
    return pd.concat(tables, ignore_index=True).assign(key=unit.key, seconds=seconds, code=code_version())


def _judged(
    model: Classifier, head: str, name: str, classes: Sequence[str], judges: PreparedDataset, split: str
) -> list[pd.DataFrame]:
    """Predictions of the class, and of the attributes that are known."""
    table, images = judges.tables[split], judges.images(split)
    labels = np.array([classes.index(label) for label in table["label"]])
    p = training.predict_probabilities(model, images)
    tables = [_predictions(name, CLASS_PREDICTION, table, labels, p)]
    if head in READ_ATTRIBUTES:
        known = attribute_indices(table, judges.root)
        read = attribute_probabilities(model, images)
        for k, attribute in enumerate(ATTRIBUTES):
            there = known[:, k] != UNKNOWN
            if there.any():
                tables.append(_predictions(name, attribute, table[there], known[there, k], read[k][there]))
    return tables


def _predictions(
    test: str, what: str, table: pd.DataFrame, labels: np.ndarray, p: np.ndarray
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "test": test,
            "what": what,
            "group": [Path(group).name for group in table["group"].astype(str)],
            "label": labels.astype(np.int16),
            "predicted": p.argmax(1).astype(np.int16),
            "confidence": p.max(1).astype(np.float32),
            "classes": p.shape[1],
        }
    )


def _commonest(data: PreparedDataset) -> list[pd.DataFrame]:
    """The attributes of the report half as who does not look at the images would say them, from the train images."""
    (train, test), columns = [attribute_indices(data.tables[s], data.root) for s in ("train", "test")], []
    labels = [data.labels("train"), data.labels("test")]
    for rule, groups in (
        (COMMONEST, [np.zeros_like(of) for of in labels]),
        (COMMONEST_OF_CLASS, labels),
    ):
        for k, (attribute, values) in enumerate(ATTRIBUTES.items()):
            there, known = test[:, k] != UNKNOWN, train[:, k] != UNKNOWN
            counts = np.zeros((len(data.classes), len(values)))
            np.add.at(counts, (groups[0][known], train[known, k]), 1)
            said = counts[groups[1][there]]
            rows = _predictions("wbcatt", attribute, data.tables["test"][there], test[there, k], said)
            columns.append(rows.assign(metric=rule, confidence=np.nan))
    return columns


def _retrieved(
    model: Classifier, language: Language, data: PreparedDataset, other: PreparedDataset
) -> list[pd.DataFrame]:
    """A row for each query and metric: among the distinct captions of the report half, and on the unseen set, of which no
    attribute is known, among sentences of the classes that do not name them."""
    known = attribute_indices(data.tables["test"], data.root)
    distinct, own = np.unique(known, axis=0, return_inverse=True)
    captions = [describe(attribute_values(row), 0) for row in distinct]
    train, train_labels = attribute_indices(data.tables["train"], data.root), data.labels("train")
    having = (train[:, None] == distinct).all(axis=2)  # train images × captions
    of_class = np.stack([having[train_labels == k].sum(axis=0) for k in range(len(data.classes))])
    tables = [
        _both_ways(
            model, language, "wbcatt", data.images("test"), captions, own.reshape(-1), of_class.sum(axis=0)
        ),
        _unlooked(data.labels("test"), of_class, own.reshape(-1)),
    ]
    labels = np.concatenate([other.tables[split]["label"].map(CLASSES.index) for split in STUDY_SPLITS])
    images = np.concatenate([other.images(split)[:] for split in STUDY_SPLITS])
    sentences = [class_sentences(label, 1, 0, named=False)[0] for label in CLASSES]
    tables.append(_both_ways(model, language, UNSEEN, images, sentences, labels))
    return tables


def _both_ways(
    model: Classifier,
    language: Language,
    test: str,
    images: Images,
    captions: Sequence[str],
    own: np.ndarray,
    counts: np.ndarray | None = None,
) -> pd.DataFrame:
    """Image to text and text to image; `own`: int N, the caption of each image; `counts`: int M, how many train images have each."""
    similarity = embed_images(model, images) @ embed_texts(model, language.reader, captions).T
    relevant = own[:, None] == np.arange(len(captions))
    ways = {"image to text": (similarity, relevant), "text to image": (similarity.T, relevant.T)}
    if counts is not None:
        assert isinstance(model.network, VisionLanguage)
        scale = float(model.network.by_sentence.scale.detach())
        ways[COUNTED] = (caption_probabilities(similarity, scale, counts), relevant)
    return _metrics(test, ways, len(captions))


def _unlooked(labels: np.ndarray, of_class: np.ndarray, own: np.ndarray) -> pd.DataFrame:
    """For who does not look at the images, as `BLIND` says: `labels`, int N; `of_class`: int K×M, how many train images of each class
    have each caption; `own` as above."""
    relevant = own[:, None] == np.arange(of_class.shape[1])
    ways = {
        BY_FREQUENCY: (np.tile(of_class.sum(axis=0), (len(own), 1)), relevant),
        BY_CLASS: (of_class[labels], relevant),
    }
    rng, drawn = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        order = rng.random(relevant.T.shape) / 2  # among images of as many
        images = {AT_RANDOM: (order, relevant.T), BY_CLASSES: (of_class.T[:, labels] + order, relevant.T)}
        drawn.append(_metrics("wbcatt", images, of_class.shape[1]))
    text_to_image = drawn[0].assign(value=np.mean([table["value"] for table in drawn], axis=0))
    return pd.concat([_metrics("wbcatt", ways, of_class.shape[1]), text_to_image], ignore_index=True)


def _metrics(test: str, ways: Mapping[str, tuple[np.ndarray, np.ndarray]], captions: int) -> pd.DataFrame:
    """A row for each query and metric, from similarities and what is relevant, as `ranks` takes them."""
    rows = []
    for way, (similarity, relevant) in ways.items():
        for query, rank in enumerate(ranks(similarity, relevant)):
            rows += [(f"{way}, R@{k}", query, float(rank[0] <= k)) for k in (1, 5, 10)]
            rows.append((f"{way}, mAP", query, average_precision(rank)))
    table = pd.DataFrame(rows, columns=["metric", "query", "value"])
    return table.assign(test=test, what=RETRIEVAL, answers=captions)


def _controls(model: Classifier, language: Language, data: PreparedDataset, left_out: str) -> pd.DataFrame:
    """Which images of the report half would be given to the left-out class by a part of the rule, or by other sentences (the share
    of the other classes whose sentences do it): a row for each control and image."""
    assert isinstance(model.network, VisionLanguage)
    head, k = model.network.by_sentence, data.classes.index(left_out)
    z = [embed_images(model, data.images(split)) for split in ("validation", "test")]
    with torch.inference_mode():
        likeness = [(head.scale * torch.from_numpy(x) @ head.embeddings.T).numpy() for x in z]
        novelty = [head.novelty(torch.from_numpy(x)).numpy() for x in z]
    given = partial(given_to, k, likeness, novelty)
    others = np.arange(len(data.classes)) != k
    outsiders = []
    for label in NOT_THERE:
        t = embed_texts(model, language.reader, class_sentences(label, SENTENCES, 0, named=False)).mean(
            axis=0
        )
        own = [float(head.scale.detach()) * x @ (t / np.linalg.norm(t)) for x in z]
        outsiders.append(given(own))
    constant = [np.zeros(len(x)) for x in z]
    ways = {
        OWN_ALONE: given([logits[:, k] for logits in likeness], 0.0),
        UNCERTAIN_ALONE: given(constant, 0.0),
        NO_SENTENCE: given(constant),
        NOVELTY_ALONE: given([logits[:, others].max(axis=1) for logits in likeness]),
        OUTSIDERS: np.mean(outsiders, axis=0),
        NEAREST: likeness[1].argmax(axis=1) == k,
    }
    of = {"query": np.arange(len(z[1])), "label": data.labels("test")}
    tables = [pd.DataFrame(of | {"metric": way, "value": said.astype(float)}) for way, said in ways.items()]
    return pd.concat(tables, ignore_index=True).assign(test="wbcatt", what=CONTROL)


def given_to(
    k: int,
    likeness: Sequence[np.ndarray],
    novelty: Sequence[np.ndarray],
    own: Sequence[np.ndarray],
    weight: float = 1.0,
) -> np.ndarray:
    """Which images are given to the class k by the rule for unseen classes, bool N.

    Pairs of the validation images, by which the rule is found, and the N images: `likeness` of the sentences of K classes, float
    ·×K; `novelty`, float ·, which counts by `weight`; `own`, float ·, takes the place of the likeness to those of k.
    """
    changed = [logits.copy() for logits in likeness]
    for logits, values in zip(changed, own, strict=True):
        logits[:, k] = values
    others = np.arange(likeness[0].shape[1]) != k
    w, v, t = unseen_rule(changed[0], weight * novelty[0], others)[:, k]
    margin = changed[1][:, k] - changed[1][:, others].max(axis=1)
    return w * margin + v * weight * novelty[1] > t


def _new_words(language: Language, data: PreparedDataset, left_out: str) -> pd.DataFrame:
    """How many words of the left-out class's sentences are in no training caption, and in no other class's sentences."""
    learned = {word for texts in language.captions for text in texts for word in words(text)}
    mine: set[str] = set()
    for label, texts in zip(data.classes, language.sentences, strict=True):
        said = {word for text in texts for word in words(text)}
        mine, learned = (said, learned) if label == left_out else (mine, learned | said)
    return pd.DataFrame({"test": ["wbcatt"], "what": NEW_WORDS, "value": float(len(mine - learned))})
