"""The whole way through the command line, and what it says to bad input."""

from __future__ import annotations

import json

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors import SafetensorError

from balancer import smear
from balancer.generators import checkpoints
from cli import Commands, balancer, classifier, show

pytestmark = pytest.mark.usefixtures("without_cell_checks")  # generators of a few steps make no cells
CELLS = {"lymphocyte": 60, "neutrophil": 60, "CLL": 60}


def call(group, *args, code: int = 0):
    result = CliRunner().invoke(group, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which prepare, train and synth have run on a small rendered source."""
    place = tmp_path_factory.mktemp("place")
    smear.write_source(place / "source", CELLS, 32, seed=0)
    call(
        balancer,
        "prepare",
        place / "source",
        "--out",
        place / "data",
        "--resolution",
        32,
        "--limit",
        "CLL=12",
    )
    call(
        balancer,
        "train",
        "--data",
        place / "data",
        "--out",
        place / "runs/g",
        "--kimg",
        0.4,
        "--batch-size",
        16,
    )
    call(
        balancer, "synth", "--class", "CLL", "--n", 12, "--run", place / "runs/g", "--out", place / "syn",
        "--allow-unverified",
    )  # fmt: skip
    return place


def test_prepare_writes_the_contract(place):
    info = json.loads((place / "data/dataset.json").read_text())
    assert info["counts"]["train"]["CLL"] == 12
    assert info["source"] == "rendered"
    assert info["counts"]["heldout"]["CLL"] > 0


def test_inspect_finds_no_leak(place):
    found = json.loads(call(balancer, "inspect", place / "data", "--json").stdout)
    assert found["leaks"] == []
    assert found["imbalance_ratio"] > 2


class MeanColours:
    name, sha256, dimension = "mean-colours", "0" * 64, 3

    def __call__(self, images):
        return images.mean((1, 2)).astype("float32")


def test_inspect_ranks_the_labels(place, tmp_path, monkeypatch):
    monkeypatch.setattr("balancer.quality.features.inception", lambda device: MeanColours())
    args = ["inspect", place / "data", "--labels", "--out", tmp_path / "labels"]
    said = call(balancer, *args).stdout
    assert "rendered cells" in said and f"{tmp_path / 'labels/labels.html'}" in said
    table = pd.read_csv(tmp_path / "labels/labels.csv")
    assert len(table) == 180 and table["rank"].tolist() == list(range(1, 181))
    assert "exists already" in call(balancer, *args, code=2).stderr
    found = json.loads(call(balancer, *args, "--overwrite", "--json").stdout)
    assert found["leaks"] == [] and found["labels"]["judged"] == 180
    assert len(found["labels"]["suspects"]) == found["labels"]["suspect"] == table["suspect"].sum()


def test_synth_writes_provenance_and_a_gate(place):
    table = pd.read_csv(place / "syn/train/metadata.csv")
    assert len(table) == 12
    assert set(table["source"]) == {"synthetic"}
    with Image.open(place / "syn/train" / table["file_name"][0]) as image:
        assert image.text["source"] == "synthetic"
        assert json.loads(image.text["hemabalance"])["label"] == "CLL"
    gate = json.loads((place / "syn/gate.json").read_text())
    assert gate["format"] == 1
    assert gate["classes"]["CLL"]["verdict"] in {"pass", "warn", "fail", "insufficient-data"}


def test_a_failed_class_is_rejected_and_strict_says_so(place, tmp_path):
    args = ["synth", "--class", "CLL", "--n", 12, "--run", place / "runs/g", "--out", tmp_path / "syn"]
    result = call(balancer, *args, "--strict", code=3)
    assert "rendered cells" in result.stdout
    assert "Nothing passed the gate" in result.stdout
    rejected = pd.read_csv(tmp_path / "syn/rejected/rejected.csv")
    assert len(rejected) >= 12
    assert rejected["reason"].notna().all()
    assert pd.read_csv(tmp_path / "syn/train/metadata.csv").empty
    result = call(balancer, *args, code=2)
    assert "holds CLL already" in result.stderr


def test_a_second_synth_adds_a_class(place, tmp_path):
    out = tmp_path / "syn"
    for label in ("CLL", "neutrophil"):
        call(
            balancer, "synth", "--class", label, "--n", 10, "--run", place / "runs/g", "--out", out, "--allow-unverified"
        )  # fmt: skip
    assert pd.read_csv(out / "train/metadata.csv")["label"].value_counts().to_dict() == {
        "CLL": 10,
        "neutrophil": 10,
    }
    assert set(json.loads((out / "gate.json").read_text())["classes"]) == {"CLL", "neutrophil"}


def test_gate_says_what_can_be_decided(place, monkeypatch):
    monkeypatch.setattr("balancer.quality.backbones.load_extractor", lambda name, device: MeanColours())
    said = call(balancer, "gate", "--real", place / "data", "--power").stdout
    assert "half-width" in said and "CLL" in said
    told = json.loads(call(balancer, "gate", "--real", place / "data", "--power", "--json").stdout)
    assert told["features"]["name"] == "mean-colours" and told["rows"]
    refused = call(balancer, "gate", "--real", place / "data", "--power", "--strict", code=2)
    assert "leave out --synthetic, --strict" in refused.stderr


def test_without_a_run_the_newest_that_knows_the_class_is_taken(place, monkeypatch):
    monkeypatch.chdir(place)
    result = call(balancer, "synth", "--class", "CLL", "--n", 10)
    assert "runs/g" in result.stderr
    assert (place / "runs/synth-CLL-1/gate.json").exists()
    result = call(balancer, "synth", "--class", "CLLL", "--n", 10, code=2)
    assert "Did you mean 'CLL'" in result.stderr


def test_classifier_trains_evaluates_and_predicts(place):
    run = place / "runs/c"
    call(
        classifier, "train", "--data", place / "data", "--synthetic", place / "syn", "--out", run, "--steps", 20,
        "--batch-size", 16,
    )  # fmt: skip
    result = json.loads(call(classifier, "evaluate", "--run", run, "--data", place / "data", "--json").stdout)
    assert 0 <= result["macro_f1"] <= 1
    lines = call(classifier, "predict", "--run", run, place / "source/CLL", "--json").stdout.splitlines()
    assert len(lines) == 60
    line = json.loads(lines[0])
    assert abs(sum(line["probabilities"].values()) - 1) < 1e-5
    assert line["predicted"] in CELLS
    first = sorted((place / "source/CLL").glob("*.png"))[0]
    said = call(
        classifier, "predict", "--run", run, first, "--coverage", 0.5, "--explain", place / "explained"
    ).stdout
    assert said.startswith(f"{first}: ")
    assert len(list((place / "explained").glob("*.png"))) == 1
    assert "For research only" in (run / "MODEL_CARD.md").read_text()


def test_compare_concludes_and_report_computes_the_same_again(place, tmp_path):
    args = ["--data", place / "data", "--synthetic", place / "syn", "--out", tmp_path / "report"]
    call(classifier, "compare", *args, "--seeds", 2, "--steps", 12, "--batch-size", 16, "--arms", "unbalanced,balanced-sampling,gan,full-data")  # fmt: skip
    first = json.loads((tmp_path / "report/report.json").read_text())
    assert first["conclusion"]["helped"] in (True, False, None)
    assert "rendered" in first["conclusion"]["statement"]
    assert 'src="http' not in (tmp_path / "report/report.html").read_text()
    call(classifier, "report", tmp_path / "report")
    assert json.loads((tmp_path / "report/report.json").read_text()) == first


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["synth", "--class", "CLL", "--n", 0, "--run", "{place}/runs/g"], "0 is not in the range"),
        (["synth", "--class", "monocyte", "--n", 5, "--run", "{place}/runs/g"], "no class 'monocyte'"),
        (["prepare", "{place}/source", "--out", "{place}/data"], "exists already"),
        (["prepare", "{place}/nowhere", "--out", "{place}/new"], "nowhere"),
        (["prepare", "{place}/source/CLL", "--out", "{place}/new"], "class"),
        (["prepare", "{place}/source", "--out", "{place}/new", "--limit", "CL=3"], "Did you mean 'CLL'"),
        (["prepare", "{place}/source", "--out", "{place}/new", "--limit", "CLL"], "LABEL=N"),
        (["inspect", "{place}"], "no prepared dataset"),
        (["inspect", "{place}/data", "--out", "{place}/new"], "give --labels too"),
        (["inspect", "{place}/data", "--labels", "--out", "{place}/data"], "is or contains"),
        (["train", "--data", "{place}/syn", "--out", "{place}/new"], "synthetic set"),
        (["train", "--data", "{place}/data", "--device", "cuda:7"], "no device 'cuda:7'"),
        (["train", "--data", "{place}/data", "--device", "meta"], "no device 'meta'"),
        (["train", "--data", "{place}/data", "--init", ""], "--init is empty"),
        (["train", "--data", "{place}/data", "--seed", 2**32], "0<=x<=4294967295"),
        (["train", "--data", "{place}/data", "--dry-run", "--out", "{place}/data"], "is read here"),
        (
            ["train", "--data", "{place}/data", "--dry-run", "--out", "{place}/new", "--class", "CL"],
            "Did you mean 'CLL'",
        ),
        (
            ["train", "--data", "{place}/data", "--dry-run", "--out", "{place}/new", "--freeze-d", 99],
            "not 99",
        ),
        (
            ["train", "--data", "{place}/data", "--dry-run", "--out", "{place}/new", "--augment", "x"],
            "no augmentation",
        ),
        (
            ["train", "--data", "{place}/data", "--dry-run", "--out", "{place}/new", "--balance", "nan"],
            "finite",
        ),
        (
            ["synth", "--class", "CLL", "--n", 5, "--run", "{place}/runs/g", "--seed", 2**32],
            "0<=x<=4294967295",
        ),
        (
            ["synth", "--class", "CLL", "--n", 5, "--run", "{place}/runs/g", "--truncation", "nan"],
            "from 0 to 1, not nan",
        ),
    ],
)
def test_bad_input_gets_a_sentence_and_exit_code_2(place, args, sentence):
    result = call(balancer, *(str(a).format(place=place) for a in args), code=2)
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not (place / "new").exists()


def test_fields_are_cropped_prepared_at_one_scale_and_inspected(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "fields").mkdir()
    (tmp_path / "fields/classes.txt").write_text("blast\nlymphocyte\n")
    for i in range(8):
        cells = rng.integers(40, 230, (12, 24, 3)).astype("uint8")
        Image.fromarray(cells).resize((160, 80), Image.Resampling.BICUBIC).save(tmp_path / f"fields/f{i}.png")
        boxes = "0 0.25 0.5 0.25 0.5\n1 0.75 0.5 0.25 0.5\n"
        (tmp_path / f"fields/f{i}.txt").write_text(boxes + ("1 3 0.5 0.1 0.1\n" if i == 0 else ""))
    result = call(balancer, "crop", tmp_path / "fields", "--out", tmp_path / "crops", code=2)
    assert "f0.txt, line 3" in result.stderr and not (tmp_path / "crops").exists()
    (tmp_path / "fields/f0.txt").write_text("0 0.25 0.5 0.25 0.5\n1 0.75 0.5 0.25 0.5\n1 1.5 0.5 0.1 0.1\n")
    result = call(balancer, "crop", tmp_path / "fields", "--out", tmp_path / "crops", "--json")
    crops = json.loads(result.stdout)
    assert crops["counts"] == {"blast": 8, "lymphocyte": 8} and crops["found_by"] == "YOLO"
    assert "lying outside" in result.stderr
    scale = ["--um-per-pixel", 0.25, "--to-um-per-pixel", 0.5, "--resolution", 16]
    for stain in ("reinhard", "clahe"):
        call(balancer, "prepare", tmp_path / "crops", "--out", tmp_path / stain, *scale, "--stain", stain)
    result = call(balancer, "inspect", tmp_path / "clahe")
    assert "a nucleolus (1 to 2 µm) measures 2 to 4 px" in result.stdout
    assert "Too coarse to show an Auer rod" in result.stdout
    wrong = [*scale[:3], 0]
    result = call(balancer, "prepare", tmp_path / "crops", "--out", tmp_path / "none", *wrong, code=2)
    assert "is impossible" in result.stderr


def test_json_is_utf_8_whatever_a_file_is_called(capsys):
    show({"file_name": "Zellkörper \udce9.png"})
    said = capsys.readouterr().out
    assert said.encode() and "ö" in said
    assert json.loads(said)["file_name"] == "Zellkörper \udce9.png"


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    group = Commands("group")
    group.add_command(
        click.Command("save", callback=lambda: checkpoints.save_tensors(tmp_path / "state", {}, {}))
    )
    said = call(group, "save", code=1).stderr
    assert f"{tmp_path / 'state'} could not be written" in said and "make room" in said
    assert not list(tmp_path.iterdir())
