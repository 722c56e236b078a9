import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from balancer.data import PreparedDataset, SyntheticSet
from balancer.data.dataset import fingerprint
from balancer.errors import InputError
from classifier import compare as comparison
from classifier import training
from classifier.compare import compare, conclude, report_again, summarise
from classifier.config import TrainingConfig

CLASSES = ("basophil", "monocyte", "rare cell")
COUNTS = {
    "train": (60, 40, 4),
    "validation": (20, 15, 5),
    "test": (30, 25, 6),
    "heldout": (0, 0, 30),
}
SIDE = 8


def _write_images(folder, label, n, rng, name):
    k = CLASSES.index(label)
    rows = []
    (folder / label).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = rng.normal(110 + 25 * np.eye(3)[k], 30, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        file_name = f"{label}/{name}{i}.png"
        Image.fromarray(pixels).save(folder / file_name)
        rows.append((file_name, label, f"{name}{label}{i}", f"{rng.integers(2**62):064x}"))
    return rows


def _table(rows, source):
    table = pd.DataFrame(rows, columns=["file_name", "label", "group", "source_sha256"])
    table.insert(3, "source", source)
    return table


def make_data(root, source="real", counts=COUNTS):
    rng = np.random.default_rng(0)
    identity = []
    for split, numbers in counts.items():
        rows = []
        for label, n in zip(CLASSES, numbers, strict=True):
            rows += _write_images(root / split, label, n, rng, split)
        _table(rows, source).to_csv(root / split / "metadata.csv", index=False)
        identity += [(split, row[1], row[3]) for row in rows]
    info = {
        "format": 1,
        "kind": "prepared",
        "classes": CLASSES,
        "resolution": SIDE,
        "source": source,
        "fingerprint": fingerprint(identity),
    }
    (root / "dataset.json").write_text(json.dumps(info))
    return PreparedDataset.load(root)


def make_synthetic(root, data, accepted=20, verdict="pass"):
    rng = np.random.default_rng(1)
    (root / "train").mkdir(parents=True)
    rows = _write_images(root / "train", "rare cell", accepted, rng, "made")
    _table(rows, "synthetic").to_csv(root / "train" / "metadata.csv", index=False)
    _write_images(root / "rejected", "rare cell", 5, rng, "bad")
    data.tables["train"][["source_sha256"]].to_csv(root / "seen.csv", index=False)
    metrics = {
        "kid": {"value": 0.0123, "ci": [0.001, 0.03], "real_vs_real": 0.002, "note": None},
        "fid": {"value": None, "ci": None, "real_vs_real": None, "note": "4 real images are too few"},
    }
    judged = {
        "verdict": verdict,
        "reasons": ["KID is <close> to real-vs-real"],
        "n_real": 4,
        "n_candidates": 25,
        "n_accepted": accepted,
        "metrics": metrics,
    }
    gate = {
        "format": 1,
        "features": {"name": "inception", "sha256": "0" * 64},
        "classes": {"rare cell": judged},
    }
    (root / "gate.json").write_text(json.dumps(gate))
    info = {
        "format": 1,
        "kind": "synthetic",
        "classes": CLASSES,
        "resolution": SIDE,
        "counts": {"train": {"rare cell": accepted}},
        "data": {"path": str(data.root), "fingerprint": data.fingerprint, "source": data.source},
        "generator": {"name": "stylegan2-ada", "sha256": "1" * 64, "path": "runs/x", "kimg": 1},
    }
    (root / "dataset.json").write_text(json.dumps(info))
    return SyntheticSet.load(root)


@pytest.fixture
def fits(monkeypatch):
    """Trainings are logistic regressions on resampled mean colours; the list holds (config, number of images)."""
    done = []

    def features(images):
        return images[np.arange(len(images))].mean((1, 2)) / 30

    def fit(config, train, train_labels, validation, validation_labels, classes, language):
        assert language is None
        assert config.seed != 666, "killed"
        done.append((config, len(train_labels)))
        rng = np.random.default_rng(config.seed)
        keep = rng.permutation(len(train_labels))[: len(train_labels) * 4 // 5]
        keep = np.union1d(keep, [np.flatnonzero(train_labels == k)[0] for k in range(classes)]).astype(int)
        balanced = config.loss == "class-weights" or config.sampling == "balanced"
        model = LogisticRegression(class_weight="balanced" if balanced else None, C=0.05)
        model.fit(features(train)[keep], train_labels[keep])
        probabilities = model.predict_proba(features(validation)).astype(np.float32)
        return SimpleNamespace(model=model, history=[], best_step=1, validation_probabilities=probabilities)

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(
        training,
        "predict_probabilities",
        lambda model, images: model.predict_proba(features(images)).astype("f4"),
    )
    return done


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def synthetic(tmp_path, data):
    return make_synthetic(tmp_path / "syn", data)


def test_report_says_what_the_predictions_say(tmp_path, data, synthetic, fits):
    out = tmp_path / "report"
    report = compare(data, [synthetic], out)

    assert list(report["arms"]) == ["unbalanced", "class-weights", "balanced-sampling", "gan", "full-data"]
    assert len(fits) == 15
    assert [n for config, n in fits if config.seed == 0] == [104, 104, 104, 124, 134]
    best = report["best_on_validation"]
    assert {(c.loss, c.sampling) for c, n in fits if n > 104} == {
        (c.loss, c.sampling)
        for c, _ in fits[["unbalanced", "class-weights", "balanced-sampling"].index(best) * 3 :][:3]
    }

    table = pd.read_parquet(out / "predictions.parquet")
    assert list(table) == [
        "arm",
        "seed",
        "split",
        "file_name",
        "group",
        "label",
        "predicted",
        *(f"p_{c}" for c in CLASSES),
    ]
    test = table[table["split"] == "test"]
    assert len(test) == 15 * 61
    for arm, of_arm in test.groupby("arm"):
        runs = [run for _, run in of_arm.groupby("seed")]
        figures = report["arms"][arm]
        assert figures["macro_f1"]["mean"] == pytest.approx(
            np.mean([f1_score(r["label"], r["predicted"], average="macro") for r in runs])
        )
        assert figures["balanced_accuracy"]["mean"] == pytest.approx(
            np.mean([balanced_accuracy_score(r["label"], r["predicted"]) for r in runs])
        )
        recalls = np.mean([recall_score(r["label"], r["predicted"], average=None) for r in runs], axis=0)
        assert [figures["per_class"][c]["recall"]["mean"] for c in CLASSES] == pytest.approx(list(recalls))
        assert figures["per_class"]["rare cell"]["n"] == 6
    primary = report["conclusion"]["primary"]
    assert (primary["a"], primary["b"], primary["margin"]) == ("gan", best, 0.01)
    expected = report["arms"]["gan"]["macro_f1"]["mean"] - report["arms"][best]["macro_f1"]["mean"]
    assert primary["delta"] == pytest.approx(expected)
    assert primary["ci"][0] < primary["delta"] < primary["ci"][1]
    assert len(report["paired"]) == 10
    assert all(pair["p_holm"] >= pair["p"] for pair in report["paired"])
    assert "3 seeds, 61 test images" in report["conclusion"]["statement"]
    assert "rendered" not in report["conclusion"]["statement"]

    assert json.loads((out / "report.json").read_text()) == report
    assert summarise(table.sample(frac=1, random_state=0), report["study"]) == report
    html = (out / "report.html").read_text()
    assert "http" not in html.replace("http://www.w3.org", "") and "<script" not in html
    assert "KID is &lt;close&gt;" in html
    assert html.count("data:image/png") == 3


def test_it_is_computed_again_from_the_predictions(tmp_path, data, synthetic, fits):
    out = tmp_path / "report"
    report = compare(data, [synthetic], out, arms=["unbalanced", "gan"], seeds=2)
    html = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert report_again(out) == report
    assert (out / "report.html").read_text() == html
    assert len(fits) == 4
    with pytest.raises(InputError, match="no finished comparison"):
        report_again(tmp_path)


def test_a_killed_comparison_goes_on_where_it_stopped(tmp_path, data, synthetic, fits):
    out = tmp_path / "report"
    with pytest.raises(AssertionError, match="killed"):
        compare(data, [synthetic], out, config=TrainingConfig(seed=665))
    assert len(fits) == 1
    assert [path.name for path in out.iterdir()] == ["jobs"]
    assert len(list((out / "jobs").iterdir())) == 1

    first = compare(data, [synthetic], out, seeds=2)
    assert len(fits) == 1 + 10
    with pytest.raises(InputError, match="finished comparison"):
        compare(data, [synthetic], out, seeds=2)
    assert compare(data, [synthetic], out, seeds=2, overwrite=True) == first
    assert len(fits) == 11
    assert len(list((out / "jobs").iterdir())) == 10  # that of the killed one, with another seed, is gone

    compare(data, [synthetic], out, seeds=2, overwrite=True, config=TrainingConfig(steps=7))
    assert len(fits) == 21


@pytest.mark.parametrize(
    "foreign",
    [
        "notes.txt",
        "jobs/mine/photo.png",
        "jobs/training-mine/job.json",
        "examples/mine.png",
        "examples/real/a.txt",
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_what_it_did_not_write_is_neither_removed_nor_mixed_with(
    tmp_path, data, synthetic, fits, foreign, finished
):
    out = tmp_path / "report"
    options = {"arms": ["unbalanced", "gan"], "seeds": 2}
    if finished:
        compare(data, [synthetic], out, **options)
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    (out / foreign).parent.mkdir(parents=True, exist_ok=True)
    (out / foreign).write_text("mine")
    done = len(fits)
    with pytest.raises(InputError, match=rf"holds what no comparison writes \(.*{foreign}"):
        compare(data, [synthetic], out, overwrite=True, config=TrainingConfig(steps=7), **options)
    assert len(fits) == done and (out / foreign).read_text() == "mine"


def test_files_of_the_file_browser_do_no_harm(tmp_path, data, synthetic, fits):
    out = tmp_path / "report"
    options = {"arms": ["unbalanced", "gan"], "seeds": 2}
    first = compare(data, [synthetic], out, **options)
    for folder in (out, out / "jobs", out / "examples" / "real", *(out / "jobs").glob("training-*")):
        (folder / ".DS_Store").write_text("")
    assert compare(data, [synthetic], out, overwrite=True, **options) == first
    assert len(fits) == 4 and (out / "jobs" / ".DS_Store").exists()


@pytest.mark.parametrize("content", ["[]", '{"mine": 1}'])
def test_a_report_of_something_else_is_left_alone(tmp_path, data, synthetic, fits, content):
    (tmp_path / "report.json").write_text(content)
    (tmp_path / "predictions.parquet").write_text("mine")
    with pytest.raises(InputError, match="is not of a comparison"):
        compare(data, [synthetic], tmp_path, overwrite=True)
    assert not fits and (tmp_path / "report.json").read_text() == content


def test_another_synthetic_set_or_resolution_is_another_job(tmp_path, data, synthetic, fits):
    out = tmp_path / "report"
    compare(data, [synthetic], out, arms=["unbalanced", "gan"], seeds=2)
    other = make_synthetic(tmp_path / "other", data, accepted=19)
    compare(data, [other], out, arms=["unbalanced", "gan"], seeds=2, overwrite=True)
    assert [n for _, n in fits] == [104, 104, 124, 124, 123, 123]
    path = data.paths("test")[0]
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(path)
    compare(data, [other], out, arms=["unbalanced", "gan"], seeds=2, overwrite=True)
    assert len(fits) == 10


def test_nothing_passed_the_gate(tmp_path, data, fits):
    empty = make_synthetic(tmp_path / "syn", data, accepted=0, verdict="fail")
    report = compare(data, [empty], tmp_path / "report")
    assert report["conclusion"]["helped"] is None
    assert report["conclusion"]["primary"] is None
    assert "undecided" in report["conclusion"]["statement"]
    assert "nothing passed the gate" in report["conclusion"]["statement"]
    assert "gan" not in report["arms"] and "full-data" in report["arms"]
    assert "othing passed the gate" in (tmp_path / "report" / "report.html").read_text()


def test_rendered_cells_and_thin_classes_are_said(tmp_path, fits):
    counts = COUNTS | {"test": (30, 1, 0), "heldout": (0, 0, 0)}
    data = make_data(tmp_path / "data", "rendered", counts)
    report = compare(
        data, [make_synthetic(tmp_path / "syn", data, verdict="fail")], tmp_path / "report", seeds=2
    )
    assert "the cells are rendered, not real" in report["conclusion"]["statement"]
    notes = " ".join(report["notes"])
    assert "No test image: rare cell." in notes
    assert "monocyte (1)" in notes
    assert "did not pass: rare cell (fail)" in notes
    assert "full-data" not in report["arms"]
    assert report["arms"]["gan"]["per_class"]["rare cell"]["f1"] is None
    f1 = [report["arms"]["gan"]["per_class"][label]["f1"]["mean"] for label in CLASSES[:2]]
    assert report["arms"]["gan"]["macro_f1"]["mean"] == pytest.approx(np.mean(f1))


def test_held_out_images_of_a_judged_group_are_not_trained_on(tmp_path, data, fits):
    path = data.root / "heldout" / "metadata.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[:9, "group"] = data.tables["test"]["group"][0]
    table.to_csv(path, index=False)
    compare(
        PreparedDataset.load(data.root), [], tmp_path / "report", arms=["unbalanced", "full-data"], seeds=2
    )
    assert [n for _, n in fits] == [104, 104, 124, 124]


def test_patients_count_as_known_only_when_they_are_kept_apart(data):
    assert not comparison.patients_kept_apart(data)
    for split, table in data.tables.items():
        table["patient_id"] = split + table["file_name"].str[-5]
        table["group"] = table["patient_id"]
    assert comparison.patients_kept_apart(data)
    data.tables["train"].loc[0, "patient_id"] = data.tables["test"]["patient_id"][0]
    assert not comparison.patients_kept_apart(data)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seeds": 1}, "at least 2 seeds"),
        ({"margin": -0.1}, "margin"),
        ({"arms": ["unbalanced", "gann"]}, "Did you mean 'gan'"),
        ({"arms": ["gan"]}, "needs a cheap arm"),
        (
            {"arms": ["unbalanced", "class-weights"], "config": TrainingConfig(head="contrastive")},
            "the loss class-weights does nothing with it",
        ),
        ({"arms": ["unbalanced", "ldam"], "config": TrainingConfig(head="text")}, "The loss ldam changes"),
        (
            {"arms": ["unbalanced", "logit-adjustment"], "config": TrainingConfig(arch="timm:dla46_c")},
            "this network ends in another",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(tmp_path, data, synthetic, fits, options, sentence):
    with pytest.raises(InputError, match=sentence):
        compare(data, [synthetic], tmp_path / "report", **options)
    assert not fits and not (tmp_path / "report").exists()


def test_a_folder_that_is_no_comparison_is_left_alone(tmp_path, data, synthetic, fits):
    with pytest.raises(InputError, match="is no comparison"):
        compare(data, [synthetic], data.root, overwrite=True)
    with pytest.raises(InputError, match="needs synthetic images"):
        compare(data, [], tmp_path / "report", arms=["unbalanced", "gan"])
    other = replace(synthetic, data_fingerprint="0" * 64)
    with pytest.raises(InputError):
        compare(data, [other], tmp_path / "report")
    assert not fits


@pytest.mark.parametrize(("ci", "helped"), [([0.011, 0.2], True), ([-0.3, 0.009], False), ([0.0, 0.2], None)])
def test_the_margin_decides(ci, helped):
    assert conclude({"ci": ci, "margin": 0.01}) is helped
    assert conclude(None) is None


def test_the_share_of_the_gap_is_null_when_the_gap_may_be_nothing():
    """With arms of known recognition, the share is their ratio; with equal arms there is no gap to share."""
    report = summarise(*_made({"unbalanced": 0.5, "gan": 0.75, "full-data": 1.0}))
    assert report["gap"]["closed"] == pytest.approx(0.5, abs=0.1)
    low, high = report["gap"]["closed_ci"]
    assert 0 < low < report["gap"]["closed"] < high < 1
    report = summarise(*_made({"unbalanced": 0.8, "gan": 0.8, "full-data": 0.8}))
    assert report["gap"]["closed"] is None


def _made(recalls):
    rng = np.random.default_rng(3)
    tables = []
    labels = np.repeat(np.array(CLASSES), 100)
    for arm, rate in recalls.items():
        for seed in range(3):
            wrong = np.roll(np.array(CLASSES), 1)[np.repeat([0, 1, 2], 100)]
            predicted = np.where(rng.random(300) < rate, labels, wrong)
            for split in ("validation", "test"):
                names = [f"{i}.png" for i in range(300)]
                tables.append(
                    pd.DataFrame(
                        {
                            "arm": arm,
                            "seed": seed,
                            "split": split,
                            "file_name": names,
                            "group": names,
                            "label": labels,
                            "predicted": predicted,
                        }
                    )
                )
    study = {
        "data": {"classes": list(CLASSES), "source": "real", "patients": True},
        "synthetic": [],
        "arms": dict.fromkeys(recalls),
        "seeds": [0, 1, 2],
        "margin": 0.01,
    }
    return pd.concat(tables, ignore_index=True), study


def test_predictions_of_other_images_are_refused():
    table, study = _made({"unbalanced": 0.5, "gan": 0.7})
    damaged = table.drop(table[(table["arm"] == "gan") & (table["seed"] == 1)].index[:1])
    with pytest.raises(InputError, match="not of the same"):
        comparison.summarise(damaged, study)
