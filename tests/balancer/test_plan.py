"""How many synthetic images: by counts, by arithmetic, and by tuning with sets that are known to be good or bad."""

from __future__ import annotations

import json
import shlex
import zlib

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestCentroid

import cli
from balancer.data import SyntheticSet
from balancer.errors import InputError
from balancer.files import write_json
from balancer.plan import by_counts, gain, make_plan
from balancer.quality.gate import load_rules

COUNTS = {
    "train": {"a": 90, "b": 90, "c": 24},
    "validation": {"a": 20, "b": 20, "c": 6},
    "test": {"a": 5, "b": 5, "c": 5},
    "heldout": {"c": 200},
}
CENTRES = np.random.default_rng(7).normal(0, 0.3, (3, 64))


class Noisy:
    """The class, told by the colour in the middle, under noise that depends on nothing but the image: 64 features."""

    name, sha256, dimension = "noisy", "0" * 64, 64

    def __init__(self) -> None:
        self.looked_at = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.looked_at += len(images)
        rows = [
            CENTRES[image[12:20, 12:20].mean((0, 1)).argmax()]
            + np.random.default_rng(zlib.crc32(image.tobytes())).normal(0, 0.6, 64)
            for image in images
        ]
        return np.array(rows, dtype=np.float32).reshape(-1, 64)


@pytest.fixture(scope="module")
def data(make_dataset, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("plan") / "data", COUNTS)


@pytest.fixture(scope="module")
def other(make_dataset, tmp_path_factory):
    """Images that the data do not have."""
    return make_dataset(
        tmp_path_factory.mktemp("other") / "data", {"train": {"a": 130, "b": 5, "c": 130}}, seed=1
    )


@pytest.fixture
def write_set(data, other, tmp_path):
    """Write a synthetic set of class c, whose images are of the class `shows`, by a generator trained on `seen`."""

    def write(shows: str = "c", n: int = 130, seen: tuple[str, ...] = (), fingerprint: str | None = None):
        root = tmp_path / f"{shows}{n}"
        (root / "train/c").mkdir(parents=True)
        images, _ = other.images_of(shows, ["train"])
        for i, image in enumerate(images[:n]):
            Image.fromarray(image).save(root / f"train/c/{i}.png")
        names = [f"c/{i}.png" for i in range(n)]
        pd.DataFrame(
            {"file_name": names, "label": "c", "group": names, "source": "synthetic", "source_sha256": names}
        ).to_csv(root / "train/metadata.csv", index=False)
        rows = pd.concat([pd.Series(["0" * 64]), *(data.tables[split]["source_sha256"] for split in seen)])
        pd.DataFrame({"source_sha256": rows}).to_csv(root / "seen.csv", index=False)
        write_json(root / "gate.json", {"classes": {}})
        origin = {"fingerprint": fingerprint or data.fingerprint, "source": "real"}
        description = {"format": 1, "kind": "synthetic", "resolution": 32, "data": origin}
        write_json(root / "dataset.json", description | {"generator": {"path": "runs/a generator"}})
        return SyntheticSet.load(root)

    return write


def test_by_counts() -> None:
    plans = by_counts(
        {"many": 1000, "more": 900, "half": 800, "some": 120, "few": 30, "none": 0, "rare": 15}, load_rules()
    )
    assert {label: found.synthetic for label, found in plans.items()} == {
        "many": 0, "more": 0, "half": 0, "some": 120, "few": 30, "none": 0, "rare": 0,
    }  # fmt: skip
    assert "too few real images" in plans["rare"].why and "no real images" in plans["none"].why
    assert "may still harm" in plans["few"].why and "not rare" in plans["half"].why


def test_never_beyond_the_largest_class() -> None:
    assert by_counts({"a": 100, "b": 100, "c": 49, "d": 300}, load_rules())["c"].synthetic == 49
    assert all(found.synthetic == 0 for found in by_counts({"a": 50, "b": 50}, load_rules()).values())
    assert by_counts({}, load_rules()) == {}


def test_gain_is_the_jackknife_of_macro_f1() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 40), rng.integers(0, 25, 40)
    without, better = (
        rng.integers(0, 3, (2, 40)),
        np.stack([labels, np.where(rng.random(40) < 0.2, 0, labels)]),
    )

    def difference(rows: np.ndarray) -> np.ndarray:
        scores = [
            [
                f1_score(labels[rows], p[r][rows], average="macro", labels=[0, 1, 2], zero_division=0)
                for r in (0, 1)
            ]
            for p in (without, better)
        ]
        return np.subtract(scores[1], scores[0])

    every = difference(np.ones(40, dtype=bool))
    deleted = np.array([difference(groups != g).mean() for g in np.unique(groups)])
    k = len(deleted)
    variance = (k - 1) / k * ((deleted - deleted.mean()) ** 2).sum() + every.var(ddof=1) / 2
    value, (low, high) = gain(labels, groups, without, better, 0.95, freedom=10)
    assert value == pytest.approx(every.mean())
    assert (high - low) / 2 == pytest.approx(2.228 * np.sqrt(variance), rel=1e-3)
    assert gain(labels, groups, without, without, 0.95, 10) == (0, (0, 0))


@pytest.mark.slow
def test_gain_covers() -> None:
    """Predictions of two classifiers of known macro-F1; a rare class of 20 images, each its own group."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], [200, 200, 20])
    recalls = {"without": (0.9, 0.9, 0.5), "with": (0.9, 0.9, 0.7)}

    def predictions(name: str, labels: np.ndarray) -> np.ndarray:
        right = rng.random(len(labels)) < np.array(recalls[name])[labels]
        return np.where(right, labels, (labels + 1) % 3)[None]

    large = np.repeat(labels, 2000)
    truth = np.subtract(
        *(f1_score(large, predictions(name, large)[0], average="macro") for name in ("with", "without"))
    )
    held = 0
    for _ in range(400):
        found = (predictions("without", labels), predictions("with", labels))
        _, (low, high) = gain(labels, np.arange(420), *found, 0.95, freedom=19)
        held += low <= truth <= high
    print(f"{held / 400:.1%} of nominal 95 %")
    assert held >= 0.9 * 400


class FromForty:
    """Nearest centroids of the classes that have forty images to learn from."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        known = [k for k in np.unique(y) if (y == k).sum() >= 40]
        self.model = NearestCentroid().fit(x[np.isin(y, known)], y[np.isin(y, known)])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x)


def test_tuning_takes_images_that_help(data, write_set, monkeypatch) -> None:
    monkeypatch.setattr("balancer.plan.fit_linear", FromForty)
    extractor = Noisy()
    good = make_plan(data, write_set("c"), extractor).classes[2]
    assert extractor.looked_at == 250 + 130  # neither test nor held-out images
    assert [trial.synthetic for trial in good.trials] == [12, 24, 48, 66]  # never beyond the largest class
    assert [trial.gain > 0.2 for trial in good.trials] == [False, True, True, True]
    assert good.synthetic >= 24 and "tuned: gained +" in good.why


def test_tuning_takes_none_that_harm(data, write_set) -> None:
    bad = make_plan(data, write_set("a"), Noisy()).classes[2]
    assert bad.synthetic == 0 and bad.why.startswith("none: the best of 4 numbers gained")
    assert all(trial.gain < 0 for trial in bad.trials)


def test_images_that_the_generator_saw_do_not_judge_it_where_others_suffice(data, write_set) -> None:
    unseen = make_plan(data, write_set("c", n=30), Noisy()).classes[2]
    assert "on 30 real images" in unseen.why
    seen = make_plan(data, write_set("c", n=31, seen=("train",)), Noisy()).classes[2]
    assert "on 30 real images" in seen.why  # 6 others are too few
    assert "at most that" in seen.why or seen.synthetic == 0


def test_same_seed_same_plan_and_commands_that_parse(data, write_set, monkeypatch) -> None:
    monkeypatch.setattr("balancer.plan.fit_linear", FromForty)
    synthetic = write_set("c")
    made = make_plan(data, synthetic, Noisy(), seed=3)
    assert made.to_json() == make_plan(data, synthetic, Noisy(), seed=3).to_json()
    json.dumps(made.to_json(), allow_nan=False)
    (command,) = made.commands
    words = shlex.split(command)
    assert (
        words[:4] == ["balancer", "synth", "--class", "c"]
        and words[words.index("--run") + 1] == "runs/a generator"
    )
    context = cli.balancer.commands["synth"].make_context("synth", words[2:])
    assert context.params["n"] == made.classes[2].synthetic


def test_what_does_not_fit_gets_a_sentence(data, write_set) -> None:
    with pytest.raises(InputError, match="another fingerprint"):
        make_plan(data, write_set("c", n=5, fingerprint="f" * 64), Noisy())
    with pytest.raises(InputError, match="no accepted images"):
        make_plan(data, write_set("c", n=0), Noisy())


def test_the_command(data) -> None:
    result = CliRunner().invoke(cli.balancer, ["plan", str(data.root), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["classes"]["c"]["synthetic"] == 24
    assert found["commands"][0].startswith("balancer synth --class c --n 24 --data ")
    shown = CliRunner().invoke(cli.balancer, ["plan", str(data.root)]).stdout
    assert "a start, to be tuned" in shown and found["commands"][0] in shown
