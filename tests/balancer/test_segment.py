"""Masks and morphology of image files, as `balancer segment` writes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from balancer import smear
from balancer.errors import InputError
from balancer.imaging.segmentation import segment
from balancer.segment import segment_files
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
    with pytest.raises(InputError, match="None of the 1 files"):
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
