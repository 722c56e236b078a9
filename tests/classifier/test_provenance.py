from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data import PreparedDataset, SyntheticSet
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.imaging.perceptual_hash import perceptual_hashes
from classifier import pretrained
from classifier.checkpoints import load_run
from classifier.config import TrainingConfig
from classifier.prediction import evaluate_run
from classifier.pretrained import checked_encoder
from classifier.pretraining import PretrainingConfig, pretrain
from classifier.provenance import check_judges, check_synthetic
from classifier.runs import train_run

Prepared = Callable[..., PreparedDataset]
Synthetic = Callable[..., SyntheticSet]


def test_an_honest_set_passes(make_prepared: Prepared, make_synthetic: Synthetic) -> None:
    data = make_prepared()
    check_synthetic(data, [])
    check_synthetic(data, [make_synthetic(data)])


def test_a_set_from_other_data_is_refused(make_prepared: Prepared, make_synthetic: Synthetic) -> None:
    data, other = make_prepared(), make_prepared("other")
    with pytest.raises(InputError, match=r"synthetic was made from other data than .*data "):
        check_synthetic(data, [make_synthetic(other)])


@pytest.mark.parametrize(
    ("name", "value"),
    [("stain", {"name": "reinhard", "reference": {}}), ("to_um_per_pixel", 0.2), ("crop", "otherwise")],
)
def test_a_set_from_images_treated_otherwise_is_refused(
    make_prepared: Prepared, make_synthetic: Synthetic, name: str, value: object
) -> None:
    """The fingerprint, which is of the source images, is the same."""
    data = make_prepared()
    images = make_synthetic(data)
    same = data.treatment
    for treatment in (same, None):  # None: of a set made before it was recorded
        check_synthetic(data, [replace(images, info={"data": {"treatment": treatment}})])
    option = name.replace("_", "-")
    with pytest.raises(InputError, match=rf"treated otherwise than those of .*data \(--{option}\)"):
        check_synthetic(data, [replace(images, info={"data": {"treatment": same | {name: value}}})])
    with pytest.raises(InputError, match=rf"\(--{option}\)"):
        treated = replace(data, info=data.info | {name: value})
        check_synthetic(treated, [replace(images, info={"data": {"treatment": same}})])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_generator_that_saw_an_image_that_judges_is_refused(
    make_prepared: Prepared, make_synthetic: Synthetic, split: str
) -> None:
    data = make_prepared()
    row = data.tables[split].iloc[3]
    images = make_synthetic(data, seen=(row["source_sha256"],))
    with pytest.raises(InputError, match=rf"trained on 1 images of .*{split} \({row['file_name']}\)"):
        check_synthetic(data, [images])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_generator_that_saw_the_same_picture_in_another_file_is_refused(
    make_dataset: Callable[..., PreparedDataset], make_synthetic: Synthetic, tmp_path: Path, split: str
) -> None:
    """A seen image at twice the resolution and mirrored, of which the set keeps the perceptual hash alone."""
    counts = {"train": {"a": 4, "b": 4}, "validation": {"a": 4, "b": 4}, "test": {"a": 4, "b": 4}}
    data = make_dataset(tmp_path / "data", counts)
    images = make_synthetic(data, label="a")
    table = pd.read_csv(images.root / "seen.csv")
    number = 5
    with Image.open(data.paths(split)[number]) as image:
        large = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))[:, ::-1]
    elsewhere = pd.DataFrame({"source_sha256": ["e" * 64], "perceptual_hash": perceptual_hashes(large[None])})
    pd.concat([table, elsewhere]).to_csv(images.root / "seen.csv", index=False)
    name = data.tables[split]["file_name"][number]
    with pytest.raises(
        InputError, match=rf"trained on 1 images of .*{split} \({name}\).*prepare the data without"
    ):
        check_synthetic(data, [SyntheticSet.load(images.root)])

    elsewhere["perceptual_hash"] = perceptual_hashes(np.asarray(data.images("train")[:1]))
    elsewhere.to_csv(images.root / "seen.csv", index=False)
    check_synthetic(data, [SyntheticSet.load(images.root)])


@pytest.mark.parametrize("split", ["validation", "test", "heldout"])
def test_synthetic_images_among_the_judges_are_refused(make_prepared: Prepared, split: str) -> None:
    data = make_prepared()
    table = data.tables["test"].copy()
    table.loc[4:8, "source"] = "synthetic"
    tainted = replace(data, tables=data.tables | {split: table})
    with pytest.raises(InputError, match=rf"{split} holds 5 synthetic images \(basophil/test4.png"):
        check_synthetic(tainted, [])


def test_other_resolutions_and_classes_are_refused(
    make_prepared: Prepared, make_synthetic: Synthetic
) -> None:
    data = make_prepared()
    with pytest.raises(InputError, match="16 px and .* of 8 px"):
        check_synthetic(data, [make_synthetic(data, side=16)])
    with pytest.raises(InputError, match="no class 'neutrofil'.*Did you mean 'neutrophil'"):
        check_synthetic(data, [make_synthetic(data, label="neutrofil")])


@pytest.mark.parametrize(("split", "number"), [("validation", 2), ("test", 0), ("heldout", 0), ("train", 0)])
def test_a_synthetic_file_under_a_real_name_is_refused_where_it_judges(
    make_prepared: Prepared, split: str, number: int
) -> None:
    """The table says real, and so it stays: only the text in the file tells."""
    data = make_prepared()
    if split == "heldout":
        moved = {"heldout": data.tables["test"], "test": data.tables["test"].iloc[:0]}
        data = replace(data, tables=data.tables | moved)
        (data.root / "heldout").rename(data.root / "empty")
        (data.root / "test").rename(data.root / "heldout")
    path = data.paths(split)[number]
    for said in ("real", "rendered", "synthetic"):
        text = PngInfo()
        text.add_text("source", said)
        Image.new("RGB", (8, 8)).save(path, pnginfo=text)
        if said == "synthetic" and split != "train":
            with pytest.raises(
                InputError, match=rf"{split} holds 1 synthetic images \(basophil/.*{number}.png\)"
            ):
                check_synthetic(data, [])
        else:
            check_synthetic(data, [])


def test_images_seen_in_training_do_not_judge(make_prepared: Prepared) -> None:
    data = make_prepared()
    test = data.tables["test"]
    check_judges(data, ["test"], Seen(frozenset(data.tables["train"]["source_sha256"]), ()))
    with pytest.raises(
        InputError, match=r"4 of the 35 images of .*test are .*\((basophil/test\d.png, ){3}…\)"
    ):
        check_judges(data, ["test"], Seen(frozenset(test["source_sha256"][:4]), ()))


@pytest.fixture
def saved_anew(
    make_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> tuple[PreparedDataset, PreparedDataset]:
    """Data, and other data whose train images are the former's test images, recompressed: other files, by their hashes."""
    counts = {split: {"a": 8, "b": 8} for split in ("train", "validation", "test")}
    data, other = (
        make_dataset(tmp_path / name, counts, seed=seed) for seed, name in enumerate(("data", "other"))
    )
    for path, copy in zip(data.paths("test"), other.paths("train"), strict=True):
        with BytesIO() as jpeg:
            Image.open(path).save(jpeg, "JPEG", quality=85)
            Image.open(jpeg).save(copy)
    return data, other


def without_hashes(run: Path) -> None:
    """Make the run one of before perceptual hashes were kept."""
    table = pd.read_csv(run / "seen.csv").drop(columns="perceptual_hash")
    table.to_csv(run / "seen.csv", index=False)


def test_an_encoder_that_saw_the_judges_in_other_files_is_refused(
    saved_anew: tuple[PreparedDataset, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(pretrained, "note", notes.append)
    data, other = saved_anew
    run = pretrain(other, PretrainingConfig(steps=1, batch_size=8), tmp_path / "pretrained")
    with pytest.raises(InputError, match=r"pretrained on 16 images of .*data/test \(.*be it in other files"):
        checked_encoder(str(run), data)
    assert not notes
    without_hashes(run)
    checked_encoder(str(run), data)
    assert len(notes) == 1 and "copies that were saved anew cannot be told" in notes[0]


def test_images_seen_in_training_do_not_judge_from_other_files(
    saved_anew: tuple[PreparedDataset, PreparedDataset], tmp_path: Path
) -> None:
    data, other = saved_anew
    config = TrainingConfig(arch="resnet18", steps=1, batch_size=8, evaluations=1)
    run = load_run(train_run(other, [], config, tmp_path / "run"))
    evaluate_run(run, other)
    with pytest.raises(InputError, match=r"16 of the 16 images of .*data/test .*be it in another file"):
        evaluate_run(run, data)
    without_hashes(run.root)
    evaluate_run(run, data)


def test_a_synthetic_set_holds_synthetic_images_alone(
    make_prepared: Prepared, make_synthetic: Synthetic
) -> None:
    data = make_prepared()
    images = make_synthetic(data)
    for source in ("real", None):
        table = images.table.copy()
        table.loc[7, "source"] = source
        with pytest.raises(InputError, match=r"1 images that are not synthetic .*neutrophil/train7\.png"):
            check_synthetic(data, [replace(images, table=table)])


def test_nothing_counts_twice(make_prepared: Prepared, make_synthetic: Synthetic, tmp_path: Path) -> None:
    data = make_prepared()
    images = make_synthetic(data)
    with pytest.raises(InputError, match="20 images that are given more than once"):
        check_synthetic(data, [images, SyntheticSet.load(images.root)])
    (tmp_path / "link").symlink_to(images.root)
    with pytest.raises(InputError, match="20 images that are given more than once"):
        check_synthetic(data, [images, SyntheticSet.load(tmp_path / "link")])

    half = replace(images, table=images.table.iloc[:5])
    rest = replace(images, table=images.table.iloc[4:])
    with pytest.raises(InputError, match=r"1 images .* \(neutrophil/train4\.png\)"):
        check_synthetic(data, [half, rest])
    check_synthetic(data, [half, replace(images, table=images.table.iloc[5:])])

    twice = pd.concat([images.table, images.table.iloc[[3]]], ignore_index=True)
    with pytest.raises(InputError, match=r"1 images .* \(neutrophil/train3\.png\)"):
        check_synthetic(data, [replace(images, table=twice)])
    collapsed = images.table.assign(source_sha256="0" * 64)
    check_synthetic(data, [replace(images, table=collapsed)])
