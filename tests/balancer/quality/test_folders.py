"""`balancer gate` on folders, through the command line: what it writes, and what it says to bad input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from balancer.quality import features
from balancer.quality.features import image_sha256
from cli import balancer

COLOURS = {"blast": (150, 90, 170), "monocyte": (90, 110, 190)}


def discs(label: str, n: int, seed: int, resolution: int = 32) -> np.ndarray:
    """Cells of a class as coloured discs with coarse grains, no two alike; uint8 N×R×R×3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:resolution, :resolution] / resolution - 0.5
    radius = rng.normal(0.28, 0.04, (n, 1, 1, 1))
    inside = np.hypot(x, y)[None, :, :, None] < radius
    colour = np.array(COLOURS[label]) + rng.normal(0, 12, (n, 1, 1, 3))
    grains = rng.normal(0, 40, (n, 8, 8, 1)).repeat(resolution // 8, 1).repeat(resolution // 8, 2)
    return np.where(inside, colour + grains, 225 + grains / 4).clip(0, 255).astype(np.uint8)


def write(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `real/` and `synthetic/` of two classes, and the weights of a small network."""
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for label in COLOURS:
        write(tmp_path / "real" / label, discs(label, 30, seed=1))
        write(tmp_path / "synthetic" / label, discs(label, 20, seed=2))
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    return tmp_path


@pytest.fixture()
def gate(place: Path) -> Callable[..., Result]:
    """`balancer gate` of the two folders in the small network's features, with further arguments; checks the exit code."""

    def call(*arguments: object, code: int = 0, judged_in: str = "timm:test_resnet:w.safetensors") -> Result:
        command = ["gate", "--real", "real", "--synthetic", "synthetic", "--features", judged_in]
        result = CliRunner().invoke(balancer, [*command, *map(str, arguments)])
        assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
        return result

    return call


def test_a_page_and_its_numbers(gate: Callable[..., Result], place: Path) -> None:
    copied = np.stack([np.asarray(Image.open(place / f"real/blast/{i:03d}.png"))[:, ::-1] for i in range(5)])
    write(place / "synthetic" / "blast", copied)
    printed = gate("--out", "judged", "--json").stdout
    document = json.loads((place / "judged" / "gate.json").read_text())
    assert json.loads(printed) == document
    assert document["features"]["name"] == "timm-test_resnet" and len(document["features"]["sha256"]) == 64
    assert document["classes"]["blast"]["verdict"] == "fail"
    page = (place / "judged" / "gate.html").read_text()
    assert "which may be mirrored or turned" in page and "near-copy of train image" in page
    again = gate("--out", "judged", code=2)
    assert "judged exists already" in again.stderr
    assert "judged/gate.html" in gate("--out", "judged", "--overwrite").stdout


def test_nothing_of_the_input_is_replaced(gate: Callable[..., Result], place: Path) -> None:
    for out, sentence in (("real", "which is read here"), (".", "which is read here")):
        assert sentence in gate("--out", out, "--overwrite", code=2).stderr
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("keep")
    assert "is no output of hemabalance" in gate("--out", "mine", "--overwrite", code=2).stderr
    assert "give --out too" in gate("--overwrite", code=2).stderr
    assert not (place / "judged").exists() and (place / "mine" / "notes.txt").read_text() == "keep"


def test_strict_exits_3_and_still_writes(gate: Callable[..., Result], place: Path) -> None:
    for i in range(20):
        (place / f"synthetic/blast/{i:03d}.png").write_bytes((place / f"real/blast/{i:03d}.png").read_bytes())
    gate("--out", "judged", "--strict", code=3)
    assert (place / "judged" / "gate.html").is_file()


def test_classes_on_one_side_only(gate: Callable[..., Result], place: Path) -> None:
    (place / "synthetic" / "monocyte").rename(place / "synthetic" / "monocytes")
    found = gate(code=2)
    assert "real has no class 'monocytes'" in found.stderr and "Did you mean 'monocyte'?" in found.stderr
    (place / "synthetic" / "monocytes").rename(place / "elsewhere")
    found = gate("--json")
    assert "No synthetic images of monocyte" in found.stderr
    assert set(json.loads(found.stdout)["classes"]) == {"blast"}


def test_an_empty_class(gate: Callable[..., Result], place: Path) -> None:
    for image in (place / "synthetic" / "monocyte").iterdir():
        image.unlink()
    assert "No synthetic images of monocyte" in gate().stderr
    write(place / "synthetic" / "monocyte", discs("monocyte", 20, seed=2))
    for image in (place / "real" / "monocyte").iterdir():
        image.unlink()
    found = json.loads(gate("--json").stdout)["classes"]["monocyte"]
    assert found["verdict"] == "insufficient-data" and "0 real images" in " ".join(found["reasons"])
    for image in (place / "synthetic").rglob("*.png"):
        image.unlink()
    assert "synthetic has no folders with images" in gate(code=2).stderr


def test_sizes_that_differ(gate: Callable[..., Result], place: Path) -> None:
    write(place / "synthetic" / "blast", discs("blast", 20, seed=2, resolution=24))
    found = gate(code=2).stderr
    assert "24 px" in found and "32 px" in found and "one resolution" in found
    write(place / "synthetic" / "blast", discs("blast", 20, seed=2))
    Image.new("RGB", (32, 40)).save(place / "synthetic" / "blast" / "007.png")
    found = gate(code=2).stderr
    assert "007.png is 32×40 where 32×32" in found


def test_an_image_that_cannot_be_read(gate: Callable[..., Result], place: Path) -> None:
    for name in ("000.png", "007.png"):  # the first tells the size
        path = place / "synthetic" / "blast" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if name != "000.png" else b"no image")
        found = gate("--out", "judged", code=2).stderr
        assert f"{name} cannot be read as an image" in found and not (place / "judged").exists()
        path.write_bytes(whole)


def test_weights_of_another_hash(gate: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "WEIGHTS_SHA256", "0" * 64)
    features._inception.cache_clear()
    found = gate(code=2, judged_in="inception").stderr
    assert "is not the expected Inception file" in found and "--force-reinstall" in found


def test_cached_features_of_another_version(
    gate: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gate("--json")
    assert "another version" not in first.stderr
    monkeypatch.setattr(features, "CODE_VERSION", features.CODE_VERSION + 1)
    second = gate("--json")
    assert "another version" in second.stderr and "they are not used" in second.stderr.replace("\n", " ")
    assert second.stdout == first.stdout
    assert "another version" not in gate("--json").stderr


def test_features_of_a_model_of_ones_own(gate: Callable[..., Result], place: Path) -> None:
    paths = sorted(place.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    # The example of docs/gate.md with another model: colours in a coarse grid.
    vectors = pixels.reshape(len(pixels), 2, 16, 2, 16, 3).mean((2, 4)).reshape(len(pixels), -1) / 255
    hashes = np.array([image_sha256(image) for image in pixels])
    own = {"features": vectors, "model": "colours", "model_sha256": "c" * 64}
    np.savez(place / "own.npz", image_sha256=hashes, **own)
    document = json.loads(gate("--json", judged_in="own.npz").stdout)
    assert document["features"] == {
        "name": "own-colours",
        "sha256": features.file_sha256(place / "own.npz"),
    }
    assert document["classes"]["blast"]["metrics"]["kid"]["value"] is not None
    np.savez(place / "own.npz", image_sha256=hashes[3:], **(own | {"features": vectors[3:]}))
    assert "own.npz has no features of 3 of" in gate(code=2, judged_in="own.npz").stderr


def test_files_that_programs_leave_are_passed_over(gate: Callable[..., Result], place: Path) -> None:
    for name in ("._000.png", ".ipynb_checkpoints/000-checkpoint.png"):
        left = place / "synthetic" / "blast" / name
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"no image")
    (place / "synthetic" / "blast" / "folder.png").mkdir()
    found = json.loads(gate("--json").stdout)
    assert found["classes"]["blast"]["n_candidates"] == 20


def test_a_name_that_is_no_text(gate: Callable[..., Result], place: Path) -> None:
    image = place / "synthetic" / "blast" / "000.png"
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/\xff.png"))
    assert r"\xff.png is no text in UTF-8; rename the file" in gate(code=2).stderr


def test_images_are_read_as_prepare_reads_them(gate: Callable[..., Result], place: Path) -> None:
    blast = place / "synthetic" / "blast"
    pixels = np.asarray(Image.open(blast / "000.png"))
    whole = json.loads(gate("--json").stdout)
    alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(blast / "000.png")
    assert json.loads(gate("--json").stdout) == whole
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(blast / "000.png")
    assert "000.png has more than 8 bits a channel" in gate(code=2).stderr


def test_blank_images_are_rejected_and_kid_is_told_in_digits_that_count(
    gate: Callable[..., Result], place: Path
) -> None:
    write(place / "synthetic" / "blast", np.zeros((15, 32, 32, 3), dtype=np.uint8))
    document = json.loads(gate("--out", "judged", "--json").stdout)
    assert document["classes"]["blast"]["metrics"]["acceptance"]["value"] == 0.25
    assert any("blank (15)" in reason for reason in document["classes"]["blast"]["reasons"])
    reasons = " ".join(document["classes"]["monocyte"]["reasons"])
    margin = document["classes"]["monocyte"]["metrics"]["kid"]["margin"]
    assert margin < 1e-4 and "the margin 0.0000," not in reasons
