"""Training with language on rendered cells, whose attributes are known: what is learned, said, found and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import roc_auc_score

from balancer import smear
from balancer.data import PreparedDataset, prepare
from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices
from balancer.errors import InputError
from balancer.imaging import stain
from balancer.imaging.scale import edge_colour
from classifier import calibration, vision_language
from classifier.attributes import attribute_probabilities, embed_images, evaluate_attributes
from classifier.batches import Batch
from classifier.captions import class_sentences
from classifier.checkpoints import WEIGHTS, load_run
from classifier.compare import compare
from classifier.config import TrainingConfig
from classifier.explain import sheet
from classifier.imbalance import CrossEntropy
from classifier.language import (
    CAPTIONS,
    KEY,
    SENTENCES,
    Language,
    _endpoint,
    check_language,
    known_attributes,
    language_for,
    language_of,
    with_measured,
)
from classifier.models.vision_language import HEADS
from classifier.objectives import LanguageObjective, attribute_loss
from classifier.phrases import stated
from classifier.prediction import evaluate_run
from classifier.runs import train_run
from classifier.text_encoders import UNKNOWN_WORD, WordReader
from classifier.training import Fitted, fit, predict_probabilities
from classifier.vision_language import (
    describe_files,
    embed_texts,
    search_captions,
    search_images,
    text_scorer,
)
from cli import classifier

LABELS = ("CLL", "eosinophil", "monocyte")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("language")
    smear.write_source(folder / "source", dict.fromkeys(LABELS, 80), 32, seed=0)
    prepare(folder / "source", folder / "data", seed=0)
    return PreparedDataset.load(folder / "data")


def settings(head: str, **other: object) -> TrainingConfig:
    about = {"arch": "resnet18", "head": head, "steps": 60, "batch_size": 32, "evaluations": 1}
    return TrainingConfig(**(about | other))  # type: ignore[arg-type]


def language(data: PreparedDataset, head: str = "joint") -> Language:
    made = language_for(
        settings(head), data.tables["train"], lambda: data.images("train"), data.classes, data.root
    )
    assert made is not None
    return made


@pytest.fixture(scope="module")
def run(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the joint head."""
    return train_run(
        data, [], settings("joint", sampling="balanced"), tmp_path_factory.mktemp("run") / "joint"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sentences", None),
        ("sentences", {"lymphocyte": ["a cell"]}),
        ("sentences", {label: [] for label in LABELS}),
        ("sentences", dict.fromkeys(LABELS, "a cell")),
        ("described", None),
        ("described", {label: ["smell"] for label in LABELS}),
        ("described", {label: [3] for label in LABELS}),
        ("given", None),
        ("given", ["platypus"]),
    ],
)
def test_a_run_whose_language_no_training_wrote_gets_a_sentence(
    name: str, value: object, run: Path, tmp_path: Path
) -> None:
    opened = load_run(run)
    config = opened.config | {"language": opened.config["language"] | {name: value}}
    tensors = safetensors.torch.load_file(run / WEIGHTS)
    safetensors.torch.save_file(tensors, tmp_path / WEIGHTS, {"config": json.dumps(config)})
    with pytest.raises(InputError, match=r"cannot be read as a classifier \(no valid language\)"):
        load_run(tmp_path)


def test_captions_state_the_attributes_of_their_image_and_no_other(data: PreparedDataset) -> None:
    said = language(data)
    table = data.tables["train"]
    assert (
        said.attributes.shape == (len(table), 11) and (said.attributes == attribute_indices(table, "")).all()
    )
    assert said.read.shape[:2] == (len(table), CAPTIONS) and said.read_sentences.shape[:2] == (3, SENTENCES)
    for texts, (_, row) in zip(said.captions[:20], table.iterrows(), strict=False):
        for text in texts:
            for name, values in stated(text).items():
                assert values == {row[name]}, (text, name)
    same = (table[list(ATTRIBUTES)].iloc[0] == table[list(ATTRIBUTES)]).all(axis=1).to_numpy()
    assert ((said.meaning == said.meaning[0]) == same).all()
    assert language(data).digest() == said.digest() != language(data, "contrastive").digest()


def test_images_without_attributes_have_the_sentences_of_their_class() -> None:
    rows = pd.DataFrame({"label": ["basophil", "monocyte", "basophil"], "granularity": [None, "no", None]})
    said = language_of(
        rows, ("basophil", "monocyte", "neutrophil"), "x.csv", "small", {"basophil": ["A dark one."]}
    )
    assert set(said.captions[0]) == {"A dark one."} and set(said.captions[2]) == {"A dark one."}
    assert said.meaning[0] == said.meaning[2] != said.meaning[1]
    assert said.present.tolist() == [True, True, False]


def test_words_that_no_image_is_told_are_unknown() -> None:
    rows = pd.DataFrame({"label": ["basophil"] * 2, "granularity": ["yes", "no"]})
    given = {"basophil": ["A dusky one."], "monocyte": ["A zebra."]}
    known = {}
    for taught in (True, False):
        said = language_of(rows, ("basophil", "monocyte"), "x.csv", "small", given, taught)
        assert isinstance(said.reader, WordReader)
        known[taught] = set(said.reader.vocabulary)
    assert "dusky" in known[True] and "zebra" not in known[True]
    assert known[False] == known[True] - {"dusky", "one"} and "granules" in known[False]


def test_a_language_model_is_asked_once_for_each_caption_by_attributes() -> None:
    rows = pd.DataFrame({"label": ["basophil"] * 3, "granularity": ["yes", "yes", None]})
    asked: list[str] = []

    def reword(captions, values):
        asked.extend(captions)
        assert all(value == {"granularity": "yes"} for value in values)
        return [f"{text} Indeed." for text in captions]

    said = language_of(rows, ("basophil",), "x.csv", "small", reword=reword)
    assert len(asked) == len(set(asked)) > 0
    assert all(text.endswith("Indeed.") for texts in said.captions[:2] for text in texts)
    assert not any("Indeed" in text for text in said.captions[2])


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_what_it_is_for(head: str, data: PreparedDataset) -> None:
    config = settings(head, sampling="balanced").resolved()
    said = language_for(config, data.tables["train"], lambda: data.images("train"), data.classes, data.root)
    fitted = fit(
        config, data.images("train"), data.labels("train"), data.images("validation"), data.labels("validation"),
        3, "cpu", language=said,
    )  # fmt: skip
    accuracy = (fitted.validation_probabilities.argmax(1) == data.labels("validation")).mean()
    assert accuracy > (0.5 if head == "contrastive" else 0.7)  # chance is a third
    read = evaluate_attributes(fitted.model, data.images("validation"), data, "validation")
    if head in ("text", "contrastive"):
        assert read is None
    else:
        assert read is not None and read["mean"]["accuracy"] > 0.7
        assert list(read["per_attribute"]) == list(ATTRIBUTES)


def test_parts_of_a_batch_sum_up_to_the_batch_for_all_but_pairs(data: PreparedDataset) -> None:
    said = language(data)
    from classifier import training

    config = settings("joint", joint_weights=(1.0, 1.0, 1e-9, 1.0)).resolved()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = training.build(config, 3, 32, training.Transform(), said).eval()
    rows = np.arange(8)
    pixels = torch.from_numpy(data.images("train")[rows])
    batch = Batch(pixels, ((torch.from_numpy(data.labels("train")[rows]), 1.0),), torch.from_numpy(rows))
    objective = LanguageObjective(CrossEntropy(np.ones(3)), said, config)
    whole = objective(model, batch, slice(0, 8), 0, 0.0)
    halves = objective(model, batch, slice(0, 4), 0, 0.0) + objective(model, batch, slice(4, 8), 0, 0.0)
    assert torch.allclose(whole, halves, atol=1e-5)
    only = []
    for weights in ((1.0, 1e-9, 1e-9, 1e-9), (1e-9, 1.0, 1e-9, 1e-9), (1e-9, 1e-9, 1e-9, 1.0)):
        one = LanguageObjective(CrossEntropy(np.ones(3)), said, replace(config, joint_weights=weights))
        only.append(one(model, batch, slice(0, 8), 0, 0.0).item())
    assert whole.item() == pytest.approx(sum(only), abs=1e-4)


def test_the_attribute_head_forms_the_features_alone(data: PreparedDataset) -> None:
    from classifier import training

    said, config = language(data, "attributes"), settings("attributes").resolved()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = training.build(config, 3, 32, training.Transform(), said)
    rows = torch.arange(8)
    batch = Batch(
        torch.from_numpy(data.images("train")[rows.numpy()]), ((torch.zeros(8, dtype=torch.long), 1.0),), rows
    )
    objective = LanguageObjective(CrossEntropy(np.ones(3)), said, config)
    objective.attributes = torch.full_like(objective.attributes, -1)  # nothing is known
    objective(model, batch, slice(0, 8), 0, 0.0).backward()
    network = model.network
    assert network.class_head.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in network.network.parameters())


def test_classes_do_not_move_the_features_of_the_attribute_head(data: PreparedDataset) -> None:
    from classifier import training
    from classifier.state import Training

    said, config = language(data, "attributes"), settings("attributes", clip=0.1).resolved()
    moved = []
    for label in (0, 2):  # clipped together, the gradient of classes would shrink that of the attributes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = training.build(config, 3, 32, training.Transform(), said)
        rows = torch.arange(32)
        pixels = torch.from_numpy(data.images("train")[rows.numpy()])
        batch = Batch(pixels, ((torch.full((32,), label), 1.0),), rows)
        objective = LanguageObjective(CrossEntropy(np.ones(3)), said, config)
        state = Training(config, model)
        for _ in range(2):
            training.update(state, batch, objective, config)
        moved.append({name: value.clone() for name, value in model.network.network.state_dict().items()})
    assert all(torch.equal(value, moved[1][name]) for name, value in moved[0].items())


def test_a_caption_that_two_images_share_is_no_negative_of_either(data: PreparedDataset) -> None:
    """Sentences of one's own may be said of several classes, beside others."""
    said = language(data)
    object.__setattr__(said, "text", torch.tensor([[0, 1, 0, 1], [0, 2, 0, 2]]))
    object.__setattr__(said, "meaning", np.array([0, 1]))
    objective = LanguageObjective(CrossEntropy(np.ones(3)), said, settings("joint"))
    rows, drawn = (
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
    )  # what is drawn of the second is said of the first too
    assert objective.fitting(rows, drawn).tolist() == [[True, True], [False, True]]


def test_words_are_forgotten_at_random_and_the_same_way_again(data: PreparedDataset) -> None:
    said = language(data)
    objective = LanguageObjective(CrossEntropy(np.ones(3)), said, settings("joint"))
    rows = torch.arange(50)
    tokens, _ = objective.captions(rows, 3)
    assert torch.equal(tokens, objective.captions(rows, 3)[0])
    assert not torch.equal(tokens, objective.captions(rows, 4)[0])
    share = (tokens == UNKNOWN_WORD).sum() / (tokens != 0).sum()
    assert 0.05 < share < 0.15


def test_attribute_loss_is_the_mean_over_what_is_known() -> None:
    logits = [torch.tensor([[2.0, 0.0], [0.0, 0.0]])] + [torch.zeros(2, 3)] * 10
    targets = torch.full((2, 11), -1)
    assert attribute_loss(logits, targets) == 0
    targets[0, 0], targets[1, 5] = 1, 2
    expected = (torch.log1p(torch.exp(torch.tensor(2.0))) + torch.log(torch.tensor(3.0))) / 2
    assert torch.allclose(attribute_loss(logits, targets), expected)


def test_a_run_is_read_again_and_says_how_it_reads_attributes(run: Path, data: PreparedDataset) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["attributes"]["mean"]["accuracy"] > 0.6
    opened = load_run(run)
    assert isinstance(opened.reader, WordReader)
    again = evaluate_run(opened, data)
    assert again["macro_f1"] == pytest.approx(evaluation["macro_f1"])
    read = evaluate_attributes(opened.model, data.images("test"), data, "test")
    assert read is not None and read["mean"] == pytest.approx(evaluation["attributes"]["mean"])
    temperatures = opened.language.attribute_temperature
    assert (temperatures != 1).any()
    for p in attribute_probabilities(opened.model, data.images("test")):
        assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    assert "Attributes" in (run / "MODEL_CARD.md").read_text()


def test_the_same_training_gives_the_same_weights_and_resumes(
    run: Path, data: PreparedDataset, tmp_path: Path
) -> None:
    config = settings("joint", sampling="balanced")
    again = train_run(data, [], config, tmp_path / "again")
    assert (again / "classifier.safetensors").read_bytes() == (run / "classifier.safetensors").read_bytes()
    assert train_run(data, [], config, tmp_path / "again", resume=True) == tmp_path / "again"
    with pytest.raises(InputError, match="other settings.*head joint, not text"):
        train_run(data, [], replace(config, head="text"), tmp_path / "again", resume=True)
    tables = {split: table.copy() for split, table in data.tables.items()}
    tables["train"].loc[:, "cell_size"] = np.nan
    with pytest.raises(InputError, match="with other texts"):
        train_run(replace(data, tables=tables), [], config, tmp_path / "again", resume=True)


def test_an_image_is_described_in_what_is_seen_and_apart_in_what_is_known(
    run: Path, data: PreparedDataset, tmp_path: Path
) -> None:
    paths = data.paths("test")[:3]
    opened = load_run(run)
    lines = list(describe_files(opened, paths, explain=tmp_path / "pictures"))
    assert [line["file_name"] for line in lines] == [str(path) for path in paths]
    read = attribute_probabilities(opened.model, data.images("test")[:3])
    for i, line in enumerate(lines):
        assert list(line["attributes"]) == list(ATTRIBUTES)
        for p, (name, said) in zip(read, line["attributes"].items(), strict=True):
            assert said["value"] == ATTRIBUTES[name][p[i].argmax()]
            assert said["confidence"] == pytest.approx(p[i].max(), abs=2e-3)
        sure = {name for name, said in line["attributes"].items() if said["confidence"] >= 0.7}
        for name, values in stated(line["sentence"]).items():
            assert values == {line["attributes"][name]["value"]}
            assert name in sure or name.startswith("granul")
        assert line["predicted"] not in line["sentence"]
        assert line["known"] is None or line["known"] not in line["sentence"]
        picture = np.asarray(Image.open(line["explanation"]))
        assert picture.shape[2] == 3 and picture.shape[0] > 3 * 192
    assert any(line["known"] for line in lines)


def test_a_class_of_which_no_attribute_was_learned_is_not_described(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {split: table.copy() for split, table in data.tables.items()}
    train = tables["train"]
    train.loc[train["label"] == "CLL", list(ATTRIBUTES)] = np.nan
    run = train_run(replace(data, tables=tables), [], settings("joint"), tmp_path / "run")
    notes: list[str] = []
    monkeypatch.setattr(vision_language, "note", notes.append)
    lines = list(describe_files(load_run(run), data.paths("test")))
    of = {label: [line for line in lines if line["predicted"] == label] for label in LABELS}
    assert of["CLL"] and all(line["attributes"] == {} and line["sentence"] is None for line in of["CLL"])
    assert all(line["attributes"] for line in of["monocyte"])
    assert notes == [
        f"Not described: {len(of['CLL'])} images predicted as CLL, of which fewer than 5 train images had attributes."
    ]


def test_a_text_finds_images_and_an_image_finds_captions(run: Path, data: PreparedDataset) -> None:
    opened = load_run(run)
    found = search_images(opened, "a blood cell", data, "test", 5)
    assert len(found) == 5 and [f.similarity for f in found] == sorted(
        (f.similarity for f in found), reverse=True
    )
    found = search_images(opened, "a cell with round red granules", data, "test", 5)
    assert sum(f.label == "eosinophil" for f in found) >= 4
    image = data.paths("test")[data.tables["test"]["label"].tolist().index("eosinophil")]
    captions = search_captions(opened, image, data, "test", 3)
    assert len({f.name for f in captions}) == 3
    likely = [f.probability for f in captions]
    assert likely == sorted(likely, reverse=True) and 0 < sum(likely) <= 1
    assert stated(captions[0].name)["granularity"] == {"yes"}


def test_a_caption_is_likely_by_its_likeness_and_its_frequency() -> None:
    p = vision_language.caption_probabilities(np.array([[0.1, 0.1, 0.3]]), 10.0, np.array([3, 0, 0]))
    assert p[0] == pytest.approx(np.array([4, 1, np.exp(2)]) / (5 + np.exp(2)))


def test_a_sentence_of_a_class_comes_first_where_it_is_likelier_than_all_by_attributes() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    assert vision_language.captions_in_order(p, 2).tolist() == [
        1,
        0,
        2,
        3,
        4,
    ]  # 0.3 together, and the first of equals
    assert vision_language.captions_in_order(p, 1).tolist() == [2, 3, 1, 4, 0]
    assert vision_language.captions_in_order(p, 5).tolist() == [2, 3, 1, 4, 0]


def test_words_that_no_caption_has_are_told(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("classifier.language.note", notes.append)
    (tmp_path / "own.csv").write_text("label,sentence\nCLL,progresses slowly in a small cell\n")
    config = settings("contrastive", sentences=str(tmp_path / "own.csv"))
    rows = data.tables["train"]
    language_for(config, rows, lambda: data.images("train"), data.classes, data.root)
    assert len(notes) == 1 and notes[0].startswith("Words of the sentences of CLL that no training caption")
    assert notes[0].endswith("mean nothing: progresses, slowly, in.")
    language_for(settings("contrastive"), rows, lambda: data.images("train"), data.classes, data.root)
    assert len(notes) == 1
    rest = rows[rows["label"] != "monocyte"].reset_index(drop=True)
    language_for(settings("contrastive"), rest, lambda: data.images("train"), data.classes, data.root)
    assert "Words of the sentences of monocyte" in notes[1]


def test_sentences_that_are_not_read_are_told(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("classifier.language.note", notes.append)
    texts = [f"a small cell of kind {'abcdefghij'[i] * 3}" for i in range(9)]
    long = "a small cell " * 40
    own = {
        "CLL": texts,
        "monocyte": [long + "red", long + "blue"],
        "eosinophil": [long + "red", long + "blue"],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    config = settings("text", sentences=str(tmp_path / "own.json"))
    given = check_language(config, data.tables["train"], data.classes, data.root)
    assert given["CLL"] == tuple(texts[:8])
    assert notes == [f"{tmp_path / 'own.json'} has 9 sentences of CLL; the first 8 are read."]
    language_for(config, data.tables["train"], lambda: data.images("train"), data.classes, data.root)
    assert "Of 2 sentences of monocyte the first 96 words are read." in notes


def test_nothing_is_asked_of_language_models_for_a_run_that_is_refused(
    data: PreparedDataset, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier.rewriting.rewrite", lambda *a: pytest.fail("asked"))
    config = settings("contrastive", captions="llm", endpoints=("m@http://localhost:1/v1",))
    with pytest.raises(InputError, match="exists already"):
        train_run(data, [], config, run)
    with pytest.raises(InputError, match="no pretraining run"):
        train_run(data, [], replace(config, arch="fcmae-wpat", init=str(tmp_path)), tmp_path / "run")


def test_what_is_denied_and_not_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(vision_language, "note", notes.append)
    vision_language._stated("a cell that is not small, with no pink granules and no vacuoles")
    assert len(notes) == 1 and "not read (small, pink)" in notes[0]
    vision_language._stated("a cell with no granules, its nucleus not segmented")
    assert len(notes) == 1


def test_what_cannot_be_asked_is_said(run: Path, data: PreparedDataset, tmp_path: Path) -> None:
    opened = load_run(run)
    with pytest.raises(InputError, match="empty|no text"):
        search_images(opened, "  ", data, "test", 5)
    with pytest.raises(InputError, match="No word of 'zebra'"):
        search_images(opened, "zebra", data, "test", 5)
    with pytest.raises(InputError, match="Latin script"):
        search_images(opened, "клетка с ядром", data, "test", 5)
    with pytest.raises(InputError, match="50,000 characters"):
        search_images(opened, "cell " * 10_000, data, "test", 5)
    plain = train_run(data, [], settings("class", steps=2), tmp_path / "plain")
    for ask in (
        lambda: search_images(load_run(plain), "a cell", data, "test", 1),
        lambda: list(describe_files(load_run(plain), data.paths("test")[:1])),
    ):
        with pytest.raises(InputError, match="trained without language"):
            ask()
    text = train_run(data, [], settings("text", steps=2), tmp_path / "text")
    with pytest.raises(InputError, match="head text, which has not learned attributes"):
        list(describe_files(load_run(text), data.paths("test")[:1]))


def fit_without_eosinophil(
    config: TrainingConfig, data: PreparedDataset, chosen: np.ndarray | None = None
) -> tuple[Fitted, Language]:
    """A training without the train images of eosinophil, with those of validation, or the `chosen` ones."""
    rows = np.flatnonzero(data.tables["train"]["label"] != "eosinophil")
    images, table = data.images("train")[rows], data.tables["train"].iloc[rows].reset_index(drop=True)
    said = language_for(config, table, lambda: images, data.classes, data.root)
    assert said is not None and said.present.tolist() == [True, False, True]
    chosen = np.arange(len(data.labels("validation"))) if chosen is None else chosen
    validation, labels = data.images("validation")[chosen], data.labels("validation")[chosen]
    fitted = fit(config, images, data.labels("train")[rows], validation, labels, 3, "cpu", language=said)
    return fitted, said


def test_a_class_without_an_image_is_recognised_by_its_sentences_alone(data: PreparedDataset) -> None:
    config = settings("contrastive", sampling="balanced", steps=100).resolved()
    fitted, said = fit_without_eosinophil(config, data)
    p, own = fitted.validation_probabilities, data.labels("validation") == 1
    assert np.isfinite(p).all() and p[own, 1].mean() > p[~own, 1].mean()
    # The price is counted on images of the other classes, though validation has some of this one.
    assert (p[~own].argmax(axis=1) == 1).mean() == pytest.approx(calibration.UNSEEN_SHARE, abs=0.05)
    of_test = predict_probabilities(fitted.model, data.images("test")).argmax(axis=1) == 1
    is_other = data.labels("test") != 1
    assert of_test[is_other].mean() < 0.2 and of_test[~is_other].mean() > of_test[is_other].mean()

    images = np.concatenate([data.images("validation")[:], data.images("test")[:]])
    is_own = np.concatenate([own, data.labels("test") == 1])
    z = embed_images(fitted.model, images)
    others = (z @ fitted.model.network.by_sentence.embeddings.numpy()[[0, 2]].T).max(axis=1)

    def told_apart(label: str) -> float:
        """By likeness to the sentences of a class, without novelty: the area under the ROC curve."""
        texts = embed_texts(fitted.model, said.reader, class_sentences(label, 8, 0, named=False)).mean(axis=0)
        return float(roc_auc_score(is_own, z @ (texts / np.linalg.norm(texts)) - others))

    wrong = [told_apart(label) for label in ("CLL", "monocyte", "lymphocyte", "erythroblast")]
    assert told_apart("eosinophil") > max(0.7, *(area + 0.1 for area in wrong))


def test_a_class_without_a_train_image_has_no_part_in_the_choice_of_weights(data: PreparedDataset) -> None:
    labels = data.labels("validation")
    config = settings("contrastive", arch="cnn11", steps=4, evaluations=2).resolved()
    everything, known = (
        fit_without_eosinophil(config, data, chosen)[0] for chosen in (None, np.flatnonzero(labels != 1))
    )
    assert everything.history == known.history and everything.best_step == known.best_step
    with pytest.raises(InputError, match="No validation image is of a class that has train images"):
        fit_without_eosinophil(config, data, np.flatnonzero(labels == 1))


@pytest.mark.parametrize(
    ("head", "words"), [("text", "known by its sentences alone"), ("joint", "never answer")]
)
def test_a_run_tells_of_a_class_without_an_image(
    head: str, words: str, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("classifier.runs.note", notes.append)
    train = data.tables["train"]
    rest = train[train["label"] != "eosinophil"].reset_index(drop=True)
    without = replace(data, tables=data.tables | {"train": rest})
    run = train_run(without, [], settings(head, arch="cnn11", steps=2, sampling="balanced"), tmp_path / "run")
    assert len(notes) == 1 and "No train image is of eosinophil" in notes[0] and words in notes[0]
    card = (run / "MODEL_CARD.md").read_text()
    assert (
        "No image of eosinophil was in train" in card and words[:12] in card and "of CLL was in" not in card
    )


def test_a_scorer_prefers_images_that_fit_its_text(run: Path, data: PreparedDataset) -> None:
    scorer = text_scorer(run, "a small cell without granules, with little cytoplasm", data)
    assert scorer.attributes["cell_size"] == "small" and scorer.attributes["granularity"] == "no"
    scores = scorer.scores(data.images("test")[:])
    labels = data.tables["test"]["label"].to_numpy()
    assert scores.shape == (len(labels),) and (np.abs(scores) <= 1).all()
    assert scores[labels == "CLL"].mean() > scores[labels == "eosinophil"].mean()
    likely = scorer.likely(["eosinophil", "CLL", "unknown"])
    assert list(likely) == ["CLL", "eosinophil"] and sum(likely.values()) == pytest.approx(1)
    assert likely["eosinophil"] == 0  # none of them lacks granules
    assert scorer.likely(["unknown"]) == {}
    shares = text_scorer(run, "a cell with granules", data).having
    counts = data.tables["train"]["label"].value_counts()
    assert shares == pytest.approx(
        {
            "CLL": 1 / (counts["CLL"] + 2),
            "eosinophil": (counts["eosinophil"] + 1) / (counts["eosinophil"] + 2),
            "monocyte": 1 / (counts["monocyte"] + 2),
        }
    )
    tables = {split: table.drop(columns=list(ATTRIBUTES)) for split, table in data.tables.items()}
    untold = text_scorer(run, "a cell with granules", replace(data, tables=tables))
    assert untold.having == {} and sum(untold.likely(list(LABELS)).values()) == pytest.approx(1)
    told = text_scorer(run, "a cell without granules", data).likely(list(LABELS))
    lacking = {label: (counts[label] + 1) / (counts[label] + 2) for label in ("CLL", "monocyte")}
    assert told == pytest.approx(
        {"eosinophil": 0} | {k: n / sum(lacking.values()) for k, n in lacking.items()}
    )
    named = text_scorer(run, "an Eosinophil without granules", data).likely(list(LABELS))
    assert named == {"eosinophil": 1, "CLL": 0, "monocyte": 0}
    with pytest.raises(InputError, match="What 'not' does before 'eosinophil'"):
        text_scorer(run, "not an eosinophil, round nucleus", data)
    train = data.tables["train"].copy()
    train.loc[train["label"] == "CLL", list(ATTRIBUTES)] = None
    some = replace(data, tables=data.tables | {"train": train})
    partly = text_scorer(run, "a cell with granules", some).likely(list(LABELS))
    share = (counts["eosinophil"] + 1) / (counts["eosinophil"] + 2)
    assert partly["monocyte"] == 0 and sum(partly.values()) == pytest.approx(1)
    assert partly["CLL"] != pytest.approx(0.5 / (0.5 + share), abs=0.05)  # the sentences are asked
    assert scorer.trained_on(data, "test") == scorer.trained_on(data, "validation") == []
    assert len(scorer.trained_on(data, "train")) == len(data.tables["train"])
    large = np.stack([np.asarray(Image.fromarray(x).resize((64, 64))) for x in data.images("test")[:4]])
    assert np.abs(scorer.scores(large) - scores[:4]).max() < 0.3


def test_images_are_compared_with_a_text_in_the_stain_of_training(
    run: Path, data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, text = load_run(run), "a small cell without granules"
    stained = replace(opened, config=opened.config | {"stain": {"name": "clahe", "reference": {}}})
    monkeypatch.setattr("classifier.vision_language.load_run", lambda run: stained)
    images = data.images("test")[:]
    normalised = np.stack([stain.normalise("clahe", x, {}) for x in images])
    wanted = text_scorer(
        run, text, replace(data, info=data.info | {"stain": stained.config["stain"]})
    ).scores(normalised)
    assert np.array_equal(text_scorer(run, text, data).scores(images), wanted)
    found = search_images(stained, text, data, "test", len(images))
    assert sorted(one.similarity for one in found) == pytest.approx(sorted(wanted.tolist()), abs=1e-5)
    plain = search_images(opened, text, data, "test", len(images))
    assert [one.similarity for one in plain] != [one.similarity for one in found]
    other = replace(data, info=data.info | {"stain": {"name": "reinhard", "reference": {}}})
    for ask in (
        lambda: search_images(stained, text, other, "test", 3),
        lambda: text_scorer(run, text, other),
    ):
        with pytest.raises(InputError, match=r"a stain of its own \(reinhard\)"):
            ask()


def test_what_is_said_alike_of_two_classes_is_one_meaning() -> None:
    def meaning(*labels: str, **options: object) -> list[int]:
        table = pd.DataFrame({"label": labels})
        return language_of(table, labels, "x.csv", "small", **options).meaning.tolist()  # type: ignore[arg-type]

    assert meaning("Pre", "Pro", "CLL", taught=False) == [0, 0, 1]  # ALL's subtypes look alike
    assert meaning("Pre", "Pro", "CLL") == [0, 1, 2]  # but are called differently
    table = pd.DataFrame(
        {"label": ["CLL"] * 3, "granularity": ["no", "no", "yes"], "granule_type": ["nil", None, None]}
    )
    assert language_of(table, ("CLL",), "x.csv", "small").meaning.tolist() == [0, 0, 1]
    assert meaning("a", "b", "c", given={"a": ["One.", "Two."], "b": ["Two.", "One."], "c": ["One."]}) == [
        0,
        0,
        1,
    ]


def test_a_caption_is_no_negative_of_itself_whosever_it_is() -> None:
    table = pd.DataFrame({"label": ["a", "b", "a", "b"]})
    given = {"a": ["A small cell.", "Blue."], "b": ["a small cell", "Red."]}
    said = language_of(table, ("a", "b"), "x.csv", "small", given)
    assert said.meaning.tolist() == [0, 1, 0, 1]
    same = said.text.unsqueeze(0) == said.text.unsqueeze(1)  # by image, image and caption
    equal = [[[x.lower().strip(".") == y.lower().strip(".") for x, y in zip(a, b, strict=True)]
              for a in said.captions] for b in said.captions]  # fmt: skip
    assert same.tolist() == equal and said.text[0, 0] == said.text[1, 1] != said.text[0, 1]


def test_classes_of_which_the_same_is_said_are_told(
    data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("classifier.language.note", notes.append)
    (tmp_path / "own.json").write_text(json.dumps({"CLL": "A cell.", "monocyte": "A cell."}))
    for head, told in (("text", 1), ("joint", 0)):
        config = settings(head, sentences=str(tmp_path / "own.json"))
        notes.clear()
        language_for(config, data.tables["train"], lambda: data.images("train"), data.classes, data.root)
        assert len(notes) == told
    language_for(replace(config, head="text"), data.tables["train"], lambda: [], data.classes, data.root)  # type: ignore[arg-type, return-value]
    assert "The same is said of CLL and monocyte" in notes[0]


def test_a_search_looks_for_what_the_text_states(
    run: Path, data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, table = load_run(run), data.tables["test"]
    has = dict(zip(map(str, data.paths("test")), table["granularity"], strict=True))
    for text, value in (("cell with granules", "yes"), ("cell without granules", "no")):
        found = search_images(opened, text, data, "test", 10)
        assert np.mean([has[one.name] == value for one in found]) > 0.7
        likely = [one.probability for one in found]
        assert all(p is not None and 0 <= p <= 1 for p in likely)
        assert all(a >= b - 0.01 for a, b in pairwise(likely))  # type: ignore[operator]
    notes: list[str] = []
    monkeypatch.setattr(vision_language, "note", notes.append)
    search_images(opened, "large cell with folded nucleus and grey cytoplasm", data, "test", 3)
    assert any("(cell size: big; nucleus shape: unsegmented-indented)" in said for said in notes)
    found = search_images(opened, "a blood cell", data, "test", 10)
    assert all(one.probability is None for one in found)
    segmented = {"segmented-bilobed", "segmented-multilobed"}
    shapes = dict(zip(map(str, data.paths("test")), table["nucleus_shape"], strict=True))
    found = search_images(opened, "segmented nucleus", data, "test", 10)
    assert np.mean([shapes[one.name] in segmented for one in found]) > 0.7
    described = {label: ["cell_size"] for label in LABELS}
    config = opened.config | {"language": opened.config["language"] | {"described": described}}
    unlearned = search_images(replace(opened, config=config), "cell with granules", data, "test", 10)
    assert all(one.probability is None for one in unlearned)
    notes.clear()
    alone = vision_language._alone(stated("a large small cell with a round nucleus"))
    assert alone == {"nucleus_shape": "unsegmented-round"}
    assert len(notes) == 1 and "cell_size big and small" in notes[0]
    with pytest.raises(InputError, match="there are granules and there are none"):
        search_images(opened, "cell with no granules but with red granules", data, "test", 3)


def test_an_attribute_of_impossible_temperature_is_a_damaged_file(run: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(run / WEIGHTS)
    with safetensors.safe_open(run / WEIGHTS, framework="pt") as file:
        about = file.metadata()
    for value in (0.0, -1.0):
        tensors["attribute_temperature"][3] = value
        safetensors.torch.save_file(tensors, tmp_path / WEIGHTS, about)
        with pytest.raises(InputError, match="temperature of an attribute"):
            load_run(tmp_path)


def test_a_text_that_is_longer_than_is_read_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(vision_language, "note", notes.append)
    vision_language.query(load_run(run), "a small cell " * 33)
    assert len(notes) == 1 and "reads the first 96 words" in notes[0]


def test_what_is_answered_of_images_costs_no_text_again(
    run: Path, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))
    image = data.paths("test")[0]
    first = search_captions(load_run(run), image, data, "train", 5)

    def no_text(*args: object) -> None:
        raise AssertionError("a text was read")

    monkeypatch.setattr("classifier.models.text.TextTransformer.forward", no_text)
    opened = load_run(run)
    assert search_captions(opened, image, data, "train", 5) == first
    assert len(list(describe_files(opened, data.paths("test")[:3], explain=tmp_path / "pictures"))) == 3
    predict_probabilities(opened.model, data.images("test"))


def test_each_attribute_has_a_map_of_its_own_evidence(
    run: Path, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By completeness each map sums up to the logit of its attribute's value, less that of background alone."""
    opened, sheets = load_run(run), []
    monkeypatch.setattr("classifier.explain.sheet", lambda *given: sheets.append(given) or sheet(*given))
    (line,) = describe_files(opened, data.paths("test")[:1], explain=tmp_path)
    ((_, seen, maps, titles),) = sheets
    background = np.full_like(seen, edge_colour(seen))
    with torch.no_grad():
        pixels = opened.model.transform.normalise(torch.from_numpy(np.stack([seen, background])))
        logits = opened.language.attribute_logits(opened.language.features(pixels))
    for k, (name, values) in enumerate(ATTRIBUTES.items()):
        value = line["attributes"][name]["value"]
        with_cell, without = logits[k][:, values.index(value)].tolist()
        assert f"{name.replace('_', ' ')}\n{value}" in titles[k]
        assert maps[k].sum() == pytest.approx(with_cell - without, rel=0.2, abs=0.1)


def test_describing_and_searching_at_the_command_line(
    run: Path, data: PreparedDataset, tmp_path: Path
) -> None:
    def call(*args: object, code: int = 0) -> str:
        result = CliRunner().invoke(classifier, [str(a) for a in args])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result.output if code else result.stdout

    image, where = data.paths("test")[0], ("--run", run, "--data", data.root)
    (line,) = map(json.loads, call("describe", "--run", run, image, "--json").splitlines())
    assert line["sentence"].endswith(".") and set(line["attributes"]) == set(ATTRIBUTES)
    assert f"Seen: {line['sentence']}" in call("describe", "--run", run, image)
    found = [
        json.loads(x)
        for x in call("search", "small cell without granules", *where, "--n", 3, "--json").splitlines()
    ]
    assert len(found) == 3 and all(Path(one["name"]).is_file() and one["label"] in LABELS for one in found)
    captions = call("search", image, *where, "--n", 4).splitlines()
    assert len(captions) == 4 and all(stated(caption.split("  ")[1]) for caption in captions)
    for wrong, sentence in (
        ("", "The text is empty"),
        ("большая клетка", "Latin"),
        ("cell " * 500, "up to 2,000 are read"),
        (tmp_path, "is a folder"),
        ("nothing.png", "does not exist"),
    ):
        assert sentence in " ".join(call("search", wrong, *where, code=2).split())


def test_a_class_without_a_sentence_is_refused_before_any_work(tmp_path: Path, data: PreparedDataset) -> None:
    with pytest.raises(InputError, match="--sentences"):
        language_of(pd.DataFrame({"label": ["blob"]}), ("blob",), "x.csv", "small")


def test_settings_that_do_not_go_together_are_refused() -> None:
    for wrong, words in (
        ({"head": "txt"}, "no head 'txt'.*Did you mean 'text'"),
        ({"head": "text", "loss": "ldam"}, "ldam changes the last layer"),
        ({"head": "joint", "mixing": "mixup"}, "no sentence of their own"),
        ({"head": "text", "captions": "llm"}, "name one with --endpoint"),
        ({"head": "text", "sentences": ""}, "--sentences names no file"),
        ({"sentences": "own.csv"}, "--sentences does nothing with the head class"),
        ({"text_encoder": "minilm"}, "--text-encoder does nothing with the head class"),
        ({"head": "text", "joint_weights": (2.0, 1.0, 1.0, 1.0)}, "those of the head joint, not text"),
        (
            {"head": "text", "captions": "llm", "endpoints": ("m@http://u:p@host/v1",)},
            "a user, a password, a query or a fragment",
        ),
        (
            {"head": "text", "captions": "llm", "endpoints": ("m@https://host/v1?key=1",)},
            "a user, a password, a query or a fragment",
        ),
        ({"captions": "llm", "endpoints": ("m@http://h/v1#key=x",), "head": "joint"}, "or a fragment"),
        ({"captions": "llm", "endpoints": ("m@http://[::1/v1",), "head": "joint"}, "Invalid IPv6 URL"),
        ({"endpoints": ("m@http://localhost",)}, "is for --captions llm; give that too"),
        ({"head": "joint", "joint_weights": (1.0, 1.0, 1.0, 0.0)}, "four numbers above 0"),
        (
            {"head": "attributes", "captions": "llm", "endpoints": ("m@http://localhost/v1",)},
            "--captions does nothing with the head attributes",
        ),
        ({"head": "text", "captions": "measured"}, "--captions does nothing with the head text"),
        (
            {"head": "attributes", "text_encoder": "minilm"},
            "--text-encoder does nothing with the head attributes",
        ),
        ({"head": "joint", "joint_weights": (-1.0, 1.0, 1.0, 1.0)}, "four numbers"),
        ({"head": "text", "text_encoder": "minilmm"}, "Did you mean 'minilm'"),
    ):
        with pytest.raises(InputError, match=words):
            TrainingConfig(**wrong)


def test_cells_without_attributes_are_measured_where_that_is_asked_for(data: PreparedDataset) -> None:
    rows = data.tables["train"].iloc[:12].copy()
    known = rows[list(ATTRIBUTES)].copy()
    rows.loc[rows.index[:10], list(ATTRIBUTES)] = None
    measured = with_measured(rows, data.images("train")[:12], "x.csv")
    assert (measured[list(ATTRIBUTES)].iloc[10:] == known.iloc[10:]).all(axis=None)
    found = measured[list(ATTRIBUTES)].iloc[:10]
    assert found.notna().any(axis=1).sum() >= 8 and found["granule_colour"].isna().all()
    right = (found == known.iloc[:10])[found.notna()].stack()
    assert right.mean() > 0.7
    config = settings("contrastive", captions="measured")
    said = language_for(config, rows, lambda: data.images("train")[:12], data.classes, data.root)
    assert said is not None and (said.attributes == attribute_indices(measured, "x.csv")).all()
    judged = data.tables["validation"].copy()
    judged.loc[judged.index[2:], list(ATTRIBUTES)] = None
    some = replace(data, tables=data.tables | {"validation": judged})
    assert (known_attributes(config, some, "validation") != UNKNOWN).any(axis=1).sum() > 2
    assert (known_attributes(settings("joint"), some, "validation") != UNKNOWN).any(axis=1).sum() == 2


def test_an_endpoint_is_named_by_model_and_url(
    monkeypatch: pytest.MonkeyPatch, data: PreparedDataset
) -> None:
    made = _endpoint("org/model@v2@http://localhost:8000/v1")
    assert (made.model, made.url, made.key_variable) == ("org/model@v2", "http://localhost:8000/v1", None)
    monkeypatch.setenv(KEY, "secret")
    assert _endpoint("m@https://host/v1").key_variable == KEY
    monkeypatch.setenv(KEY, "ü")
    config = settings("contrastive", captions="llm", endpoints=("m@https://host/v1",))
    with pytest.raises(InputError, match=f"{KEY} holds no key for"):
        check_language(config, data.tables["train"], data.classes, data.root)
    config = settings("contrastive", captions="llm", endpoints=("localhost",))
    with pytest.raises(InputError, match="not of the form MODEL@URL"):
        language_for(config, data.tables["train"], lambda: data.images("train"), data.classes, data.root)


def test_a_comparison_takes_a_head_and_its_jobs_know_what_was_said(
    data: PreparedDataset, tmp_path: Path
) -> None:
    config = settings("text", arch="swin", steps=2, batch_size=8)
    arms = ["unbalanced", "balanced-sampling"]
    report = compare(data, [], tmp_path / "report", arms, 2, config)
    assert set(report["arms"]) == set(arms)
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("report/jobs/*/job.json")]
    assert len(jobs) == 4 and len({job["inputs"]["language"] for job in jobs}) == 1
    assert jobs[0]["inputs"]["language"] is not None and jobs[0]["inputs"]["config"]["head"] == "text"


def test_an_attribute_is_stated_of_classes_of_which_it_was_learned(
    data: PreparedDataset, tmp_path: Path
) -> None:
    tables = {split: table.copy() for split, table in data.tables.items()}
    train = tables["train"]
    others = [name for name in ATTRIBUTES if name != "cell_size"]
    few = train.index[train["label"] == "CLL"][4:]
    train.loc[few, others] = np.nan  # four images are too few
    run = train_run(replace(data, tables=tables), [], settings("joint"), tmp_path / "run")
    lines = list(describe_files(load_run(run), data.paths("test")))
    for line in lines:
        learned = ["cell_size"] if line["predicted"] == "CLL" else list(ATTRIBUTES)
        assert list(line["attributes"]) == learned
        assert set(stated(line["sentence"])) <= set(learned)


def test_a_sentence_contradicts_no_value_that_is_read() -> None:
    def read(**values: tuple[str, float]) -> dict[str, dict[str, object]]:
        return {name: {"value": value, "confidence": p} for name, (value, p) in values.items()}

    told = vision_language._sure(
        read(granularity=("no", 0.9), granule_type=("small", 0.4), cell_size=("big", 0.8))
    )
    assert told == {"cell_size": "big"}
    agreed = read(granularity=("yes", 0.6), granule_type=("round", 0.8), granule_colour=("red", 0.69))
    assert vision_language._sure(agreed) == {"granule_type": "round"}


def test_what_the_user_says_of_a_class_takes_the_place_of_what_is_known(
    data: PreparedDataset, tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"CLL": "A small cell of our own."}))
    run = train_run(data, [], settings("joint", sentences=str(own)), tmp_path / "run")
    lines = list(describe_files(load_run(run), data.paths("test")))
    assert all((line["known"] is None) == (line["predicted"] == "CLL") for line in lines)
    own.write_text(json.dumps({"cll": "A small cell."}))
    with pytest.raises(InputError, match="no class 'cll'.*Did you mean 'CLL'"):
        train_run(data, [], settings("text", sentences=str(own)), tmp_path / "other")


def test_attributes_of_nothing_cannot_be_learned(
    data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = data.tables["train"].drop(columns=list(ATTRIBUTES))
    with pytest.raises(InputError, match="has nothing to learn; take --captions measured"):
        language_for(settings("attributes"), rows, lambda: data.images("train"), data.classes, data.root)
    notes: list[str] = []
    monkeypatch.setattr("classifier.language.note", notes.append)
    assert language_for(settings("joint"), rows, lambda: data.images("train"), data.classes, data.root)
    assert "learns classes and sentences alone" in notes[0]


def test_classes_without_attributes_have_their_sentences_among_the_captions(
    run: Path, data: PreparedDataset
) -> None:
    tables = {split: table.copy() for split, table in data.tables.items()}
    tables["test"].loc[tables["test"]["label"] == "CLL", list(ATTRIBUTES)] = np.nan
    thinned = replace(data, tables=tables)
    captions, counts, described = vision_language._captions(load_run(run), thinned, "test")
    assert described == len(captions) - 1
    assert captions[-1] == load_run(run).config["language"]["sentences"]["CLL"][0]
    assert counts[-1] == (tables["train"]["label"] == "CLL").sum() and 0 <= counts.min() < counts.max()
    assert len(captions) == 1 + len(tables["test"][list(ATTRIBUTES)].dropna().drop_duplicates())
