from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, classification_report, confusion_matrix, f1_score

from balancer import smear
from balancer.data import PreparedDataset, SyntheticSet, prepare
from balancer.errors import InputError
from balancer.files import kind_of
from classifier import prediction, runs, transforms
from classifier.checkpoints import load_run
from classifier.prediction import evaluate_run, predict_files
from classifier.runs import train_run
from classifier.training import TrainingConfig, predict_probabilities

QUICK = TrainingConfig(arch="resnet18", steps=12, batch_size=16, evaluations=2)
Prepared = Callable[..., PreparedDataset]
Synthetic = Callable[..., SyntheticSet]


def test_a_run_holds_what_the_contract_names(
    make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path
) -> None:
    data = make_prepared()
    synthetic = make_synthetic(data, seen=("f" * 64,))
    out = train_run(data, [synthetic], QUICK, tmp_path / "run")
    names = [
        "MODEL_CARD.md",
        "classifier.safetensors",
        "config.json",
        "evaluation.json",
        "metrics.jsonl",
        "predictions.csv",
        "seen.csv",
    ]
    assert sorted(path.name for path in out.iterdir()) == names

    config = json.loads((out / "config.json").read_text())
    assert config["kind"] == kind_of(out) == "classifier"
    assert config["classes"] == list(data.classes)
    assert config["data"]["fingerprint"] == data.fingerprint
    assert config["synthetic"][0]["counts"] == {"neutrophil": 20}
    with safetensors.safe_open(out / "classifier.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == config
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12]

    table = pd.read_csv(out / "predictions.csv")
    assert table.columns.tolist() == ["file_name", "label", "predicted", *(f"p_{c}" for c in data.classes)]
    assert table["file_name"].tolist() == data.tables["test"]["file_name"].tolist()
    p = table[[f"p_{c}" for c in data.classes]].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert table["predicted"].tolist() == [data.classes[k] for k in p.argmax(1)]

    evaluation = json.loads((out / "evaluation.json").read_text())
    true, predicted = table["label"], table["predicted"]
    report = classification_report(true, predicted, output_dict=True, zero_division=0)
    assert evaluation["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert evaluation["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert evaluation["accuracy"] == pytest.approx((true == predicted).mean())
    assert evaluation["confusion"]["matrix"] == confusion_matrix(true, predicted).tolist()
    for label in data.classes:
        for ours, theirs in (("recall",) * 2, ("precision",) * 2, ("f1", "f1-score"), ("images", "support")):
            assert evaluation["per_class"][label][ours] == pytest.approx(report[label][theirs])

    seen = pd.read_csv(out / "seen.csv").set_index("source_sha256")["split"]
    assert seen["f" * 64] == "generator" and seen.index.is_unique
    assert seen.value_counts()["train"] == len(data.tables["train"])

    run = load_run(out)
    assert (run.classes, run.resolution, run.config) == (data.classes, 8, config)
    np.testing.assert_allclose(predict_probabilities(run.model, data.images("test")), p, atol=1e-6)
    again = evaluate_run(run, data)
    assert again.pop("ece") == pytest.approx(evaluation.pop("ece"), abs=1e-6)
    assert again == evaluation
    assert run.model.transform.augmentation == "flips"


def test_synthetic_images_are_trained_on_and_test_is_not(
    make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_prepared()
    synthetic = make_synthetic(data)
    given = {}

    def spy(config, train, train_labels, validation, validation_labels, classes, state, language):
        given.update(train=train[:], labels=train_labels, validation=validation[:])
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "fit", spy)
    with pytest.raises(KeyboardInterrupt):
        train_run(data, [synthetic], QUICK, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "synthetic"]  # nothing half-made
    np.testing.assert_array_equal(
        given["train"], np.concatenate([data.images("train")[:], synthetic.images()[:]])
    )
    assert np.bincount(given["labels"]).tolist() == [40, 30, 26]
    np.testing.assert_array_equal(given["validation"], data.images("validation")[:])


def test_a_synthetic_set_that_adds_nothing_is_said(
    make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(runs, "note", notes.append)
    data = make_prepared()
    synthetic = make_synthetic(data)
    train_run(data, [replace(synthetic, table=synthetic.table[:0])], QUICK, tmp_path / "run")
    assert notes == [f"Nothing in {synthetic.root} passed the gate, so that it adds no image."]


def test_files_of_any_shape_are_predicted_as_prepared_ones_are(
    make_prepared: Prepared, tmp_path: Path
) -> None:
    data = make_prepared()
    run = load_run(train_run(data, [], QUICK, tmp_path / "run"))
    expected = predict_probabilities(run.model, data.images("test"))
    answers = list(predict_files(run, data.paths("test")))
    assert [answer["file_name"] for answer in answers] == [str(path) for path in data.paths("test")]
    for answer, p in zip(answers, expected, strict=True):
        assert answer["predicted"] == run.classes[p.argmax()]
        assert list(answer["probabilities"]) == list(run.classes)
        assert list(answer["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-6)
    json.dumps(answers)


def test_files_that_cannot_be_read_are_named_and_the_rest_is_predicted(
    make_prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(prediction, "note", notes.append)
    monkeypatch.setattr(prediction, "_BATCH", 3)
    data = make_prepared()
    run = load_run(train_run(data, [], QUICK, tmp_path / "run"))
    broken = [tmp_path / f"broken{i}.jpg" for i in range(4)]
    for path in broken[:3]:
        path.write_bytes(b"no image")  # the fourth is missing
    good = data.paths("test")[:3]
    alone = list(predict_files(run, good))
    assert not notes
    mixed = [broken[0], good[0], good[1], *broken[1:], good[2]]  # a whole batch is broken
    for answer, expected in zip(predict_files(run, mixed), alone, strict=True):
        assert (answer["file_name"], answer["predicted"]) == (expected["file_name"], expected["predicted"])
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert len(notes) == 4
    assert all(str(path) in sentence for path, sentence in zip(broken, notes, strict=True))
    with pytest.raises(InputError, match="None of the 4 files"):
        list(predict_files(run, broken))


def test_a_run_is_not_judged_on_what_it_saw(
    make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path
) -> None:
    data = make_prepared()
    run = load_run(train_run(data, [make_synthetic(data)], QUICK, tmp_path / "run"))
    seen = pd.read_csv(run.root / "seen.csv")
    assert seen.columns.tolist() == ["source_sha256", "label", "split"]
    for split in ("train", "validation"):
        rows, table = seen[seen["split"] == split], data.tables[split]
        assert rows[["source_sha256", "label"]].to_numpy().tolist() == (
            table[["source_sha256", "label"]].to_numpy().tolist()
        )
        with pytest.raises(InputError, match=f"{len(table)} of the {len(table)} images of .*{split}"):
            evaluate_run(run, data, split)
    assert len(seen) == len(data.tables["train"]) + len(data.tables["validation"])

    test = data.tables["test"].copy()
    test.loc[2, "source_sha256"] = data.tables["train"]["source_sha256"][5]  # as another seed would split it
    with pytest.raises(InputError, match=r"1 of the 35 .*\(basophil/test2\.png\)"):
        evaluate_run(run, replace(data, tables=data.tables | {"test": test}))

    made = data.tables["test"].copy()
    made.loc[3, "source"] = "synthetic"
    with pytest.raises(InputError, match=r"1 synthetic images \(basophil/test3\.png\)"):
        evaluate_run(run, replace(data, tables=data.tables | {"test": made}))

    (run.root / "seen.csv").write_text("")
    with pytest.raises(InputError, match=r"seen\.csv is missing or damaged"):
        evaluate_run(run, data)
    (run.root / "seen.csv").unlink()
    with pytest.raises(InputError, match=r"seen\.csv is missing or damaged"):
        evaluate_run(run, data)


def test_what_does_not_fit_is_refused_before_any_training(
    make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "fit", lambda *a, **k: pytest.fail("trained"))
    data, other = make_prepared(), make_prepared("other")
    with pytest.raises(InputError, match="other data"):
        train_run(data, [make_synthetic(other)], QUICK, tmp_path / "run")
    with pytest.raises(InputError, match="exists already"):
        train_run(data, [], QUICK, other.root)
    with pytest.raises(InputError, match="is read here"):
        train_run(data, [], QUICK, data.root.parent, overwrite=True)
    empty = replace(data, tables=data.tables | {"test": data.tables["test"].iloc[:0]})
    with pytest.raises(InputError, match=r"data/test has no images"):
        train_run(empty, [], QUICK, tmp_path / "run")


def test_runs_that_cannot_be_read_get_a_sentence(make_prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no classifier run"):
        load_run(tmp_path)
    run = load_run(train_run(make_prepared(), [], QUICK, tmp_path / "run"))
    weights = run.root / "classifier.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="cannot be read as a classifier"):
        load_run(run.root)
    runs.save_weights(weights, run.model, run.config | {"classes": ["a", "b"]})
    with pytest.raises(InputError, match="cannot be read as a classifier"):
        load_run(run.root)
    runs.save_weights(weights, run.model, run.config | {"format": 9})
    with pytest.raises(InputError, match="update hemabalance"):
        load_run(run.root)
    safetensors.torch.save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match="cannot be read as a classifier"):
        load_run(run.root)


def test_data_of_other_classes_or_resolution_is_not_judged(make_prepared: Prepared, tmp_path: Path) -> None:
    data = make_prepared()
    run = load_run(train_run(data, [], QUICK, tmp_path / "run"))
    with pytest.raises(InputError, match="knows the classes"):
        evaluate_run(run, replace(data, classes=data.classes[::-1]))
    with pytest.raises(InputError, match="--resolution 8"):
        evaluate_run(run, replace(data, resolution=16))
    without = data.tables["test"][data.tables["test"]["label"] != "monocyte"]
    judged = evaluate_run(run, replace(data, tables=data.tables | {"test": without}))
    assert judged["per_class"]["monocyte"] == {"recall": None, "precision": None, "f1": None, "images": 0}


def test_a_damaged_test_image_is_told_before_the_training(
    make_prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_prepared()
    path = data.paths("test")[3]
    path.write_bytes(path.read_bytes()[:60])
    monkeypatch.setattr(runs, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(InputError, match=path.name):
        train_run(data, [], QUICK, tmp_path / "run")
    assert not (tmp_path / "run" / "classifier.safetensors").exists()


def test_that_data_have_another_white_is_told(
    make_prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_prepared()
    run = load_run(train_run(data, [], QUICK, tmp_path / "run"))
    notes: list[str] = []
    monkeypatch.setattr(prediction, "note", notes.append)
    evaluate_run(run, data)
    assert notes == []
    evaluate_run(run, replace(data, info=data.info | {"white_level": 4095}))
    assert len(notes) == 1 and "another level than that of" in notes[0]


def test_files_are_brought_to_the_scale_and_stain_that_the_data_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smear.write_source(tmp_path / "source", {"lymphocyte": 40, "neutrophil": 40}, 48, seed=0)
    prepare(tmp_path / "source", tmp_path / "data", resolution=32, to_um_per_pixel=0.6, stain="macenko")
    data = PreparedDataset.load(tmp_path / "data")
    run = load_run(
        train_run(data, [], replace(QUICK, preprocessing=("clahe",), augmentation="stain"), tmp_path / "run")
    )
    assert run.config["to_um_per_pixel"] == 0.6 and run.config["stain"] == data.info["stain"]
    assert run.model.transform.preprocessing == ("clahe",)
    expected = predict_probabilities(run.model, data.images("test"))
    files = [tmp_path / "source" / name for name in data.tables["test"]["source_file"]]
    with pytest.raises(InputError, match="give the scale of these files with --um-per-pixel"):
        list(predict_files(run, files))
    with pytest.raises(InputError, match="--um-per-pixel nan is impossible"):
        list(predict_files(run, files, float("nan")))
    answers = list(predict_files(run, files, smear.FIELD_UM / 48))
    for answer, p in zip(answers, expected, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(p.tolist(), abs=1e-6)

    notes: list[str] = []
    monkeypatch.setattr(prediction, "note", notes.append)
    prepare(
        tmp_path / "source",
        tmp_path / "plain",
        resolution=32,
        um_per_pixel=smear.FIELD_UM / 48,
        to_um_per_pixel=0.6,
    )
    plain = PreparedDataset.load(tmp_path / "plain")
    assert plain.fingerprint == data.fingerprint
    judged, as_trained = evaluate_run(run, plain), evaluate_run(run, data)
    assert judged["confusion"] == as_trained["confusion"] and judged["macro_f1"] == as_trained["macro_f1"]
    assert len(notes) == 1 and "normalised as those were" in notes[0]
    for path in plain.paths("test"):  # masks that no segmentation would give
        mask = plain.root / "masks" / path.relative_to(plain.root)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(np.uint8([[0, 128, 255, 0]]), 8, axis=1).repeat(32, axis=0)).save(mask)
    given: list[np.ndarray | None] = []
    located = transforms._located
    with monkeypatch.context() as patched:
        patched.setattr(
            transforms,
            "_located",
            lambda pixels, masks, left: given.extend(masks or []) or located(pixels, masks, left),
        )
        reading = replace(run.model.transform, preprocessing=("background",))
        patched.setattr(run.model, "transform", reading)
        evaluate_run(run, plain)
    assert len(given) == len(plain.tables["test"]) and all(mask is not None for mask in given)
    notes.pop()
    other = replace(data, info=data.info | {"stain": {"name": "reinhard", "reference": {}}})
    with pytest.raises(
        InputError, match=r"a stain of its own \(reinhard\).*prepare the data without --stain"
    ):
        evaluate_run(run, other)
    notes.clear()
    evaluate_run(run, replace(data, info=data.info | {"to_um_per_pixel": None}))
    assert len(notes) == 1 and "brought to another scale" in notes[0]
    notes.clear()
    evaluate_run(run, replace(data, info=data.info | {"crop": "pad"}))
    assert len(notes) == 1 and "made square in another way" in notes[0]
    notes.clear()
    unnormalised = replace(run, config=run.config | {"stain": None})
    evaluate_run(unnormalised, data)
    assert len(notes) == 1 and "was not normalised, as it was in" in notes[0]
