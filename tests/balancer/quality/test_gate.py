"""The gate on small made-up cells, with a stand-in extractor; slow tests at the end use real cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from balancer.errors import InputError
from balancer.files import write_json
from balancer.quality.features import inception
from balancer.quality.folders import judge_folders
from balancer.quality.gate import Gate, Judgement, gate_document, judge_candidates, load_rules
from balancer.quality.memory import remembered
from balancer.quality.reference import choose_reference, parted, real_classes

SIZE = 32
T = TypeVar("T")


def cells(label: str, n: int, seed: int) -> np.ndarray:
    """Discs with clumps and grain on a plain ground: class `a` purple and large, `b` blue and small, `c` orange; N×32×32×3."""
    radius, colour = {"a": (10, (120, 40, 140)), "b": (6, (60, 60, 190)), "c": (9, (210, 120, 50))}[label]
    rng = np.random.default_rng([seed, ord(label)])
    y, x = np.mgrid[:SIZE, :SIZE]
    centre = rng.normal(SIZE / 2, 2, (2, n, 1, 1))
    inside = np.hypot(y - centre[0], x - centre[1]) < rng.normal(radius, 1.0, (n, 1, 1))
    tint = rng.normal(0, 12, (n, 1, 1, 3))
    grain = rng.normal(0, 25, (n, SIZE, SIZE, 3))
    grain = gaussian_filter(grain, (0, 1, 1, 0)) * 2.5
    clumps = gaussian_filter(rng.normal(0, 150, (n, SIZE, SIZE, 1)), (0, 2, 2, 0))
    pixels = np.where(inside[..., None], np.array(colour) + clumps, 225) + tint + grain
    return pixels.clip(0, 255).astype(np.uint8)


class Pooled:
    """Means and spreads of colour over a 4×4 grid: 96 features that know colour, shape and sharpness."""

    name, sha256, dimension = "pooled", "0" * 64, 96

    def __call__(self, images: np.ndarray) -> np.ndarray:
        blocks = images.reshape(len(images), 4, SIZE // 4, 4, SIZE // 4, 3) / 255.0
        parts = [blocks.mean(axis=(2, 4)), blocks.std(axis=(2, 4)) * 3]
        return np.concatenate(parts, axis=-1).reshape(len(images), -1).astype(np.float32)


class Cells:
    """Real images in memory; counts are (train, validation, heldout) by class."""

    root, resolution = Path("cells"), SIZE
    classes: tuple[str, ...] = ("a", "b", "c")

    def __init__(self, **counts: tuple[int, int, int]) -> None:
        self.counts = {"a": (60, 10, 60), "b": (60, 10, 0), "c": (60, 10, 0)} | counts

    def class_index(self, label: str) -> int:
        if label not in self.classes:
            raise InputError(f"There is no class '{label}'.")
        return self.classes.index(label)

    def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
        images = cells(label, sum(self.counts[label]), seed=1)
        split = np.repeat(["train", "validation", "heldout"], self.counts[label])
        table = pd.DataFrame({"file_name": [f"{label}/{i}.png" for i in range(len(images))], "split": split})
        chosen = table["split"].isin(splits).to_numpy()
        return images[chosen], table[chosen].reset_index(drop=True)


def verdict_on(images: np.ndarray, label: str = "a", **counts: tuple[int, int, int]) -> Judgement:
    return judge_candidates(Cells(**counts), {label: images}, Pooled())[label]


def test_other_real_images_pass() -> None:
    judgement = verdict_on(cells("a", 80, seed=2))
    assert judgement.verdict == "pass", judgement.reasons
    assert judgement.n_candidates == len(judgement.scores) == 80 and judgement.n_real == 130
    assert judgement.n_accepted == judgement.rejected.count(None) >= 70  # 17 images set the limits
    found = judgement.metrics["kid"]
    assert found["ci"][0] < found["value"] < found["ci"][1] < found["margin"]
    fid_found = judgement.metrics["fid"]
    assert fid_found["real_vs_real_ci"][0] < fid_found["value"] < 1.2 * fid_found["real_vs_real_ci"][1]


@pytest.mark.parametrize(
    ("images", "metric"),
    [
        (cells("b", 80, seed=2), "KID"),
        (cells("b", 80, seed=2), "linear probe"),
        (gaussian_filter(cells("a", 80, seed=2), (0, 2, 2, 0)), "most often for: out of focus"),
        (
            np.random.default_rng(0).integers(0, 256, (80, SIZE, SIZE, 3), dtype=np.uint8),
            "most often for: noise",
        ),
        (np.repeat(cells("a", 1, seed=2), 80, axis=0), "KID"),
    ],
    ids=["another class", "another class by label", "blurred", "noise", "one image"],
)
def test_bad_sets_fail_for_their_own_reason(images: np.ndarray, metric: str) -> None:
    judgement = verdict_on(images)
    assert judgement.verdict == "fail" and judgement.n_accepted == 0
    assert any(metric in reason for reason in judgement.reasons)


def test_copies_are_rejected_one_by_one_and_named() -> None:
    train = Cells().images_of("a", ["train"])[0]
    images = np.concatenate([cells("a", 78, seed=2), train[3:4, ::-1], np.rot90(train[7:8], axes=(1, 2))])
    judgement = verdict_on(images)
    assert "near-copy of train image train/a/3.png" in str(judgement.rejected[78])
    assert judgement.scores["nearest_train"][79] == "train/a/7.png"
    copied = sum("copy of train image" in str(reason) for reason in judgement.rejected)
    assert 2 <= copied <= 4 and judgement.metrics["copies"]["value"] == pytest.approx(copied / 80)
    rejected = 80 - judgement.rejected.count(None)
    assert copied <= rejected <= 10
    assert judgement.verdict == "pass" and judgement.n_accepted == 80 - rejected


def test_half_copies_fail() -> None:
    train = Cells().images_of("a", ["train"])[0]
    judgement = verdict_on(np.concatenate([cells("a", 40, seed=2), train[:40]]))
    assert judgement.verdict == "fail"
    assert (
        "of 80 candidates copy a train or held-out image" in judgement.reasons[0]
        and "Fisher" in judgement.reasons[0]
    )
    assert judgement.rejected[40:].count(None) == 0 and judgement.rejected[:40].count(None) >= 37


def test_copies_of_the_images_that_the_verdict_rests_on_fail() -> None:
    unseen = choose_reference(Cells(), "a", load_rules()).chosen
    judgement = verdict_on(unseen.pixels[:40, ::-1])
    assert judgement.verdict == "fail" and judgement.metrics["copies"]["value"] >= 0.9
    name = f"near-copy of held-out image {unseen.names[0]}"
    assert name in str(judgement.rejected[0]) and judgement.scores["nearest_train"][0] == unseen.names[0]


def test_only_copies_fail_though_nothing_is_left_to_compare() -> None:
    judgement = verdict_on(Cells().images_of("a", ["train"])[0])
    assert judgement.verdict == "fail"
    found = judgement.metrics["kid"], judgement.metrics["authenticity"]
    assert all(metric["value"] is None and metric["ci"] is None for metric in found)
    assert found[0]["before"] < 0.02 and found[1]["before"] == 0


def test_too_little_data_is_no_verdict() -> None:
    few = verdict_on(cells("a", 40, seed=2), a=(7, 1, 1))
    assert few.verdict == "insufficient-data" and few.n_real == 9 and few.n_accepted == 0
    assert "9 real images" in few.reasons[0]
    assert verdict_on(cells("a", 3, seed=2)).verdict == "insufficient-data"
    assert verdict_on(cells("a", 0, seed=2)).verdict == "insufficient-data"
    assert verdict_on(cells("a", 20, seed=2), a=(0, 0, 0)).verdict == "insufficient-data"


def test_one_class_alone_has_no_margin() -> None:
    judgement = verdict_on(cells("a", 40, seed=2), b=(0, 0, 0), c=(0, 0, 0))
    assert judgement.verdict == "insufficient-data"
    assert any("no other real class" in reason for reason in judgement.reasons)


def test_held_out_images_come_first_and_train_images_are_owned_up_to() -> None:
    held_out = choose_reference(Cells(a=(50, 10, 5)), "a", load_rules())
    assert held_out.held_out and len(held_out.images) == 15 and "too few to be divided" in held_out.note
    mixed = choose_reference(Cells(a=(50, 10, 4)), "a", load_rules())
    assert not mixed.held_out and len(mixed.images) == 64 and "rewards copying" in mixed.note


def test_checks_are_fitted_on_other_images_than_the_verdict_rests_on() -> None:
    chosen = choose_reference(Cells(a=(50, 10, 31)), "a", load_rules())
    assert len(chosen.chosen) == 26 and len(chosen.fitting) == 15
    assert not set(chosen.chosen.names) & set(chosen.fitting.names)
    assert not {name.split("/")[0] for name in chosen.chosen.names} & {"train", "test"}
    again = choose_reference(Cells(a=(50, 10, 31)), "a", load_rules())
    assert list(again.fitting.names) == list(chosen.fitting.names)


def test_what_the_generator_saw_outside_train_counts_as_train() -> None:
    seen = [f"heldout/a/{70 + i}.png" for i in range(50)]  # of 60 held out
    chosen = choose_reference(Cells(), "a", load_rules(), seen=seen)
    assert len(chosen.images) == 20 and "too few" in chosen.note and not set(seen) & set(chosen.chosen.names)
    assert set(seen) < set(chosen.trained_on.names) and len(chosen.trained_on) == 110
    held_out = Cells().images_of("a", ["heldout"])[0][:40]
    known = judge_candidates(Cells(), {"a": held_out}, Pooled(), seen=seen)["a"]
    assert known.verdict == "fail" and "heldout/a/70.png" in str(known.rejected[0])


def test_parts_divide_no_group() -> None:
    groups = np.repeat([f"patient {i}" for i in range(12)], 5)
    first, second = parted(groups, 17, seed=1)
    assert sorted([*first, *second]) == list(range(60)) and len(first) == 20
    assert not set(groups[first]) & set(groups[second])


def test_values_before_the_rejections_stand_beside() -> None:
    """A check rejects what another class lends: the set is good after it, and was not before."""
    images = np.concatenate([cells("a", 60, seed=2), cells("b", 100, seed=2)])

    def is_blue(candidates: np.ndarray, label: str) -> list[str | None]:
        blue = candidates[:, 12:20, 12:20, 2].mean((1, 2)) > candidates[:, 12:20, 12:20, 0].mean((1, 2)) + 60
        return [f"too blue for {label}" if found else None for found in blue]

    rules = load_rules()
    classes = real_classes(Cells(), ["a"], Pooled(), rules, 0)
    judged = Gate(classes, None, Pooled(), rules, checks=[is_blue]).judge("a", images)
    assert judged.rejected[100] == "too blue for a" and judged.n_candidates == 160
    metric = judged.metrics
    assert metric["kid"]["value"] < metric["kid"]["margin"] < metric["kid"]["before"]
    assert metric["fid"]["value"] < metric["fid"]["before"]
    assert metric["acceptance"]["value"] == judged.rejected.count(None) / 160 < 0.45
    assert metric["acceptance"]["real_vs_real"] > 0.9
    for name in ("mind", "precision", "recall", "density", "coverage", "vendi", "authenticity", "repeats"):
        assert metric[name]["before"] is not None and metric[name]["value"] is not None


def test_two_modes_are_a_collapse() -> None:
    real = cells("a", 2, seed=2)
    noise = np.random.default_rng(0).normal(0, 2, (80, SIZE, SIZE, 3))
    judged = verdict_on((real[np.arange(80) % 2] + noise).clip(0, 255).astype(np.uint8))
    assert judged.verdict == "fail"
    assert any("Vendi" in reason and "less than 0.5" in reason for reason in judged.reasons)
    assert any("most of the set is repetition" in reason for reason in judged.reasons)
    assert judged.metrics["repeats"]["value"] > 0.9 and judged.metrics["repeats"]["real_vs_real"] < 0.1


def test_authenticity_is_against_the_train_images() -> None:
    judged = verdict_on(cells("a", 80, seed=2))
    own = judged.metrics["authenticity"]
    assert "60 train images" in own["note"] and "53 held-out" in own["note"]
    assert abs(own["value"] - own["real_vs_real"]) < 0.3
    mixed = verdict_on(np.concatenate([cells("a", 60, seed=2), cells("a", 60, seed=2)]), a=(60, 0, 0))
    assert mixed.metrics["authenticity"]["real_vs_real"] is None


def test_plain_folders_say_that_nothing_was_held_out() -> None:
    judged = verdict_on(cells("a", 80, seed=2), a=(60, 0, 0))
    assert judged.verdict in ("pass", "warn") and any(
        "rewards copying" in reason for reason in judged.reasons
    )
    assert "one half sought in the other" in judged.metrics["copies"]["note"]


def test_same_seed_same_judgement_and_json_without_nan() -> None:
    candidates = {"a": cells("a", 40, seed=2), "b": cells("b", 40, seed=2)}
    documents = [
        gate_document(judge_candidates(Cells(), candidates, Pooled(), seed=3), Pooled()) for _ in range(2)
    ]
    assert documents[0] == documents[1]
    text = json.loads(json.dumps(documents[0], allow_nan=False))
    assert text["format"] == 1 and text["features"] == {"name": "pooled", "sha256": "0" * 64}
    for found in text["classes"].values():
        assert {"verdict", "reasons", "n_real", "n_candidates", "n_accepted", "metrics"} <= set(found)
        for metric in found["metrics"].values():
            assert {"value", "ci", "real_vs_real", "note"} <= set(metric)


def test_unknown_class_and_other_size_get_a_sentence() -> None:
    with pytest.raises(InputError, match="no class 'd'"):
        judge_candidates(Cells(), {"d": cells("a", 3, seed=0)}, Pooled())
    with pytest.raises(InputError, match="32×32×3"):
        judge_candidates(Cells(), {"a": cells("a", 3, seed=0)[:, :16, :16]}, Pooled())


def test_rules_are_complete() -> None:
    rules = load_rules()
    assert rules["kid"]["margin"] == 0.25 and rules["sizes"]["fewest_real"] == 10


def write(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")


def test_plain_class_folders(tmp_path: Path) -> None:
    for label in "abc":
        write(tmp_path / "real" / label, cells(label, 60, seed=1))
    write(tmp_path / "synthetic" / "a", cells("a", 40, seed=2))
    write(tmp_path / "synthetic" / "b", cells("c", 40, seed=2))
    judgements = judge_folders(tmp_path / "real", tmp_path / "synthetic", Pooled()).judgements
    assert {label: found.verdict for label, found in judgements.items()} == {"a": "pass", "b": "fail"}


def test_folders_that_do_not_fit_get_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a", cells("a", 20, seed=1))
    write(tmp_path / "small" / "a", cells("a", 20, seed=1)[:, :16, :16])
    write(tmp_path / "other" / "d", cells("a", 20, seed=1))
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "small": "16 px",
        "other": "no class 'd'",
        "empty": "no folders",
        "none": "no folder",
    }.items():
        with pytest.raises(InputError, match=sentence):
            judge_folders(tmp_path / "real", tmp_path / name, Pooled())


class Heard:
    """A display that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(self, iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
        yield from iterable

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def stage(self, name: str) -> None:
        pass


def test_empty_folders_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr("balancer.progress._display", heard)
    for side, seed in (("real", 1), ("synthetic", 2)):
        for label in "ab":
            write(tmp_path / side / label, cells(label, 20, seed=seed))
        (tmp_path / side / f"empty {side}").mkdir()
    judgements = judge_folders(tmp_path / "real", tmp_path / "synthetic", Pooled()).judgements
    assert set(judgements) == {"a", "b"}
    assert any("No synthetic images of empty real, empty synthetic" in sentence for sentence in heard.notes)


def test_a_set_where_nothing_passed_gets_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a", cells("a", 20, seed=1))
    (tmp_path / "synthetic" / "train" / "a").mkdir(parents=True)
    write_json(tmp_path / "synthetic" / "dataset.json", {"format": 1, "kind": "synthetic"})
    with pytest.raises(InputError, match="none of this set passed the gate"):
        judge_folders(tmp_path / "real", tmp_path / "synthetic", Pooled())


def test_bad_images_in_plain_folders_get_a_sentence_that_fits(tmp_path: Path) -> None:
    for side in ("real", "synthetic"):
        write(tmp_path / side / "a", cells("a", 20, seed=1))
    bad = tmp_path / "synthetic" / "a" / "7.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="7.png cannot be read.*remove it or make the folder again"):
        judge_folders(tmp_path / "real", tmp_path / "synthetic", Pooled())
    Image.new("RGB", (40, 32)).save(bad)
    with pytest.raises(InputError, match="7.png is 40×32 where 32×32.*remove it or make the folder again"):
        judge_folders(tmp_path / "real", tmp_path / "synthetic", Pooled())


def pbc(real_data: Path, label: str, n: int) -> np.ndarray:
    paths = sorted((real_data / "pbc" / label).rglob("*.jpg"))
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:n]]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths])


@pytest.mark.slow
def test_verdicts_on_real_cells(real_data: Path) -> None:
    """Basophils with 15 train images and 300 held out, as `prepare --limit` leaves them."""

    class Pbc(Cells):
        classes, resolution = ("basophil", "ig", "monocyte", "neutrophil"), 64

        def __init__(self) -> None:
            self.counts = {"basophil": (15, 4, 300)} | dict.fromkeys(self.classes[1:], (80, 20, 0))

        def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
            images = pbc(real_data, label, sum(self.counts[label]))
            split = np.repeat(["train", "validation", "heldout"], self.counts[label])
            table = pd.DataFrame(
                {"file_name": [f"{label}/{i}.png" for i in range(len(images))], "split": split}
            )
            chosen = table["split"].isin(splits).to_numpy()
            return images[chosen], table[chosen].reset_index(drop=True)

    extract, real = inception(), pbc(real_data, "basophil", 469)[319:]
    sets = {
        "pass": [real],
        "fail": [
            pbc(real_data, "ig", 300)[150:],
            gaussian_filter(real, (0, 1, 1, 0)),
            Pbc().images_of("basophil", ["train"])[0],
        ],
    }
    for expected, cases in sets.items():
        for images in cases:
            judgement = judge_candidates(Pbc(), {"basophil": images}, extract)["basophil"]
            assert judgement.verdict == expected, judgement.reasons


def test_repeats_do_not_hide_in_a_set_larger_than_the_real_one() -> None:
    """Forty images five times each, beside real ones of which a draw has at most 65."""
    judged = verdict_on(np.repeat(cells("a", 40, seed=2), 5, axis=0))
    assert judged.verdict == "fail" and judged.metrics["repeats"]["value"] == 1
    assert any("100% of the candidates nearly repeat another one" in reason for reason in judged.reasons)


def test_a_judgement_from_disk_is_the_one_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is judged, and another image, seed or extractor is another judgement."""
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path))
    monkeypatch.setattr("balancer.quality.memory.remembered", remembered)
    images = np.concatenate([cells("a", 60, seed=2), cells("a", 20, seed=1)])  # the latter are copies
    made = verdict_on(images)
    judged: list[str] = []
    monkeypatch.setattr(Gate, "_judge", lambda self, label, candidates: judged.append(label) or made)
    again = verdict_on(images)
    assert not judged and vars(again).keys() == vars(made).keys()
    pd.testing.assert_frame_equal(again.scores, made.scores)
    for name in vars(made).keys() - {"scores"}:
        assert getattr(again, name) == getattr(made, name), name
    verdict_on(images[1:])
    judge_candidates(Cells(), {"a": images}, Pooled(), seed=1)
    judge_candidates(Cells(a=(60, 10, 59)), {"a": images}, Pooled())
    assert judged == ["a"] * 3
