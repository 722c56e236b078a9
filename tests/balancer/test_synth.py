"""Synthesis with a generator and features that do what the test wants."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from filelock import FileLock
from PIL import Image

import balancer.synth as synth
from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError
from balancer.files import _lock, read_json, write_json
from balancer.generators.combinations import Combinations
from balancer.quality.backbones import FeatureFile
from balancer.quality.folders import judge_folders
from cli import balancer

COUNTS = {
    "train": {"a": 20, "b": 20},
    "validation": {"a": 20, "b": 20},
    "test": {"a": 5, "b": 5},
    "heldout": {"a": 30, "b": 30},
}


class MeanColours:
    """Features that see colour in a coarse grid, and nothing else."""

    name = "mean-colours"
    sha256 = "0" * 64
    dimension = 12

    def __call__(self, images):
        n, r = images.shape[:2]
        coarse = images.reshape(n, 2, r // 2, 2, r // 2, 3).mean((2, 4)).reshape(n, -1)
        return (coarse / 255).astype(np.float32)


@dataclass
class Replaying:
    """A "generator" that gives stored images of the class, chosen by seed; every third a train image if copying, or blank."""

    data: dict
    images: dict
    train: dict
    path: object
    copying: bool = False
    blank: bool = False
    sha256: str = "f" * 64
    resolution: int = 32
    info: dict = field(default_factory=lambda: {"known": ["a", "b"], "generator": "replaying", "kimg": 0})
    combinations: Combinations | None = None

    def generate(self, label, seeds, truncation):
        chosen = [self.images[label][seed % len(self.images[label])] for seed in seeds]
        if self.copying:
            chosen = [
                self.train[label][s % 20] if s % 3 == 0 else x for s, x in zip(seeds, chosen, strict=True)
            ]
        noise = [np.random.default_rng(seed).normal(0, 3, chosen[0].shape) for seed in seeds]
        made = np.stack([x + e for x, e in zip(chosen, noise, strict=True)]).clip(0, 255).astype(np.uint8)
        if self.blank:
            made[np.array(seeds) % 3 == 0] = 200
        return made


@dataclass
class Told(Replaying):
    """The same, of a generator that is told attributes; keeps what was asked of it."""

    asked: list = field(default_factory=list)

    def generate_attributes(self, values, seeds, truncation, label):
        self.asked.append((values, label))
        return self.generate(label, seeds, truncation)


@dataclass
class Redness:
    """A "model of images and texts" that finds what is red in any text, and in some attributes."""

    text: str = "a red cell"
    sha256: str = "5" * 64
    path: Path = Path("runs/scorer")
    attributes: dict = field(default_factory=dict)
    trained: dict = field(default_factory=dict)  # file names by split
    unknown: tuple = ()
    named: tuple = ()

    def scores(self, images):
        means = images.reshape(len(images), -1, 3).mean(1)
        return means[:, 0] / means.sum(1)

    def likely(self, labels):
        known = sorted((label for label in labels if label not in self.unknown), reverse=True)
        return {label: 0.7 - 0.4 * i for i, label in enumerate(known)}

    def trained_on(self, data, split):
        return self.trained.get(split, [])


@pytest.fixture(autouse=True)
def discs(monkeypatch, without_cell_checks):
    """Discs are all the same cell, and none has what a cell has: of the checks, pictures and blank images are left."""
    monkeypatch.setattr(
        "balancer.quality.copies.same_cell_in", lambda candidates, known: np.full(len(candidates.shown), -1)
    )


@pytest.fixture
def setting(make_dataset, tmp_path, monkeypatch):
    data = make_dataset(tmp_path / "data", COUNTS)
    other = make_dataset(tmp_path / "other", {"train": {"a": 300, "b": 300}}, seed=1)
    (tmp_path / "run").mkdir()
    pd.DataFrame({"source_sha256": data.tables["train"]["source_sha256"]}).to_csv(
        tmp_path / "run/seen.csv", index=False
    )
    generator = Replaying(
        data={"path": str(data.root), "fingerprint": data.fingerprint, "source": data.source},
        images={label: other.images_of(label, ["train"])[0] for label in "ab"},
        train={label: data.images_of(label, ["train"])[0] for label in "ab"},
        path=tmp_path / "run",
    )
    monkeypatch.setattr(synth, "load_generator", lambda run, device: generator)

    def run(labels=("a",), n=40, out=tmp_path / "syn", **options):
        return synth.synthesise(data, tmp_path / "run", labels, n, out, extractor=MeanColours(), **options)

    return generator, run


def test_copies_are_rejected_one_by_one_and_made_up_for(setting):
    generator, run = setting
    generator.copying = True
    result = run(allow_unverified=True)
    made = SyntheticSet.load(result.out)
    assert len(made.table) == 40
    rejected = pd.read_csv(result.out / "rejected/rejected.csv")
    assert (rejected["seed"] % 3 == 0).sum() > 5
    assert rejected["reason"].str.contains("near-copy of (?:train|held-out) image").all()
    assert not (made.table["seed"] % 3 == 0).any()
    assert sorted(p.name for p in (result.out / "rejected/a").iterdir()) == sorted(
        name.split("/")[1] for name in rejected["file_name"]
    )


def test_defective_images_are_made_up_for(setting):
    generator, run = setting
    generator.blank = True
    result = run(n=40)
    judged = result.judgements["a"]
    assert result.written["a"] == 40 and judged.n_candidates > 55
    assert sum("blank" in (reason or "") for reason in judged.rejected) > 10


def test_candidates_are_made_until_they_decide(setting, monkeypatch):
    """As many as there are real images, where fewer leave KID undecided; then the advice is to allow more."""
    _, run = setting
    judge = synth.Gate.judge

    def undecided(self, label, candidates):
        found = judge(self, label, candidates)
        return found if len(candidates) > 40 else replace(found, verdict="insufficient-data")

    monkeypatch.setattr(synth.Gate, "judge", undecided)
    made = run(n=12)
    assert made.judgements["a"].n_candidates > 40 and made.written["a"] == 12
    (sentence,) = run(n=12, max_candidates=2, overwrite=True).advice
    assert "--max-candidates" in sentence


def test_a_class_that_fails_is_given_up(setting):
    generator, run = setting
    generator.images["a"] = generator.images["b"]
    generator.blank = True
    assert run().judgements["a"].n_candidates == 40
    kept = run(overwrite=True, allow_unverified=True)
    assert kept.judgements["a"].n_candidates > 40


def test_what_the_generator_saw_outside_train_is_no_reference(setting, monkeypatch):
    """A generator that came trained: images held out here may be what it knows, and its copies of them are copies."""
    generator, run = setting
    data = PreparedDataset.load(generator.data["path"])
    held_out = data.tables["heldout"].query("label == 'a'")
    known = pd.concat([data.tables["train"], held_out])["source_sha256"]
    pd.DataFrame({"source_sha256": known}).to_csv(generator.path / "seen.csv", index=False)
    generator.images["a"] = data.images_of("a", ["heldout"])[0]
    notes = []
    monkeypatch.setattr(synth, "note", notes.append)
    result = run(n=20)
    judged = result.judgements["a"]
    assert judged.verdict == "fail" and "near-copy of train image heldout/a/" in judged.rejected[0]
    assert any("outside train (30 of heldout)" in sentence for sentence in notes)
    shutil.copytree(result.out / "rejected/a", result.out / "train/a", dirs_exist_ok=True)
    again = judge_folders(data.root, result.out, MeanColours()).judgements["a"]
    assert again.verdict == "fail" and "near-copy of train image heldout/a/" in again.rejected[0]


def test_no_more_candidates_than_allowed(setting):
    generator, run = setting
    generator.copying = True
    result = run(allow_unverified=True, max_candidates=1)
    assert result.judgements["a"].n_candidates == 40
    assert result.written["a"] < 40


def test_the_right_class_passes_and_another_class_fails(setting):
    generator, run = setting
    assert run().judgements["a"].verdict == "pass"
    generator.images["a"] = generator.images["b"]
    result = run(overwrite=True)
    assert result.judgements["a"].verdict == "fail"
    assert result.written == {"a": 0}
    assert not list((result.out / "train/a").iterdir())


def test_same_seed_same_bytes(setting, tmp_path):
    _, run = setting
    first = {p.name: p.read_bytes() for p in run().out.rglob("*.png")}
    again = {p.name: p.read_bytes() for p in run(overwrite=True).out.rglob("*.png")}
    assert first == again
    other = {p.name for p in run(overwrite=True, seed=1).out.rglob("*.png")}
    assert not other & set(first)


def test_what_may_help_depends_on_what_was_wrong(setting, monkeypatch):
    generator, run = setting
    assert run().advice == []
    (sentence,) = run(n=8, max_candidates=1, overwrite=True).advice
    assert "larger --n" in sentence and "train" not in sentence
    generator.images["a"] = generator.images["b"]
    (sentence,) = run(overwrite=True).advice
    assert f"--init {generator.path} --kimg 20`" in sentence
    generator.info["attributes"] = {}
    data = PreparedDataset.load(generator.data["path"])
    (again,) = synth._advice(generator, data, run(overwrite=True).judgements, False)
    del generator.info["attributes"]
    assert f"--init {generator.path} --kimg 20 --condition attributes`" in again
    monkeypatch.setattr(synth, "_is_builtin", lambda generator: True)
    monkeypatch.setattr(synth, "_check_fit", lambda *args: None)
    (sentence,) = run(overwrite=True).advice
    assert "balancer train --init builtin --data" in sentence and str(generator.path) not in sentence


def test_nothing_but_real_images_helps_where_they_are_too_few(setting):
    generator, run = setting
    judged = replace(run(n=12).judgements["a"], verdict="insufficient-data")
    data = PreparedDataset.load(generator.data["path"])
    (sentence,) = synth._advice(generator, data, {"a": replace(judged, n_real=9)}, False)
    assert sentence == "What may help a: more real images (9 are too few to judge by, and to train on)."
    (sentence,) = synth._advice(generator, data, {"a": replace(judged, rejected=["blank"] * 12)}, False)
    assert "longer training" in sentence and "--n" not in sentence
    (sentence,) = synth._advice(generator, data, {"a": replace(judged, n_candidates=3)}, True)
    assert "a larger --n or --max-candidates, or no --text" in sentence
    (sentence,) = synth._advice(generator, data, {"a": replace(judged, verdict="fail")}, True)
    assert "longer training" in sentence and "no --text" in sentence


def test_a_class_that_the_data_lack_is_refused_with_the_dataset_s_classes(setting):
    generator, run = setting
    generator.info["known"] = ["a", "b", "c"]
    with pytest.raises(InputError, match="The dataset .*/data has no class 'c', only a, b; give"):
        run(labels=["c"])
    with pytest.raises(InputError, match="no class 'd'; known: a, b, c"):
        run(labels=["d"])


def test_a_set_from_another_generator_is_not_extended(setting):
    generator, run = setting
    run()
    generator.sha256 = "e" * 64
    with pytest.raises(InputError, match="another dataset or generator"):
        run(labels=("b",))


def test_a_set_judged_in_other_features_is_not_extended(setting, monkeypatch):
    _, run = setting
    run()
    for name, value in (("name", "other-colours"), ("sha256", "1" * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(MeanColours, name, value)
            with pytest.raises(
                InputError, match="was judged in other features .*mean-colours.* are not compared"
            ):
                run(labels=("b",))
    run(labels=("b",))


def test_features_of_images_that_exist_are_refused_for_new_ones(setting, tmp_path):
    own = FeatureFile(tmp_path / "run/seen.csv", "own", {"0" * 64: np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="yet to be made.*balancer gate --features"):
        synth.synthesise(
            PreparedDataset.load(tmp_path / "data"),
            tmp_path / "run",
            ["a"],
            4,
            tmp_path / "syn",
            extractor=own,
        )
    assert not (tmp_path / "syn").exists()


def test_the_page_shows_every_class_of_the_set(setting):
    generator, run = setting
    generator.copying = True
    run(allow_unverified=True)
    generator.copying = False
    generator.images["b"] = generator.images["a"]
    result = run(labels=("b",))
    a, b = (result.out / "gate.html").read_text().split('<section id="class-')[1:]
    assert "Rejected: copies of train images" in a and a.count("<img") > 20  # made in the first call
    assert "Synthetic images with no defect of their own" in b and b.count("<img") > 20
    assert "Rejected: the class" not in a + b
    assert set(read_json(result.out / "gate.json")["classes"]) == {"a", "b"}


def test_a_set_never_replaces_its_own_generator(setting, tmp_path):
    _, run = setting
    with pytest.raises(InputError, match="is read here"):
        run(overwrite=True, out=tmp_path / "run")


def test_labels_that_look_like_nothing_survive_an_extension(make_dataset, setting, tmp_path, monkeypatch):
    generator, _ = setting
    counts = {split: {"NA": n["a"], "None": n["b"]} for split, n in COUNTS.items()}
    data = make_dataset(tmp_path / "odd", counts)
    generator.images = {"NA": generator.images["a"], "None": generator.images["b"]}
    generator.data = {"path": str(data.root), "fingerprint": data.fingerprint, "source": data.source}
    generator.info["known"] = ["NA", "None"]
    for label in ("NA", "None"):
        synth.synthesise(
            data,
            tmp_path / "run",
            [label],
            12,
            tmp_path / "syn",
            extractor=MeanColours(),
            allow_unverified=True,
        )
    counts = SyntheticSet.load(tmp_path / "syn").table["label"].value_counts().to_dict()
    assert set(counts) == {"NA", "None"} and all(6 <= n <= 12 for n in counts.values())


def test_an_interrupted_synthesis_leaves_nothing(setting, monkeypatch, tmp_path):
    _, run = setting

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(synth, "_write_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "other", "run"]


def test_what_comes_to_the_place_of_the_set_meanwhile_stays(setting, monkeypatch, tmp_path):
    _, run = setting
    judged = synth._judged

    def slowly(*args):
        (tmp_path / "syn").mkdir()
        (tmp_path / "syn/notes.txt").write_text("precious")
        return judged(*args)

    monkeypatch.setattr(synth, "_judged", slowly)
    with pytest.raises(InputError, match="exists already"):
        run()
    assert (tmp_path / "syn/notes.txt").read_text() == "precious"


def test_two_syntheses_of_one_place_do_not_replace_each_other(setting, monkeypatch, tmp_path):
    _, run = setting
    with FileLock(_lock(tmp_path / "syn")), pytest.raises(InputError, match="Another process is writing"):
        run()
    run()
    assert SyntheticSet.load(tmp_path / "syn").table["label"].eq("a").all()


def test_that_a_training_has_not_come_to_its_end_is_said(setting, monkeypatch):
    generator, run = setting
    notes = []
    monkeypatch.setattr(synth, "note", notes.append)
    generator.info |= {"kimg": 40.0, "config": {"kimg": 40.0}}
    run()
    assert not [said for said in notes if "thousand images" in said]
    generator.info["kimg"] = 9.984
    run(overwrite=True)
    assert notes[-1].endswith("run are of 9.984 of 40 thousand images of its training.")


def test_more_candidates_than_can_be_held_are_refused(setting):
    _, run = setting
    with pytest.raises(InputError, match="up to 10,000,000 are made"):
        run(n=99_999_999_999_999)


def test_images_treated_otherwise_are_not_mixed(setting):
    """The same source images in the same splits, and so the same fingerprint; but another stain."""
    generator, run = setting
    generator.data["treatment"] = {
        "crop": None,
        "to_um_per_pixel": None,
        "stain": {"name": "reinhard", "reference": {}},
    }
    with pytest.raises(InputError, match=r"treated otherwise than those of .*data \(--stain\)"):
        run()
    generator.data["treatment"] = {"crop": None, "to_um_per_pixel": None, "stain": None}
    made = SyntheticSet.load(run(allow_unverified=True).out)
    assert made.info["data"]["treatment"] == generator.data["treatment"]
    info = read_json(made.root / "dataset.json")
    info["data"]["treatment"]["to_um_per_pixel"] = 0.1
    write_json(made.root / "dataset.json", info)
    with pytest.raises(InputError, match="holds images of another dataset"):
        run(labels=("b",))


@pytest.fixture
def told(setting, monkeypatch):
    """The same setting with a generator that is told attributes."""
    generator, run = setting
    train = pd.DataFrame({"label": ["a", "a", "b"], "cell_shape": ["round", "irregular", "round"]})
    of = {"info": generator.info | {"attributes": {}}, "combinations": Combinations.of(train, "train")}
    other = Told(**vars(generator) | of)
    monkeypatch.setattr(synth, "load_generator", lambda run, device: other)
    return other, run


def test_the_text_is_held_against_images_before_the_gate_sees_them(setting, monkeypatch):
    generator, run = setting
    notes, judged = [], []
    monkeypatch.setattr(synth, "note", notes.append)
    judge = synth.Gate.judge
    monkeypatch.setattr(synth.Gate, "judge", lambda self, label, x: judged.append(x) or judge(self, label, x))
    result = run(n=12, max_candidates=10, scorer=Redness(), allow_unverified=True)
    data, made = PreparedDataset.load(generator.data["path"]), SyntheticSet.load(result.out)
    least = np.percentile(Redness().scores(data.images_of("a", ["train"])[0]), 75)
    assert len(made.table) == 12 and (made.table["text_similarity"] >= least - 1e-6).all()
    rejected = pd.read_csv(result.out / "rejected/rejected.csv")
    unfit = rejected[rejected["reason"].str.startswith("fits the text less than three of four real images")]
    assert len(unfit) > 12 and (unfit["text_similarity"] < least + 1e-6).all()
    assert unfit["nearest_train"].isna().all()  # the gate did not look at them
    assert (Redness().scores(judged[-1]) >= least).all()
    assert result.made["a"] == len(unfit) + len(judged[-1])
    assert result.judgements["a"].n_candidates == len(judged[-1])
    sentence = f"{len(unfit)} of {result.made['a']} candidates were not judged: each fits the text less than"
    assert sentence in result.judgements["a"].reasons[-1] and sentence in notes[-1]
    page = (result.out / "gate.html").read_text()
    assert sentence in page and "Rejected: fits the text" not in page


def test_a_scorer_that_does_not_know_the_class_is_said(setting, monkeypatch):
    _, run = setting
    notes = []
    monkeypatch.setattr(synth, "note", notes.append)
    run(n=4, scorer=Redness(unknown=("a",)))
    assert any("not trained on a: how well" in sentence for sentence in notes)


def test_attributes_that_contradict_each_other_are_refused(setting):
    _, run = setting
    with pytest.raises(InputError, match="granule_colour=red, granularity=no contradict"):
        run(n=4, attributes={"granule_colour": "red", "granularity": "no"})


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_scorer_that_knows_judging_images_is_refused(setting, split):
    _, run = setting
    with pytest.raises(InputError, match=rf"trained on 2 images of .*{split} \(a/1.png, a/2.png\)"):
        run(n=8, scorer=Redness(trained={split: ["a/1.png", "a/2.png"]}))


def test_a_text_stands_in_every_image_s_provenance_and_in_the_set_s(setting):
    _, run = setting
    result = run(n=8, scorer=Redness(), allow_unverified=True)
    asked = read_json(result.out / "dataset.json")["synthesis"]["a"]["text"]
    assert asked["text"] == "a red cell" and asked["scorer_sha256"] == "5" * 64 and asked["percentile"] == 75
    assert asked["scorer_path"] == str(Path("runs/scorer").absolute())
    for folder, table in (("train", "metadata.csv"), ("rejected", "rejected.csv")):
        rows = pd.read_csv(result.out / folder / table)
        for row in rows.head(5).itertuples():
            with Image.open(result.out / folder / row.file_name) as image:
                provenance = json.loads(image.text["hemabalance"])
            assert provenance["text"] == asked | {"similarity": row.text_similarity}
    plain = run(labels=("b",), n=8, allow_unverified=True)
    assert "text" not in read_json(plain.out / "dataset.json")["synthesis"]["b"]
    rows = SyntheticSet.load(plain.out).table
    assert rows.loc[rows["label"] == "b", "text_similarity"].isna().all()


def test_a_text_that_nothing_fits_leaves_nothing_to_judge(setting, monkeypatch):
    generator, run = setting
    notes = []
    monkeypatch.setattr(synth, "note", notes.append)
    generator.images["a"] = generator.images["a"][..., ::-1] // 2 + np.array([0, 100, 100], dtype=np.uint8)
    result = run(n=8, max_candidates=3, scorer=Redness())
    assert result.judgements["a"].verdict == "insufficient-data" and result.written == {"a": 0}
    assert result.made == {"a": 24} and result.judgements["a"].n_candidates == 0
    assert "24 of 24 candidates were not judged" in notes[-1] and "--max-candidates" in notes[-1]


def test_attributes_of_the_text_are_asked_of_a_generator_that_is_told_them(told):
    generator, run = told
    scorer = Redness(attributes={"cell_size": "big", "granularity": "no"})
    result = run(
        n=8, scorer=scorer, attributes={"cytoplasm_vacuole": "yes", "cell_size": "big"}, allow_unverified=True
    )
    no_granules = {"granule_type": "nil", "granule_colour": "nil", "granularity": "no"}
    wanted = {"cell_size": "big", "cytoplasm_vacuole": "yes"} | no_granules
    assert generator.asked and all(asked == (wanted, "a") for asked in generator.asked)
    assert read_json(result.out / "dataset.json")["synthesis"]["a"]["attributes"] == wanted
    # What was not asked for was drawn, and stands beside each image.
    table = SyntheticSet.load(result.out).table
    asked_for = {f"{name}={value}" for name, value in wanted.items()}
    shapes = [set(told.split(",")) - asked_for for told in table["told"]]
    assert {frozenset(shape) for shape in shapes} == {
        frozenset({"cell_shape=round"}),
        frozenset({"cell_shape=irregular"}),
    }
    path, said = result.out / "train" / table["file_name"].iloc[0], table["told"].iloc[0]
    with Image.open(path) as image:
        provenance = json.loads(image.text["hemabalance"])
    assert provenance["attributes"] == wanted and provenance["told"] == said
    with pytest.raises(InputError, match="The text states cell_size=big, and --attributes cell_size=small"):
        run(labels=("b",), scorer=scorer, attributes={"cell_size": "small"})
    with pytest.raises(InputError, match="granule_colour=red, granularity=no contradict"):
        run(labels=("b",), scorer=scorer, attributes={"granule_colour": "red"})
    with pytest.raises(InputError, match="no value of cell_size 'huge'"):
        run(labels=("b",), attributes={"cell_size": "huge"})


def test_a_generator_that_is_told_classes_is_asked_for_no_attributes(setting):
    _, run = setting
    with pytest.raises(InputError, match="was trained with --condition class.*leave out --attributes"):
        run(attributes={"cell_size": "big"})
    assert run(n=8, scorer=Redness(attributes={"cell_size": "big"}), allow_unverified=True).written["a"] > 0


def test_a_class_without_train_images_has_nothing_to_hold_the_text_against(make_dataset, setting, tmp_path):
    generator, _ = setting
    data = make_dataset(tmp_path / "gap", COUNTS | {"train": {"a": 0, "b": 20}})
    generator.data = {"path": str(data.root), "fingerprint": data.fingerprint, "source": data.source}
    with pytest.raises(InputError, match="no train image of a to hold the text against"):
        synth.synthesise(
            data, tmp_path / "run", ["a"], 4, tmp_path / "syn", extractor=MeanColours(), scorer=Redness()
        )


def call(*args, code=0):
    result = CliRunner().invoke(balancer, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


@pytest.fixture
def at_the_command_line(told, tmp_path, monkeypatch):
    """The setting as the command line finds it, with a scorer from a room that this one does not know."""
    generator, _ = told
    config = {"format": 1, "kind": "generator", "classes": ["a", "b"], "known": ["a", "b"]}
    write_json(tmp_path / "run/config.json", config)
    monkeypatch.setattr("balancer.quality.backbones.load_extractor", lambda name, device: MeanColours())
    room = ModuleType("classifier.vision_language")
    room.text_scorer = lambda run, text, data, device: Redness(
        f"{text} ({run.name})", attributes={"cell_size": "big"}
    )
    monkeypatch.setitem(sys.modules, "classifier.vision_language", room)
    options = ["--n", 8, "--run", tmp_path / "run", "--data", tmp_path / "data", "--out", tmp_path / "syn"]
    return generator, [*options, "--allow-unverified"], tmp_path / "syn"


def test_the_class_that_the_text_fits_best_is_taken_at_the_command_line(at_the_command_line):
    _, options, out = at_the_command_line
    result = call("synth", "--text", "red", "--scorer", "vlm", *options)
    made = read_json(out / "dataset.json")["synthesis"]
    assert list(made) == ["b"] and made["b"]["text"]["text"] == "red (vlm)"
    assert made["b"]["attributes"] == {"cell_size": "big"}
    assert "were not judged" in result.stdout
    call("synth", "--text", "red", "--scorer", "vlm", "--class", "a", *options)
    assert set(read_json(out / "dataset.json")["synthesis"]) == {"a", "b"}


def test_a_text_chooses_among_the_classes_that_all_know(at_the_command_line, tmp_path, monkeypatch):
    data, notes = PreparedDataset.load(tmp_path / "data"), []
    monkeypatch.setattr(synth, "note", notes.append)
    assert synth.classes_for(Redness(), tmp_path / "run", data) == ("b",)
    assert notes == ["By the text: b (how likely it means each class: b 70%, a 30%); --class chooses."]
    with monkeypatch.context() as patch:
        patch.setattr(Redness, "unknown", ("a",))
        patch.setattr(Redness, "likely", lambda self, labels: {"b": 1.0})
        assert synth.classes_for(Redness(), tmp_path / "run", data) == ("b",)
        assert notes[1] == "The scorer was not trained on a: they are not chosen; --class does."
        patch.setattr(Redness, "likely", lambda self, labels: {"a": 0.6, "b": 0.4})
        assert synth.classes_for(Redness(), tmp_path / "run", data) == ("a", "b")
        patch.setattr(Redness, "likely", lambda self, labels: {})
        with pytest.raises(InputError, match=r"knows none of the classes of .*run \(a, b\).*give --class"):
            synth.classes_for(Redness(), tmp_path / "run", data)
    with pytest.raises(InputError, match=r"names platelet, of which .*run makes no images"):
        synth.classes_for(Redness(named=("b", "platelet")), tmp_path / "run", data)
    write_json(tmp_path / "run/config.json", {"format": 1, "kind": "generator", "known": ["x"]})
    with pytest.raises(InputError, match="have no class in common"):
        synth.classes_for(Redness(), tmp_path / "run", data)


def test_attributes_are_asked_for_at_the_command_line(at_the_command_line):
    generator, options, out = at_the_command_line
    call("synth", "--class", "a", "--attributes", "nucleus_shape=irregular,cell_size=small", *options)
    assert generator.asked[0] == ({"cell_size": "small", "nucleus_shape": "irregular"}, "a")
    assert read_json(out / "dataset.json")["synthesis"]["a"]["attributes"]["cell_size"] == "small"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "Give --class: the images are judged against real ones"),
        (["--attributes", "cell_size=big"], "Give --class: the images are judged against real ones"),
        (["--class", "a", "--text", "red"], "give both, or neither"),
        (["--class", "a", "--scorer", "vlm"], "give both, or neither"),
        (["--class", "a", "--attributes", "big"], "'big' is not of the form attribute=value"),
        (["--class", "a", "--attributes", "size=big"], "Did you mean 'cell_size'"),
        (["--class", "a", "--attributes", "cell_size=bigg"], "Did you mean 'big'"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence(at_the_command_line, args, sentence):
    _, options, out = at_the_command_line
    assert sentence in call("synth", *args, *options, code=2).stderr
    assert not out.exists()


def test_with_data_the_newest_run_on_it_is_taken_or_else_the_builtin(setting, tmp_path, monkeypatch):
    generator, _ = setting
    root = Path(generator.data["path"])
    own = PreparedDataset.load(root).fingerprint
    for age, (name, fingerprint) in enumerate((("other", "f" * 64), ("mine", own))):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        config = {
            "kind": "generator",
            "classes": ["a"],
            "data": {"path": str(root), "fingerprint": fingerprint},
        }
        (folder / "config.json").write_text(json.dumps(config))
        os.utime(folder / "config.json", (10**9 - age, 10**9 - age))
    monkeypatch.chdir(tmp_path)
    assert synth.choose_generator(None, root, ["a"])[0] == Path("runs/mine")
    shutil.rmtree(tmp_path / "runs/mine")
    monkeypatch.setattr("balancer.synth.builtin", lambda resolution: tmp_path / "runs/other")
    (tmp_path / "runs/other/config.json").write_text(json.dumps({"known": ["a"]}))
    assert synth.choose_generator(None, root, ["a"])[0] == tmp_path / "runs/other"
