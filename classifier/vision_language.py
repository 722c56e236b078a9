"""What a classifier with language says of images: attributes and sentences; and which images a text means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from balancer.data import PreparedDataset
from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices, attribute_values, completed
from balancer.data.dataset import read_table
from balancer.data.decode import make_square
from balancer.data.seen import Seen
from balancer.data.wording import number
from balancer.errors import InputError
from balancer.progress import note
from balancer.quality.features import file_sha256
from classifier.attributes import (
    AsPrepared,
    attribute_probabilities,
    embed_images,
    embeddings_of,
    features_of,
    probabilities_of,
)
from classifier.captions import describe
from classifier.checkpoints import SEEN, WEIGHTS, ClassifierRun, load_run
from classifier.knowledge import class_knowledge, named_classes
from classifier.language import LEARNED
from classifier.lexicon import OF_THINGS
from classifier.models.classifier import Classifier
from classifier.models.vision_language import READ_ATTRIBUTES, READ_TEXT, VisionLanguage
from classifier.phrases import denied, stated, unread
from classifier.prediction import Draw, Line, images_for, predict_files, restained, to_restain
from classifier.sentences import check_text
from classifier.surplus import surplus
from classifier.text_encoders import Reader, kept_vectors, words

SURE = 0.7  # calibrated confidence from which a sentence states an attribute


def embed_texts(model: Classifier, reader: Reader, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of texts beside images: float32 N×E of unit length."""
    network = model.network
    assert isinstance(network, VisionLanguage)
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        return network.embed_text(reader(texts).to(device)).cpu().numpy()


def describe_files(
    run: ClassifierRun, paths: Iterable[Path], um_per_pixel: float | None = None, explain: Path | None = None
) -> Iterator[Line]:
    """Describe image files: what `predict_files` yields, and in each line what is seen and what is known.

    "attributes": {attribute: {"value", "confidence"}}, confidence calibrated on validation; "sentence": the attributes of
    which it is at least 0.7, in words, nothing else. Of attributes that too few train images of the
    predicted class had none is given, and a note counts the images without any. "known": what is known of cells of the
    predicted class and cannot be seen in any image, null where nothing is, and for a class that the user described. With `explain`, a new folder with a picture for each image: what each attribute rests on.
    Raises InputError as `predict_files` does, and for a run that has not learned attributes.
    """
    _needs(run, READ_ATTRIBUTES, "describe images", "attributes")

    learned, own = run.config["language"]["described"], run.config["language"]["given"]
    undescribed: Counter[str] = Counter()

    def extend(lines: Sequence[Line], prepared: np.ndarray) -> None:
        probabilities = attribute_probabilities(run.model, AsPrepared(prepared, run.model))
        for i, line in enumerate(lines):
            read = _read([p[i] for p in probabilities])
            line["attributes"] = {name: read[name] for name in learned[line["predicted"]]}
            undescribed[line["predicted"]] += not line["attributes"]
            sure = _sure(line["attributes"])
            line["sentence"] = describe(sure, 0) if sure else None
            knowledge = None if line["predicted"] in own else class_knowledge(line["predicted"])
            line["known"] = knowledge.known or None if knowledge else None

    yield from predict_files(run, paths, um_per_pixel, None, explain, extend, _evidence(run))
    if n := undescribed.total():
        labels = " or ".join(label for label, times in undescribed.items() if times)
        note(
            f"Not described: {number(n, 'image', 'images')} predicted as {labels}, of which fewer than {LEARNED} train images had "
            "attributes."
        )


def _read(probabilities: Sequence[np.ndarray]) -> dict[str, dict[str, Any]]:
    """What one image shows: for each attribute the likeliest value and its probability."""
    return {
        name: {"value": values[int(p.argmax())], "confidence": float(p.max())}
        for (name, values), p in zip(ATTRIBUTES.items(), probabilities, strict=True)
    }


def _sure(read: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The values that a sentence may state: confidence of at least `SURE`, and nothing follows from them that is read otherwise."""
    sure = {name: said["value"] for name, said in read.items() if said["confidence"] >= SURE}
    implied = completed(sure)
    if any(read[name]["value"] != value for name, value in implied.items() if name in read):
        return {name: value for name, value in sure.items() if not name.startswith("granul")}
    return sure


def _evidence(run: ClassifierRun) -> Draw:
    """Pictures of what the attributes rest on."""

    def draw(images: Sequence[np.ndarray], seen: np.ndarray, lines: Sequence[Line]) -> Sequence[np.ndarray]:
        from classifier.explain import attributions, sheet  # captum and matplotlib: seconds

        network = run.language
        maps: list[list[np.ndarray]] = [[] for _ in lines]
        titles: list[list[str]] = [[] for _ in lines]
        for k, (name, values) in enumerate(ATTRIBUTES.items()):

            def logits(x: Tensor, k: int = k) -> Tensor:
                return network.attribute_logits(network.features(x))[k]

            rows = [i for i, line in enumerate(lines) if name in line["attributes"]]
            said = [lines[i]["attributes"][name] for i in rows]
            targets = np.array([values.index(s["value"]) for s in said], dtype=np.int64)
            found = attributions(run.model, seen[rows], targets, logits) if rows else ()
            for i, s, shown in zip(rows, said, found, strict=True):
                maps[i].append(shown)
                titles[i].append(f"{name.replace('_', ' ')}\n{s['value']} {s['confidence']:.2f}")
        return [sheet(*arrays) for arrays in zip(images, seen, maps, titles, strict=True)]

    return draw


def _needs(run: ClassifierRun, heads: Sequence[str], what: str, why: str) -> None:
    """Raise InputError where the run's head is none of those that can do `what`."""
    if run.language.head not in heads:
        raise InputError(
            f"{run.root} was trained with the head {run.language.head}, which has not learned {why}: it cannot {what}. "
            f"Train with --head {' or '.join(heads)}."
        )


def query(run: ClassifierRun, text: str) -> np.ndarray:
    """The embedding of a text of the user's, float32 E; a note names the words that mean nothing to the run.

    Raises InputError for a text that `sentences.check_text` refuses, of which no word is known, or a run without texts.
    """
    _needs(run, READ_TEXT, "compare images with a text", "texts")
    text = check_text(text)
    assert run.reader is not None
    unread = run.reader.unread(text)
    if not set(words(text)) - {part for word in unread for part in words(word)}:
        raise InputError(
            f"No word of '{text}' is known to {run.root}, which has learned the words of its training captions; describe the "
            "cell in such words, for example 'large cell with folded nucleus and pale blue cytoplasm'."
        )
    if unread:
        note(f"Words that the text encoder of {run.root} does not know: {', '.join(unread)}.")
    if run.reader.longest and len(words(text)) > run.reader.longest:
        note(
            f"{run.root} reads the first {run.reader.longest} words of a text; what comes after is left out."
        )
    return embed_texts(run.model, run.reader, [text])[0]


def caption_probabilities(similarity: np.ndarray, scale: float, counts: np.ndarray) -> np.ndarray:
    """How likely each of M captions is for each of Q images, float Q×M, from their cosines, float Q×M, at the run's `scale`.

    Contrastive training learns by how much likelier an image and a caption are together than by chance (van den Oord et al.
    2018, arXiv 1807.03748, section 2.3); times how many train images have the caption, `counts` (int M), and one more, that
    is what the image says of the caption: p_j ∝ (n_j + 1) exp(s cos_j).
    """
    return softmax(scale * similarity + np.log(counts + 1), axis=1)


@dataclass(frozen=True)
class Found:
    """What a search found: an image or a caption.

    Of an image its label, its similarity to the text, in [−1, 1], and where attributes were read how likely it has those that
    the text states; of a caption how likely it is; both in [0, 1].
    """

    name: str
    similarity: float | None = None
    label: str | None = None
    probability: float | None = None


def search_images(run: ClassifierRun, text: str, data: PreparedDataset, split: str, n: int) -> list[Found]:
    """The `n` images of a split of `data` that a text means, the first first: those most similar to it.

    A run that reads attributes ranks by those that the text states and that it has learned, and by similarity where they are
    equally likely (to a hundredth): similarity alone hardly tells "granules" from "no granules". Of several values of an
    attribute ("segmented nucleus") any counts. Raises InputError as `query` and `prediction.images_for` do.
    """
    wanted, text = query(run, text), check_text(text)
    found = _stated(text)  # before the network reads all images
    if named := named_classes(text, run.classes):
        note(
            f"The text names {' and '.join(named)}: images are found by what is seen in them, and a name is a word like others; "
            "classes are told by `classifier predict`."
        )
    features = features_of(run.model, images_for(run, data, split))
    similarity = embeddings_of(run.model, features) @ wanted
    paths, labels = data.paths(split), data.tables[split]["label"].tolist()
    learned = set().union(*run.config["language"]["described"].values())
    said = {name: values for name, values in found.items() if name in learned}
    if not said or run.language.head not in READ_ATTRIBUTES:
        order = np.argsort(-similarity, kind="stable")[:n]
        return [Found(str(paths[i]), float(similarity[i]), labels[i]) for i in order]
    read = "; ".join(f"{name.replace('_', ' ')}: {' or '.join(sorted(v))}" for name, v in said.items())
    note(
        f"Ranked by what is read of the text ({read}); by likeness to all of it where that is equally likely."
    )
    of = dict(zip(ATTRIBUTES, probabilities_of(run.model, features), strict=True))
    likely = np.prod(
        [
            of[name][:, [ATTRIBUTES[name].index(v) for v in values]].sum(axis=1)
            for name, values in said.items()
        ],
        axis=0,
    )
    order = np.lexsort((-similarity, -likely.round(2)))[:n]
    return [Found(str(paths[i]), float(similarity[i]), labels[i], float(likely[i])) for i in order]


def _stated(text: str) -> dict[str, set[str]]:
    """What `phrases.stated` finds; InputError for a text by which vacuoles, or granules, are there and are not, and for one that
    denies in a way that is not read."""
    if piece := unread(text):
        raise InputError(
            f"What '{piece}' does in the text '{text}' is not read; say plainly what is there, and of vacuoles and granules "
            "'without' or 'no'."
        )
    if pieces := denied(text):
        note(
            f"Denials that are not read ({', '.join(pieces)}): what is denied may be found all the same; "
            "say what is there instead."
        )
    found = stated(text)
    for name, what in OF_THINGS.items():
        if len(found.get(name, ())) > 1:
            raise InputError(f"By the text '{text}' there are {what}s and there are none; say one of both.")
    return found


def _alone(found: Mapping[str, set[str]]) -> dict[str, str]:
    """The attributes of which a text states one value; a note names those of which it states several."""
    several = [f"{name} {' and '.join(sorted(values))}" for name, values in found.items() if len(values) > 1]
    if several:
        note(f"The text names more than one value, so that none is asked for: {', '.join(several)}.")
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def search_captions(
    run: ClassifierRun,
    image: Path,
    data: PreparedDataset,
    split: str,
    n: int,
    um_per_pixel: float | None = None,
) -> list[Found]:
    """The `n` distinct captions of a split's images that are likeliest for an image file, the likeliest first.

    Captions by attributes; and of each class that has none in the split, a sentence. How likely each is depends on how often it
    is in the train split of `data` too (`caption_probabilities`). Raises InputError for a run without texts, an
    empty split, and a file that is no image.
    """
    _needs(run, READ_TEXT, "compare images with a text", "texts")
    if data.tables[split].empty:
        raise InputError(f"{data.root / split} has no images, and no captions of any.")
    seen: list[np.ndarray] = []
    list(predict_files(run, [image], um_per_pixel, extend=lambda lines, prepared: seen.append(prepared)))
    captions, counts, described = _captions(run, data, split)
    z = embed_images(run.model, AsPrepared(seen[0], run.model))
    assert run.reader is not None
    reader = run.reader
    weights = file_sha256(run.root / WEIGHTS)
    similarity = z @ kept_vectors([weights], captions, lambda: embed_texts(run.model, reader, captions)).T
    (p,) = caption_probabilities(similarity, float(run.language.by_sentence.scale.detach()), counts)
    return [Found(captions[i], probability=float(p[i])) for i in captions_in_order(p, described)[:n]]


def captions_in_order(probabilities: np.ndarray, described: int) -> np.ndarray:
    """The order of M captions, int M, by how likely they are, float M; the first `described` are by attributes.

    The others are each said of all images of a class, these of a few: so first comes what is likelier, one of the others or
    all by attributes together.
    """
    one = np.arange(len(probabilities)) < described
    together = np.where(one, probabilities[one].sum(), probabilities)
    return np.lexsort((-probabilities, -together))


def _captions(run: ClassifierRun, data: PreparedDataset, split: str) -> tuple[list[str], np.ndarray, int]:
    """A caption for each combination of attributes in a split, and a sentence of each of the run's classes that has none;
    how many train images each is said of, int; and how many are of the first kind."""
    sentences = run.config["language"]["sentences"]

    def said(of: str) -> tuple[set[str], Counter[str]]:
        """The labels with attributes, and the captions by attributes, of the images of a split."""
        known = attribute_indices(data.tables[of], data.root / of / "metadata.csv")
        rows = [completed(attribute_values(row)) for row in known]
        labels = {label for label, values in zip(data.tables[of]["label"], rows, strict=True) if values}
        return labels, Counter(describe(values, 0) for values in rows if values)

    described, there = said(split)
    others = [label for label in sentences if label not in described]
    in_train, of_class = said("train")[1], Counter(data.tables["train"]["label"])
    counts = [*(in_train[text] for text in there), *(of_class[label] for label in others)]
    return [*there, *(sentences[label][0] for label in others)], np.array(counts), len(there)


@dataclass(frozen=True)
class TextScorer:
    """How well images fit a text, for `balancer.synth`, which knows nothing of classifiers."""

    text: str
    run: ClassifierRun = field(repr=False)
    sha256: str  # of the run's weights
    attributes: Mapping[str, str]  # what the text states, where it states one value
    having: Mapping[
        str, float
    ]  # by class, the share of its train images that have what the text states, where that is known
    named: tuple[str, ...]  # classes that the text names, of the run's and the data's
    says_all: bool  # whether what it states is all that it says
    _restain: bool  # whether images are still to be brought to the stain of the run's
    _wanted: np.ndarray = field(repr=False)

    @property
    def path(self) -> Path:
        """Of the run."""
        return self.run.root

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Cosines of images, uint8 N×R×R×3 of any R, and the text: float32 N in [−1, 1]."""
        side = self.run.resolution
        if images.shape[1] != side:
            images = np.stack([make_square(image, side) for image in images])
        if self._restain:
            images = np.stack([restained(self.run, x, f"Image {i}") for i, x in enumerate(images)])
        return embed_images(self.run.model, images) @ self._wanted

    def likely(self, labels: Sequence[str]) -> dict[str, float]:
        """Of these labels those that the run knows, and how likely the text means each, the likeliest first, in sum 1.

        Those that the text names, alike. Else in proportion to `having`, one half where that is not known; 0 for a class of which
        it is less than half that of another. Where it is not known of all, or does not say all that the text says, times the
        softmax of the cosines of the text and the sentences of each, at the run's scale.
        """
        known = [label for label in labels if label in self.run.classes]
        if not known:
            return {}
        if named := [label for label in known if label in self.named]:
            return dict.fromkeys(named, 1 / len(named)) | {k: 0.0 for k in known if k not in named}
        shares = np.array([self.having.get(label, 0.5) for label in known])
        told = np.array([label in self.having for label in known])
        if told.any():
            shares[told & (shares < shares[told].max() / 2)] = 0
        if not (self.says_all and told.all()):
            head, rows = self.run.language.by_sentence, [self.run.classes.index(label) for label in known]
            cosines = head.embeddings[rows].cpu().numpy().astype(np.float64) @ self._wanted
            shares *= softmax(np.where(shares > 0, float(head.scale.detach()) * cosines, -np.inf))
        p = shares / shares.sum()
        return dict(sorted(zip(known, map(float, p), strict=True), key=lambda pair: -pair[1]))

    def trained_on(self, data: PreparedDataset, split: str) -> list[str]:
        """File names of the images of a split that the run was trained on, be it in other files."""
        table = read_table(self.run.root / SEEN, ["source_sha256", "split"])
        trained = Seen.of(table[table["split"] != "validation"])
        return trained.besides(self.run.config["data"]["fingerprint"], data).among(data, split)


def text_scorer(
    run: Path, text: str, data: PreparedDataset, device: torch.device | str = "cpu"
) -> TextScorer:
    """The scorer of a text by a classifier run, for images like those of `data`.

    Raises InputError as `query` and `prediction.to_restain` do.
    """
    opened, text = load_run(run), check_text(text)
    opened.model.to(device)
    sha256, wanted = file_sha256(Path(run) / WEIGHTS), query(opened, text)
    found = _stated(text)
    named = named_classes(text, dict.fromkeys((*opened.classes, *data.classes)))
    says_all = not named and not surplus(text)
    having, stain = _shares(data, found), to_restain(opened, data)
    return TextScorer(text, opened, sha256, _alone(found), having, named, says_all, stain, wanted)


def _shares(data: PreparedDataset, said: Mapping[str, set[str]]) -> dict[str, float]:
    """For each class the share (n + 1) / (N + 2) of its N train images with known attributes that have those `said`; classes of which
    nothing is known, and all where nothing is said, are missing."""
    table = data.tables["train"]
    indices = attribute_indices(table, data.root / "train" / "metadata.csv")
    known, have = (np.ones(len(table), dtype=bool) for _ in range(2))
    for name, values in said.items():
        column = indices[:, list(ATTRIBUTES).index(name)]
        known &= column != UNKNOWN
        have &= np.isin(column, [ATTRIBUTES[name].index(value) for value in values])
    of = {label: (table["label"] == label).to_numpy() & known for label in data.classes}
    counts = {label: (int(have[rows].sum()), int(rows.sum())) for label, rows in of.items() if said}
    return {label: (n + 1) / (of_all + 2) for label, (n, of_all) in counts.items() if of_all}
