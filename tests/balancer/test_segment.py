"""Masks and morphology of image files, as `balancer segment` writes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from balancer import smear
from balancer.data import expand_paths
from balancer.data.decode import image_size
from balancer.errors import InputError
from balancer.imaging.segmentation import segment
from balancer.segment import _batches, segment_files
from cli import balancer


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images of two classes, a grey one, a 16-bit one, one of one colour, and a text file named .png."""
    folder = tmp_path_factory.mktemp("images")
    pixels, _ = smear.render(smear.draw_cells({"neutrophil": 2, "CLL": 1}, seed=1), 96)
    (folder / "sub").mkdir()
    Image.fromarray(pixels[0]).save(folder / "a.png")
    Image.fromarray(pixels[1]).save(folder / "sub/a.bmp")
    Image.fromarray(pixels[2]).convert("L").resize((120, 100)).save(folder / "grey.jpg")
    Image.fromarray(pixels[0].mean(-1).astype(np.uint16) * 257).save(folder / "deep.tif")
    Image.fromarray(np.full((1, 1, 3), 9, np.uint8)).save(folder / "dot.png")
    (folder / "broken.png").write_text("no image")
    return folder


def test_the_command_writes_masks_and_morphology(images, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        balancer, ["segment", str(images), "--out", str(out), "--um-per-pixel", "0.25"]
    )
    assert result.exit_code == 0, result.output + result.stderr
    assert "5 images, 1 with no cell" in result.stdout
    assert "broken.png" in result.stderr
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        ".hemabalance.json",
        "a.png",
        "deep.png",
        "dot.png",
        "grey.png",
        "morphology.csv",
        "sub/a.png",
    ]
    table = pd.read_csv(out / "morphology.csv", keep_default_na=False).set_index("mask")
    assert table.loc["dot.png", "flag"] == "no cell"
    assert table.loc["sub/a.png", "file_name"] == str(images / "sub/a.bmp")
    assert float(table.loc["a.png", "cell_area_um2"]) > 20
    with Image.open(out / "grey.png") as mask:
        assert mask.mode == "L"
        assert mask.size == (120, 100)
    with Image.open(out / "a.png") as mask, Image.open(images / "a.png") as image:
        assert (np.asarray(mask) == segment(np.asarray(image)).mask).all()


def test_a_file_and_a_glob(images, tmp_path):
    for pattern in (images / "a.png", images / "a*.png"):
        out = tmp_path / pattern.stem.replace("*", "star")
        assert CliRunner().invoke(balancer, ["segment", str(pattern), "--out", str(out)]).exit_code == 0
        assert (out / "a.png").is_file()
        assert "cell_area_px2" in pd.read_csv(out / "morphology.csv")


def test_what_is_refused(images, tmp_path):
    with pytest.raises(InputError, match="The file cannot be read as an image"):
        segment_files([images / "broken.png"], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.bmp")
    with pytest.raises(InputError, match="same mask a.png"):
        segment_files([tmp_path / "a.png", tmp_path / "a.bmp"], tmp_path / "both")
    segment_files([images / "a.png"], tmp_path / "once")
    with pytest.raises(InputError, match="exists already"):
        segment_files([images / "a.png"], tmp_path / "once")
    segment_files([images / "a.png"], tmp_path / "once", overwrite=True)
    with pytest.raises(InputError, match="which is read here"):
        segment_files([images / "a.png"], images, overwrite=True)
    result = CliRunner().invoke(
        balancer, ["segment", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 2
    assert "names no image" in result.stderr
    result = CliRunner().invoke(balancer, ["segment", str(images), "--um-per-pixel", "0"])
    assert result.exit_code == 2


def test_processes_find_what_one_does(images, tmp_path, monkeypatch):
    segment_files(expand_paths([images]), tmp_path / "one")
    monkeypatch.setattr("balancer.segment._WORTH_PROCESSES", 1)
    monkeypatch.setattr("balancer.segment._BATCH", 2)
    monkeypatch.setattr("balancer.segment.cpu_count", lambda: 2)
    segment_files(expand_paths([images]), tmp_path / "two")
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_large_images_are_not_held_together(images, monkeypatch):
    files = [(path, path.name) for path in expand_paths([images])]
    assert [len(batch) for batch in _batches(files)] == [6]
    monkeypatch.setattr("balancer.segment._BATCH_PIXELS", 96 * 96 + 1)
    batches = list(_batches(files))
    assert [file for batch in batches for file in batch] == files
    assert max(len([path for path, _ in batch if image_size(path) == (96, 96)]) for batch in batches) == 1


def test_counts_of_one_read_well(images, tmp_path):
    result = CliRunner().invoke(
        balancer, ["segment", str(images / "dot.png"), "--out", str(tmp_path / "out")]
    )
    assert "(1 image, 1 with no cell)" in result.stdout


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "1e-300", "1e300"])
def test_an_impossible_scale_is_refused(images, tmp_path, scale):
    arguments = ["segment", str(images / "a.png"), "--out", str(tmp_path / "out"), "--um-per-pixel", scale]
    result = CliRunner().invoke(balancer, arguments)
    assert result.exit_code == 2, result.output
    assert "--um-per-pixel" in result.stderr
    assert not (tmp_path / "out").exists()
