from __future__ import annotations

import hashlib
import importlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer import smear
from balancer.data.dataset import SPLITS, PreparedDataset, fingerprint
from balancer.data.inspection import inspect
from balancer.data.prepare import prepare
from balancer.errors import InputError
from balancer.imaging import stain


def picture(seed: int, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (10, 10, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def folders(root: Path, sizes: dict[str, int], nested: str = "") -> Path:
    seed = 0
    for label, n in sizes.items():
        place = root / label / nested
        place.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(picture(seed := seed + 1)).save(place / f"{i}.png")
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folders(tmp_path / "source", {"a": 20, "b": 10})


def by_file(data: PreparedDataset) -> pd.DataFrame:
    return pd.concat([data.tables[s].assign(split=s) for s in SPLITS]).set_index("source_file")


def test_the_contract(source: Path, tmp_path: Path) -> None:
    summary = prepare(source, tmp_path / "out", resolution=32, licence="CC0", limits={"a": 3})
    data = PreparedDataset.load(tmp_path / "out")
    assert data.classes == summary.classes == ("a", "b") and data.source == "real"
    assert summary.counts == {split: data.counts(split) for split in SPLITS} == data.info["counts"]
    assert summary.counts["train"]["a"] == 3 and summary.counts["heldout"]["a"] > 0
    assert sum(sum(c.values()) for c in summary.counts.values()) == 30
    for split in SPLITS:
        assert {p.name for p in (data.root / split).iterdir()} == {"a", "b", "metadata.csv"}
        assert sorted(data.paths(split)) == sorted((data.root / split).rglob("*.png"))
        assert data.images(split)[:].shape == (len(data.tables[split]), 32, 32, 3)
    rows = by_file(data)
    for file, row in rows.iterrows():
        assert row["source_sha256"] == hashlib.sha256((source / str(file)).read_bytes()).hexdigest()
        assert row["label"] == str(file)[0] == row["file_name"][0]
    assert data.fingerprint == fingerprint(
        zip(rows["split"], rows["label"], rows["source_sha256"], strict=True)
    )
    assert data.info["licence"] == "CC0" and data.info["origin"] == str(source)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*SPLITS, "dataset.json"}


def test_same_seed_same_bytes(source: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(source, tmp_path / name, seed=seed)
    read = {n: (tmp_path / n / "train/metadata.csv").read_bytes() for n in ("one", "two", "three")}
    assert read["one"] == read["two"] != read["three"]
    prepare(source, tmp_path / "small", resolution=16)
    loaded = [PreparedDataset.load(tmp_path / n).fingerprint for n in ("one", "small", "three")]
    assert loaded[0] == loaded[1] != loaded[2]


@pytest.mark.parametrize("masks", [False, True])
def test_other_libraries_open_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: bool
) -> None:
    datasets = pytest.importorskip("datasets")
    torchvision = pytest.importorskip("torchvision")
    if masks:
        for file in source.rglob("*.png"):
            target = source / "masks" / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(0)[..., 0]).save(target)
    names = [p.relative_to(source).as_posix() for p in source.glob("[ab]/*.png")]
    columns = {
        "patient_id": [f"P{i % 9}" for i in range(30)],
        "age": [None if i % 7 else 40 for i in range(30)],  # an integer here, missing there
        "remark": [None] * 29 + ["one of them only"],
        "extra_file_name": ["x.tif"] * 30,
    }
    pd.DataFrame({"file_name": names, **columns}).to_csv(source / "metadata.csv", index=False)
    prepare(source, tmp_path / "out", group_by=["patient_id"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    data = PreparedDataset.load(tmp_path / "out")
    assert set(loaded) == {"train", "validation", "test"}
    for split, rows in loaded.items():
        assert rows["label"] == data.tables[split]["label"].tolist()
        assert rows[0]["image"].size == (32, 32)
        assert set(rows["patient_id"]) == set(data.tables[split]["patient_id"])
    folder = torchvision.datasets.ImageFolder(str(tmp_path / "out/train"), allow_empty=True)
    assert folder.classes == ["a", "b"] and len(folder) == len(data.tables["train"])
    if masks:
        mirrored = {p.relative_to(data.root / "masks") for p in (data.root / "masks").rglob("*.png")}
        assert mirrored == {p.relative_to(data.root) for s in SPLITS for p in data.paths(s)}
        assert data.info["masks"] == 30


def test_groups_and_near_duplicates_stay_on_one_side(source: Path, tmp_path: Path) -> None:
    for i in range(6):  # recompressed and mirrored copies
        image = Image.open(source / f"a/{i}.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(source / f"a/copy{i}.jpg", quality=85)
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.*"))]
    patients = [f"P{i // 3}" for i in range(len(names))]
    pd.DataFrame({"file_name": names, "patient_id": patients}).to_csv(source / "metadata.csv", index=False)
    summary = prepare(source, tmp_path / "out", group_by=["patient_id"])
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    assert len(summary.near_duplicates) == 6
    for first, second in summary.near_duplicates:
        assert rows.loc[first, "split"] == rows.loc[second, "split"]
        assert rows.loc[first, "group"] == rows.loc[second, "group"]
    for column in ("group", "patient_id"):
        assert (rows.groupby(column)["split"].nunique() == 1).all()


@pytest.mark.parametrize("keep_splits", [False, True])
def test_patients_are_groups_without_being_asked_for(source: Path, tmp_path: Path, keep_splits: bool) -> None:
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    columns = {"patient_id": [f"P{i // 3}" for i in range(30)], "slide": [f"S{i}" for i in range(30)]}
    splits = [("train", "test", "validation")[i % 3] for i in range(30)]
    pd.DataFrame({"file_name": names, **columns, "split": splits}).to_csv(
        source / "metadata.csv", index=False
    )
    summary = prepare(source, tmp_path / "out", keep_splits=keep_splits)
    data = PreparedDataset.load(tmp_path / "out")
    rows = by_file(data)
    assert set(rows["group"]) == {f"patient_id=P{i}" for i in range(10)}
    assert any("one patient_id form a group" in sentence for sentence in summary.notes)
    assert data.info["splits"]["group_by"] == ["patient_id"]
    apart = (rows.groupby("patient_id")["split"].nunique() > 1).sum()
    assert apart == (10 if keep_splits else 0)
    assert keep_splits == any("10 groups or pairs" in sentence for sentence in summary.notes)
    prepare(source, tmp_path / "slides", group_by=["slide"])
    assert by_file(PreparedDataset.load(tmp_path / "slides"))["group"].str.startswith("slide=").all()


def test_exact_duplicates_and_conflicting_labels(source: Path, tmp_path: Path) -> None:
    Image.open(source / "a/3.png").save(source / "a/again.bmp")
    Image.open(source / "a/5.png").save(source / "b/other.png")
    summary = prepare(source, tmp_path / "out")
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    assert summary.duplicates_removed == [("a/again.bmp", "a/3.png")]
    assert "a/again.bmp" not in rows.index and len(rows) == 31
    assert summary.label_conflicts == [("a/5.png", "b/other.png")]
    assert rows.loc["a/5.png", "split"] == rows.loc["b/other.png", "split"]
    assert any("two labels" in n for n in summary.notes) and any("again.bmp" in n for n in summary.notes)


def test_nested_folders_and_equal_names(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"a": 5, "b": 5}, nested="slide 1/field")
    (source / "a" / "slide 2").mkdir()
    Image.fromarray(picture(99)).save(source / "a" / "slide 2" / "0.png")
    (source / "a" / "notes.txt").write_text("x")
    summary = prepare(source, tmp_path / "out", resolution=32)
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    assert len(rows) == 11 == rows["file_name"].nunique()
    assert {"a/0.png", "a/0-2.png"} <= set(rows["file_name"])
    assert any("notes.txt" in sentence for sentence in summary.notes)


def test_table_with_label_column_and_map(source: Path, tmp_path: Path) -> None:
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    kinds = [["x1", "x2", "y", "z"][i % 4] for i in range(30)]
    pd.DataFrame({"file_name": names, "label": "all", "kind": kinds}).to_csv(
        source / "cells.csv", index=False
    )
    (tmp_path / "map.csv").write_text("from,to\nx1,x\nx2,x\nz,\n")
    (tmp_path / "map.json").write_text(json.dumps({"x1": "x", "x2": "x", "z": None}))
    for name in ("map.csv", "map.json"):
        out = tmp_path / name.replace(".", "-")
        prepare(source / "cells.csv", out, label_column="kind", mapping=tmp_path / name)
        rows = by_file(PreparedDataset.load(out))
        assert rows["label"].value_counts().to_dict() == {"x": 16, "y": 7}
        assert set(rows["kind"]) == {"x1", "x2", "y"} and set(rows["source_label"]) == {"all"}


def test_attributes_outside_the_vocabulary_are_told(source: Path, tmp_path: Path) -> None:
    files = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    table = pd.DataFrame({"file_name": files, "label": [name.split("/")[0] for name in files]})
    for value, told in (("big", 0), ("bigg", 1)):
        table["cell_size"] = [value, "", *["small"] * (len(files) - 2)]
        table.to_csv(source / "metadata.csv", index=False)
        notes = prepare(source, tmp_path / value).notes
        assert sum("vocabulary" in n and "did you mean 'big'" in n.lower() for n in notes) == told


def test_of_how_many_images_attributes_are_known_is_told(source: Path, tmp_path: Path) -> None:
    files = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    table = pd.DataFrame({"file_name": files, "label": [name.split("/")[0] for name in files]})
    first = table["label"] == table["label"].iloc[0]
    table["cell_size"] = np.where(first, "big", "")
    table["Cytoplasm Color"] = "blue"
    table.to_csv(source / "metadata.csv", index=False)
    notes = prepare(source, tmp_path / "out").notes
    others = " or ".join(sorted(set(table["label"][~first])))
    assert (
        f"Attributes are known of {first.sum()} of the source's {len(table)} images, none of {others}."
        in notes
    )
    assert (
        "The column 'Cytoplasm Color' is not read as the attribute cytoplasm_colour; rename it to that."
        in notes
    )


def test_jsonl_zip_and_missing_files(source: Path, tmp_path: Path) -> None:
    lines = [
        {"file_name": p.relative_to(source).as_posix(), "label": p.parent.name, "n": i}
        for i, p in enumerate(sorted(source.rglob("*.png")))
    ]
    lines.append({"file_name": "a/gone.png", "label": "a", "n": 3})
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    summary = prepare(source, tmp_path / "out")
    assert [name for name, _ in summary.skipped] == ["a/gone.png"]
    assert "does not exist" in summary.skipped[0][1]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in source.rglob("*.*"):
            archive.write(file, Path("cells") / file.relative_to(source))
    zipped = prepare(tmp_path / "s.zip", tmp_path / "zipped")
    assert zipped.fingerprint == summary.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata.csv",
            "file_name,label,cell_size,cell_size\na/0.png,a,big,small\n",
            "more than one column is called cell_size",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a/0.png", "label": "a", "label": "b"}',
            "more than one column is called label",
        ),
        ("metadata.jsonl", '{"file_name": "a/0.png", "label": "a", "n": "\\ud800"}', "surrogates"),
    ],
)
def test_a_table_that_says_two_things_or_nothing_is_refused(
    source: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (source / name).write_text(content)
    with pytest.raises(InputError, match=f"cannot be read as a table.*{message}"):
        prepare(source, tmp_path / "out")


def test_npz_in_medmnist_layout(tmp_path: Path) -> None:
    arrays = {}
    for k, (name, n) in enumerate((("train", 20), ("val", 6), ("test", 6))):
        arrays[f"{name}_images"] = np.stack([picture(100 * k + i, (28, 28)) for i in range(n)])
        arrays[f"{name}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "blood.npz", **arrays)
    kept = prepare(tmp_path / "blood.npz", tmp_path / "kept", keep_splits=True, resolution=28)
    assert kept.counts["train"] == {"0": 10, "1": 10} and kept.counts["test"] == {"0": 3, "1": 3}
    data = PreparedDataset.load(tmp_path / "kept")
    order = data.tables["validation"]["source_file"].str[-6:].astype(int)
    assert np.array_equal(data.images("validation")[:], arrays["val_images"][order])
    free = prepare(tmp_path / "blood.npz", tmp_path / "free")
    assert free.resolution == 32 and any("--keep-splits" in sentence for sentence in free.notes)


def test_own_splits_are_kept_and_validation_is_made(tmp_path: Path) -> None:
    source = tmp_path / "s"
    folders(source / "training", {"a": 20, "b": 20})
    folders(source / "Test", {"a": 4, "b": 2})
    for i, file in enumerate((source / "Test").rglob("*.png")):  # `folders` draws the same pictures again
        Image.fromarray(picture(1000 + i)).save(file)
    summary = prepare(source, tmp_path / "out", keep_splits=True)
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    assert summary.counts["test"] == {"a": 4, "b": 2}
    assert summary.counts["validation"]["a"] in (3, 4)
    assert set(rows[rows["split"] == "test"].index.str[:4]) == {"Test"}
    with pytest.raises(InputError, match="name no split"):
        prepare(folders(tmp_path / "plain", {"a": 3, "b": 3}), tmp_path / "out2", keep_splits=True)


def test_rendered_images_are_marked_and_never_mixed(source: Path, tmp_path: Path) -> None:
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    table = pd.DataFrame({"file_name": names, "source": "rendered"})
    table.to_csv(source / "metadata.csv", index=False)
    prepare(source, tmp_path / "out")
    data = PreparedDataset.load(tmp_path / "out")
    assert data.source == "rendered" and set(by_file(data)["source"]) == {"rendered"}
    table.loc[3, "source"] = "real"
    table.to_csv(source / "metadata.csv", index=False)
    with pytest.raises(InputError, match="mixes real and rendered"):
        prepare(source, tmp_path / "mixed")
    table["source"] = "synthetic"
    table.to_csv(source / "metadata.csv", index=False)
    with pytest.raises(InputError, match="synthetic"):
        prepare(source, tmp_path / "mixed")


def say(files: list[Path], source: str) -> None:
    """Write `source` into each PNG, as the renderer and `synth` do."""
    text = PngInfo()
    text.add_text("source", source)
    for file in files:
        Image.open(file).save(file, pnginfo=text)


@pytest.mark.parametrize("on_bad_image", ["skip", "stop"])
def test_synthetic_images_are_refused_by_what_they_say(
    source: Path, tmp_path: Path, on_bad_image: Literal["skip", "stop"]
) -> None:
    say([source / "a/7.png"], "synthetic")
    with pytest.raises(InputError, match="a/7.png is a synthetic image"):
        prepare(source, tmp_path / "out", on_bad_image=on_bad_image)
    assert not (tmp_path / "out").exists()


def test_rendered_images_say_so_themselves(source: Path, tmp_path: Path) -> None:
    say(sorted(source.rglob("*.png")), "rendered")
    assert prepare(source, tmp_path / "out").source == "rendered"
    data = PreparedDataset.load(tmp_path / "out")
    assert data.source == "rendered" and set(by_file(data)["source"]) == {"rendered"}
    for file in tmp_path.glob("out/*/metadata.csv"):  # the prepared images alone
        file.unlink()
    (tmp_path / "out/dataset.json").unlink()
    assert prepare(tmp_path / "out", tmp_path / "again").source == "rendered"
    Image.fromarray(picture(99)).save(source / "b/real.png")
    with pytest.raises(InputError, match="mixes real and rendered"):
        prepare(source, tmp_path / "mixed")


def test_mixed_formats_sizes_and_depths(source: Path, tmp_path: Path) -> None:
    bright = np.full((50, 40), 4000, dtype=np.uint16)
    bright[:25] = 1000
    Image.fromarray(bright).save(source / "a/deep1.png")
    Image.fromarray((bright // 2).astype(np.uint16)).save(source / "b/deep2.tif")
    Image.fromarray(picture(70, (60, 33))[..., 0]).save(source / "b/grey.jpg")
    summary = prepare(source, tmp_path / "out")
    data = PreparedDataset.load(tmp_path / "out")
    rows = by_file(data)
    assert summary.resolution == 32
    levels = {
        f: np.asarray(Image.open(data.root / rows.loc[f, "split"] / rows.loc[f, "file_name"])).max()
        for f in ("a/deep1.png", "b/deep2.tif")
    }
    assert levels["a/deep1.png"] == 255 and abs(int(levels["b/deep2.tif"]) - 128) <= 2
    assert any("scaled alike, 4000 to white" in sentence for sentence in summary.notes)
    assert data.info["white_level"] == 4000
    for deep in ("a/deep1.png", "b/deep2.tif"):
        (source / deep).unlink()
    prepare(source, tmp_path / "flat")
    assert "white_level" not in PreparedDataset.load(tmp_path / "flat").info
    assert rows.loc["b/grey.jpg", "source_width"] == 33


def test_what_the_common_scaling_blackens_is_named(source: Path, tmp_path: Path) -> None:
    for i, top in enumerate((0.5, 1.0, 1e9)):
        pixels = picture(70 + i)[..., 0].astype(np.float32) / 255 * top
        Image.fromarray(pixels).save(source / f"a/float{i}.tif")
    notes = prepare(source, tmp_path / "out").notes
    named = next(sentence for sentence in notes if "nearly all black" in sentence)
    assert named.startswith("2 deep images became") and "from a/float2.tif" in named
    assert named.splitlines()[1:] == ["  a/float0.tif", "  a/float1.tif"]
    (source / "a/float2.tif").unlink()
    assert not any("nearly all black" in n for n in prepare(source, tmp_path / "fine").notes)


def test_scale_follows_the_pixels(source: Path, tmp_path: Path) -> None:
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    table = pd.DataFrame({"file_name": names, "um_per_pixel": 0.1})
    table.to_csv(source / "metadata.csv", index=False)
    prepare(source, tmp_path / "out", resolution=32)
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    assert np.allclose(rows["um_per_pixel"], 0.1 * 40 / 32)
    table.assign(um_per_pixel=0).to_csv(source / "metadata.csv", index=False)
    with pytest.raises(InputError, match="um_per_pixel"):
        prepare(source, tmp_path / "zero")


def test_masks_of_another_size_are_left_out(source: Path, tmp_path: Path) -> None:
    for name, size in (("a/0.png", (40, 40)), ("a/1.png", (20, 20))):
        (source / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 128).save(source / "masks" / name)
    summary = prepare(source, tmp_path / "out")
    assert summary.classes == ("a", "b")
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 1
    assert any("1 mask" in sentence for sentence in summary.notes)


def test_long_tail(tmp_path: Path) -> None:
    source = folders(tmp_path / "s", {"a": 30, "b": 30, "c": 30})
    counts = prepare(source, tmp_path / "out", long_tail=16).counts
    train = list(counts["train"].values())
    assert train[0] in (21, 22) and train[1] == 5 and train[2] == 1
    assert all(n >= 1 for n in counts["validation"].values())
    assert set(counts["test"].values()) <= {4, 5}


# Bad input gets a sentence and loses nothing.


def test_bad_images_are_named_skipped_and_counted(source: Path, tmp_path: Path) -> None:
    cut = source / "a/cut.jpg"
    Image.fromarray(picture(50)).save(cut, quality=95)
    cut.write_bytes(cut.read_bytes()[:400])
    (source / "b/text.png").write_text("no image")
    summary = prepare(source, tmp_path / "out")
    assert [name for name, _ in summary.skipped] == ["a/cut.jpg", "b/text.png"]
    assert sum(sum(c.values()) for c in summary.counts.values()) == 30
    assert any(n.startswith("2 images") and "cut.jpg" in n for n in summary.notes)
    with pytest.raises(InputError, match="cut.jpg"):
        prepare(source, tmp_path / "stop", on_bad_image="stop")
    assert not (tmp_path / "stop").exists()


def test_all_bad_images_are_named(source: Path, tmp_path: Path) -> None:
    bad = [f"b/bad{i:02d}.png" for i in range(23)]
    for name in bad:
        (source / name).write_text("no image")
    summary = prepare(source, tmp_path / "out")
    named = next(sentence for sentence in summary.notes if "skipped" in sentence).splitlines()
    assert named[0] == "23 images were skipped:"
    assert named[1:] == [*(f"  {name} is no image that can be read." for name in bad[:20]), "  … and 3 more."]
    recorded = PreparedDataset.load(tmp_path / "out").info["skipped"]
    assert [one["source_file"] for one in recorded] == bad and all(one["reason"] for one in recorded)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limits": {"bb": 3}}, "Did you mean 'b'"),
        ({"limits": {"a": 0}}, "--limit a=0"),
        ({"limits": {"a": -4}}, "--limit a=-4"),
        ({"long_tail": 0.5}, "--long-tail 0.5"),
        ({"resolution": 0}, "resolution of 0"),
        ({"resolution": 100_000}, "resolution of 100000"),
        ({"group_by": ["patient"]}, "no column 'patient'; known: none"),
        ({"label_column": "subtype"}, "no column 'subtype'"),
        ({"mapping": Path("none.csv")}, "none.csv does not exist"),
        ({"ratios": (0.5, 0.5, 0.0)}, "ratios"),
    ],
)
def test_nonsense_options(source: Path, tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        prepare(source, tmp_path / "out", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_unknown_name_in_the_map(source: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("from,to\nA,x\n")
    with pytest.raises(InputError, match="Did you mean 'a'"):
        prepare(source, tmp_path / "out", mapping=tmp_path / "map.csv")
    (tmp_path / "map.csv").write_text("old,new\na,x\n")
    with pytest.raises(InputError, match="from and to"):
        prepare(source, tmp_path / "out", mapping=tmp_path / "map.csv")


def test_sources_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    (tmp_path / "no.zip").write_text("x")
    (tmp_path / "no.npz").write_text("x")
    cases = {"empty": "no images", "none": "does not exist", "text.txt": "no source", "no.zip": "unpacked"}
    for name, sentence in {**cases, "no.npz": "MedMNIST"}.items():
        with pytest.raises(InputError, match=sentence):
            prepare(tmp_path / name, tmp_path / "out")
    with pytest.raises(InputError, match="one class only"):
        prepare(folders(tmp_path / "one", {"a": 3}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["../up", "x/y", "x\\y", ".hidden", "masks", "a\nb", "l" * 200])
def test_labels_do_not_escape(source: Path, tmp_path: Path, label: str) -> None:
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    pd.DataFrame({"file_name": names, "label": ["fine"] * 20 + [label] * 10}).to_csv(
        source / "metadata.csv", index=False
    )
    with pytest.raises(InputError, match="--map"):
        prepare(source, tmp_path / "out")


def test_output_exists_or_lies_inside_the_source(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    before = (tmp_path / "out/dataset.json").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        prepare(source, tmp_path / "out")
    with pytest.raises(InputError, match="inside the source"):
        prepare(source, source / "out")
    with pytest.raises(InputError, match="no class 'c'"):
        prepare(source, tmp_path / "out", limits={"c": 1}, overwrite=True)
    assert (tmp_path / "out/dataset.json").read_bytes() == before
    prepare(source, tmp_path / "out", seed=3, overwrite=True)
    assert PreparedDataset.load(tmp_path / "out").info["splits"]["seed"] == 3


def test_interruption_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("balancer.data.prepare"), "_write_tables", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_class_with_three_images(tmp_path: Path) -> None:
    summary = prepare(folders(tmp_path / "s", {"a": 80, "b": 3}), tmp_path / "out")
    assert [summary.counts[s]["b"] for s in SPLITS] == [1, 1, 1, 0]
    for split in ("train", "test"):
        assert any(n.startswith(f"Fewer than 10 images in {split}: b (1);") for n in summary.notes)


def test_one_of_a_kind_is_written_in_the_singular(source: Path, tmp_path: Path) -> None:
    Image.open(source / "a/3.png").save(source / "a/again.bmp")
    (source / "a/notes.txt").write_text("x")
    Image.fromarray(picture(90)).save(source / "loose.png")
    (source / "b/text.png").write_text("no image")
    (source / "masks/a").mkdir(parents=True)
    Image.new("L", (20, 20)).save(source / "masks/a/0.png")
    notes = " ".join(prepare(source, tmp_path / "out", resolution=64, keep_splits=False).notes)
    for sentence in (
        "1 file is no image by its suffix; left out: a/notes.txt.",
        "1 image lies in no class folder; left out: loose.png.",
        "1 image was skipped:",
        "1 image was left out as an exact duplicate,",
        "1 mask was left out:",
    ):
        assert sentence in notes


def test_real_masks_keep_their_levels(real_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for child in (real_data / "segwbc").iterdir():
        (source / child.name).symlink_to(child)
    (source / "masks").symlink_to(real_data / "segwbc_masks")
    summary = prepare(source, tmp_path / "out")
    masks = list((tmp_path / "out/masks").rglob("*.png"))
    assert len(masks) == sum(sum(c.values()) for c in summary.counts.values()) == 299
    assert {v for m in masks[:50] for v in np.unique(Image.open(m))} == {0, 128, 255}


def cells(root: Path, scales: dict[str, float], sizes: dict[str, int], column: bool = True) -> Path:
    """Discs 8 µm wide in two classes, by scanners of their own: {scanner: µm per pixel}, {scanner: side in pixels}."""
    rows = []
    rng = np.random.default_rng(0)
    for scanner, um_per_pixel in scales.items():
        size = sizes[scanner]
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        for i in range(12):
            label, eosin = ("a", 0) if i % 2 else ("b", 60)
            name = f"{label}/{scanner}{i}.png"
            inside = np.hypot(y, x) < 4 / um_per_pixel
            pixels = np.where(inside[..., None], [90 + eosin, 40, 150 - eosin], [230, 220, 210])
            pixels = pixels + rng.normal(0, 6, pixels.shape) + rng.normal(0, 8, 3)
            (root / "masks" / label).mkdir(parents=True, exist_ok=True)
            (root / label).mkdir(exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name)
            Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(root / "masks" / name)
            rows.append({"file_name": name, "um_per_pixel": um_per_pixel})
    if column:
        pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
    return root


def test_mixed_scanners_are_brought_to_one_scale(tmp_path: Path) -> None:
    scales, sizes = {"old": 0.4, "new": 0.1}, {"old": 40, "new": 200}
    summary = prepare(cells(tmp_path / "in", scales, sizes), tmp_path / "out", to_um_per_pixel=0.2)
    assert summary.resolution == 64  # 16 and 20 µm wide: 80 px at least
    data = PreparedDataset.load(tmp_path / "out")
    assert data.info["to_um_per_pixel"] == 0.2
    for split in SPLITS:
        assert (data.tables[split].get("um_per_pixel", 0.2) == 0.2).all()
        for name, image in zip(data.tables[split]["file_name"], data.images(split)[:], strict=True):
            wide = 2 * np.sqrt((image[..., 1] < 130).sum() / np.pi)
            assert wide == pytest.approx(40, abs=1)
            mask = np.asarray(Image.open(data.root / "masks" / split / name)) > 0
            assert (mask == (image[..., 1] < 130)).mean() > 0.98
    assert any("12 images were coarser than 0.2 µm per pixel and enlarged" in note for note in summary.notes)


def test_at_a_scale_small_images_are_padded(tmp_path: Path) -> None:
    source = cells(tmp_path / "in", {"one": 0.2}, {"one": 50}, column=False)
    summary = prepare(source, tmp_path / "out", um_per_pixel=0.2, to_um_per_pixel=0.2, resolution=64)
    assert any("images were padded at that scale to 64 px" in note for note in summary.notes)
    image = PreparedDataset.load(tmp_path / "out").images("train")[0]
    assert image[:6].std() < image[8:20, 8:20].std()  # a frame of one colour


def test_the_scale_is_kept_right_without_a_common_one(tmp_path: Path) -> None:
    source = cells(tmp_path / "in", {"one": 0.2, "two": 0.1}, {"one": 64, "two": 128})
    table = pd.read_csv(source / "metadata.csv")
    table.loc[table["um_per_pixel"] == 0.2, "um_per_pixel"] = None
    table.to_csv(source / "metadata.csv", index=False)
    prepare(source, tmp_path / "out", resolution=32, um_per_pixel=0.2)
    rows = by_file(PreparedDataset.load(tmp_path / "out"))
    np.testing.assert_allclose(rows["um_per_pixel"].astype(float), 0.4)
    with pytest.raises(InputError, match="scale of 12 images is not known"):
        prepare(source, tmp_path / "none", to_um_per_pixel=0.2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"um_per_pixel": 0.0}, "--um-per-pixel 0 is impossible"),
        ({"um_per_pixel": 0.1, "to_um_per_pixel": 0.0}, "--to-um-per-pixel 0 is impossible"),
        ({"to_um_per_pixel": float("nan")}, "is impossible"),
        ({"to_um_per_pixel": 0.1, "crop": "pad"}, "leave one out"),
        ({"stain": "macenco"}, "Did you mean 'macenko'"),
    ],
)
def test_impossible_scales_and_stains(
    source: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        prepare(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", stain.STAINS)
def test_stain_is_normalised_to_the_train_images_alone(tmp_path: Path, name: str) -> None:
    source = cells(tmp_path / "in", {"one": 0.2, "two": 0.21}, {"one": 64, "two": 64}, column=False)
    plain = PreparedDataset.load(prepare(source, tmp_path / "plain", resolution=64).root)
    summary = prepare(source, tmp_path / "out", resolution=64, stain=name)
    data = PreparedDataset.load(tmp_path / "out")
    assert data.fingerprint == plain.fingerprint
    reference = stain.reference_of(name, plain.images("train")[:])
    assert data.info["stain"] == {"name": name, "reference": reference}
    assert plain.info["stain"] is None
    for split in ("train", "test"):
        for before, after in zip(plain.images(split)[:], data.images(split)[:], strict=True):
            try:
                expected = stain.normalise(name, before, reference)
            except InputError:
                expected = before
            np.testing.assert_array_equal(after, expected)
    assert not any("stayed as they were" in note for note in summary.notes) or name == "macenko"


def test_an_image_of_one_colour_stays_as_it_is_and_is_named(source: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40, 3), (200, 150, 180), dtype=np.uint8)).save(source / "a/flat.png")
    Image.fromarray(np.array([[[120, 60, 150]]], dtype=np.uint8)).save(source / "b/pixel.png")
    summary = prepare(source, tmp_path / "out", stain="macenko", resolution=32)
    notes = "\n".join(summary.notes)
    assert "2 images were not normalised by macenko" in notes
    assert "a/flat.png: " in notes and "b/pixel.png: " in notes


def test_rendered_images_still_say_so_after_normalisation(tmp_path: Path) -> None:
    smear.write_source(tmp_path / "in", {"lymphocyte": 12, "neutrophil": 12}, 32, seed=0)
    prepare(tmp_path / "in", tmp_path / "out", stain="macenko", to_um_per_pixel=1.0, resolution=32)
    data = PreparedDataset.load(tmp_path / "out")
    assert data.source == "rendered"
    with Image.open(data.paths("train")[0]) as image:
        assert image.info["source"] == "rendered"


def test_blank_images_of_two_sizes_are_one_picture_and_leak_nowhere(source: Path, tmp_path: Path) -> None:
    for i in range(24):
        Image.new("RGB", (40 + i, 40 + i), "white").save(source / "a" / f"blank{i}.png")
    prepare(source, tmp_path / "out", resolution=32)
    data = PreparedDataset.load(tmp_path / "out")
    table = by_file(data)
    assert table.loc[table.index.str.contains("blank"), "group"].nunique() == 1
    assert inspect(data).leaks == []


def test_a_name_that_is_not_utf8_is_left_out(source: Path, tmp_path: Path) -> None:
    for name in (b"zell\xe9.png", b"zell\xe9.txt"):
        Path(os.fsdecode(bytes(source / "a") + b"/" + name)).write_bytes((source / "a/0.png").read_bytes())
    summary = prepare(source, tmp_path / "out")
    assert [file for file, _ in summary.skipped] == [r"a/zell\udce9.png"]
    assert any("zell\\udce9.png: The file's name is not UTF-8" in one for one in summary.notes)
    with pytest.raises(InputError, match="not UTF-8"):
        prepare(source, tmp_path / "stop", on_bad_image="stop")
    (source / "a").rename(os.fsdecode(bytes(source) + b"/zell\xe9"))
    with pytest.raises(InputError, match="cannot be a folder's name"):
        prepare(source, tmp_path / "label")


def test_an_image_that_would_shrink_to_nothing_is_named(source: Path, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), "white").save(source / "a" / "dot.png")
    scale: dict[str, Any] = {"um_per_pixel": 0.1, "to_um_per_pixel": 0.5, "resolution": 32}
    summary = prepare(source, tmp_path / "out", **scale)
    assert [file for file, _ in summary.skipped] == ["a/dot.png"]
    assert any("1 image was skipped:\n  a/dot.png: An image of 2×2 px" in one for one in summary.notes)
    with pytest.raises(InputError, match="dot.png: An image of 2×2 px"):
        prepare(source, tmp_path / "stop", on_bad_image="stop", **scale)
