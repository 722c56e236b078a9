"""A tiny run goes into the box and out again: halves, package, model card, synthesis, fine-tuning, refusal."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import balancer.synth as synth
from balancer.data import SPLITS, PreparedDataset, SyntheticSet
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.files import write_json
from balancer.generators import GeneratorConfig, load_generator, read_source, train, transfer
from balancer.synth import choose_generator, synthesise
from benchmarks import builtin
from classifier.provenance import check_synthetic

pytestmark = pytest.mark.usefixtures("without_cell_checks")  # a generator of a few steps makes no cells
COUNTS = {"train": {"a": 12, "b": 12}, "validation": {"a": 16, "b": 16}, "test": {"a": 3, "b": 3}}
TINY = GeneratorConfig(kimg=0.064, batch_size=16, ticks=2, channel_base=128, channel_max=16, latent=16)


class MeanColours:
    """Features that see colour in a coarse grid, and nothing else."""

    name, sha256, dimension = "mean-colours", "0" * 64, 12

    def __call__(self, images):
        n, r = images.shape[:2]
        return (images.reshape(n, 2, r // 2, 2, r // 2, 3).mean((2, 4)).reshape(n, -1) / 255).astype(
            np.float32
        )


@pytest.fixture(scope="session")
def make_textured(make_dataset):
    """`make_dataset` of images that a perceptual hash can tell apart, which it cannot do with smooth discs."""

    def make(root, counts=COUNTS, resolution=16, seed=0, **options):
        data = make_dataset(root, counts, resolution=resolution, seed=seed, **options)
        rng = np.random.default_rng([seed, 1])
        for split in SPLITS:
            for path, label in zip(data.paths(split), data.labels(split), strict=True):
                colour = 110 + 40 * np.eye(3)[label]
                pixels = colour + rng.normal(0, 30, (resolution, resolution, 1))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        return data

    return make


@pytest.fixture(scope="module")
def packaged(make_textured, tmp_path_factory):
    """A run, and what is shipped of it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("box")
    data = make_textured(root / "data")
    run = train(data, TINY, root / "run")
    gate = builtin.package(run, root / "builtin" / "16", "a test", candidates=12, extractor=MeanColours())
    return data, run, root / "builtin" / "16", gate


@pytest.fixture
def box(packaged, monkeypatch):
    """The shipped folder where the builtin generators are."""
    monkeypatch.setattr(transfer, "BUILTIN", packaged[2].parent)
    monkeypatch.setattr(synth, "BUILTIN", packaged[2].parent)
    return packaged[2]


def test_a_hash_decides_the_half(tmp_path):
    for label in "ab":
        for i in range(40):
            (tmp_path / "src" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), i + 50 * (label == "b"), np.uint8)).save(
                tmp_path / f"src/{label}/{i}.png"
            )
    builtin.main(["half", str(tmp_path / "src"), "--out", str(tmp_path / "half.csv")])
    table = pd.read_csv(tmp_path / "half.csv")
    assert len(table) == 80 and set(table["label"]) == {"a", "b"}
    for name, split in zip(table["file_name"], table["split"], strict=True):
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        assert (split == "train") == (digest[0] in "02468ace")
        assert (split == "validation") == (digest[0] in "13579bdf" and digest[1] in "048c")
    with pytest.raises(SystemExit, match="2"):
        builtin.main(["half", str(tmp_path / "src" / "a"), "--out", str(tmp_path / "no.csv")])


def test_what_is_shipped_is_whole_small_and_close_to_the_run(packaged):
    data, run, shipped, gate = packaged
    assert {path.name for path in shipped.iterdir()} == {
        "generator.safetensors", "discriminator.safetensors", "config.json", "seen.csv", "gate.json", "MODEL_CARD.md"
    }  # fmt: skip
    for name in ("generator", "discriminator"):
        size = (run / "generator.safetensors").stat().st_size if name == "generator" else np.inf
        assert (shipped / f"{name}.safetensors").stat().st_size < 0.8 * size
    first, second = load_generator(run), load_generator(shipped)
    assert {p.dtype for p in second.network.parameters()} == {torch.float32}
    difference = first.generate("a", [1, 2, 3]).astype(int) - second.generate("a", [1, 2, 3])
    assert np.abs(difference).max() <= 3
    seen = pd.read_csv(shipped / "seen.csv")
    assert list(seen.columns) == ["source_sha256", "label", "file_name", "perceptual_hash"]
    assert set(seen["source_sha256"]) == set(data.tables["train"]["source_sha256"])
    assert json.loads((shipped / "gate.json").read_text()) == gate and set(gate["classes"]) == {"a", "b"}
    written = "".join((shipped / name).read_text() for name in ("config.json", "MODEL_CARD.md"))
    assert str(data.root) not in written and str(data.root) not in json.dumps(second.info)


def test_the_card_has_the_figures_and_the_command(packaged):
    _, _, shipped, gate = packaged
    card = (shipped / "MODEL_CARD.md").read_text()
    for label, judged in gate["classes"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {label} | 12 |"))
        assert f"{judged['metrics']['kid']['value']:.4f}" in row and judged["verdict"] in row
        assert f"{judged['metrics']['kid']['real_vs_real']:.4f}" in row
    assert "--kimg 0.064 --" in card and "--ticks 2" in card and "--seed" not in card
    assert "On a test; seed 0" in card and "CC BY 4.0" in card and "not for diagnosis" in card


def test_what_is_shipped_can_be_judged_again(packaged, make_textured, tmp_path):
    """Nothing but the judgement changes, in gate.json and in the card."""
    folder = tmp_path / "box"
    shutil.copytree(packaged[2], folder)
    card, gate = (folder / "MODEL_CARD.md").read_text(), (folder / "gate.json").read_text()
    data = packaged[0]
    builtin.judge_again(folder, data, MeanColours())
    assert (folder / "MODEL_CARD.md").read_text() == card and (folder / "gate.json").read_text() == gate
    other = make_textured(tmp_path / "other", seed=5)
    builtin.judge_again(folder, other, MeanColours())
    changed = (folder / "MODEL_CARD.md").read_text()
    assert changed != card and (folder / "gate.json").read_text() != gate
    assert [a for a, b in zip(card.split("## "), changed.split("## "), strict=True) if a != b] == [
        part for part in card.split("## ") if part.startswith("How good")
    ]
    (folder / "MODEL_CARD.md").write_text("# A card\n")
    with pytest.raises(InputError, match="no section 'How good its images are'"):
        builtin.judge_again(folder, data, MeanColours())


def test_images_that_the_run_saw_do_not_judge_it(packaged, make_textured, tmp_path):
    data, run, _, _ = packaged
    both = replace(data, tables=data.tables | {"validation": data.tables["train"]})
    (tmp_path / "validation").symlink_to(data.root / "train")
    with pytest.raises(InputError, match="has seen 24 images of .*validation"):
        builtin.package(
            run, tmp_path / "out", "x", unseen=replace(both, root=tmp_path), extractor=MeanColours()
        )
    assert not (tmp_path / "out").exists()


def test_synthesis_without_any_run_takes_the_builtin(box, make_textured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = make_textured(tmp_path / "mine", seed=7)
    with pytest.raises(
        InputError, match="no generator run under ./runs; the builtin generator .* give --data"
    ):
        choose_generator(None, None, ["a"])
    run, chosen = choose_generator(None, data.root, ["a"])
    assert run == box and chosen.fingerprint == data.fingerprint
    assert choose_generator(box.parent / "elsewhere", data.root, ["a"])[0] == box.parent / "elsewhere"
    made = synthesise(chosen, run, ["a"], 4, tmp_path / "syn", extractor=MeanColours(), allow_unverified=True)
    images = SyntheticSet.load(made.out)
    assert images.data_fingerprint == data.fingerprint and len(images.table) == 4
    assert len(images.seen.files) == 24 and len(images.seen.pictures) == 48
    check_synthetic(data, [images])


def test_the_builtin_says_what_it_cannot_do(box, make_textured, tmp_path):
    def synthesise_from(data, label="a"):
        return synthesise(data, box, [label], 4, tmp_path / "syn", extractor=MeanColours())

    other = make_textured(tmp_path / "other", {"train": {"a": 4, "blast": 4}}, seed=7)
    with pytest.raises(
        InputError, match=r"knows no class 'blast', only a, b; .*balancer train --init builtin"
    ):
        synthesise_from(other, "blast")
    with pytest.raises(InputError, match="no class 'b'"):
        synthesise_from(other, "b")
    with pytest.raises(InputError, match="16 px, and .* 32 px; prepare .*--resolution 16"):
        synthesise_from(make_textured(tmp_path / "large", resolution=32))
    with pytest.raises(InputError, match="makes real cells, and .* rendered ones"):
        synthesise_from(make_textured(tmp_path / "rendered", source="rendered"))
    assert not (tmp_path / "syn").exists()


def test_what_the_builtin_saw_does_not_judge_its_images(packaged, box, make_textured, tmp_path, monkeypatch):
    """Also as other files, and after fine-tuning."""
    original = packaged[0]
    data = make_textured(tmp_path / "mine", seed=7)
    with Image.open(original.paths("train")[0]) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(data.paths("test")[2])
    notes = []
    monkeypatch.setattr(synth, "note", notes.append)
    options = {"extractor": MeanColours(), "allow_unverified": True}
    direct = synthesise(data, box, ["a"], 4, tmp_path / "direct", **options)
    assert any("(1 of test)" in sentence for sentence in notes)

    tuned = train(data, replace(TINY, kimg=0.016, ticks=1), tmp_path / "run", init=read_source("builtin", 16))
    seen = Seen.read(tuned / "seen.csv")
    assert len(seen.files) == 48 and len(seen.pictures) == 48
    indirect = synthesise(data, tuned, ["a"], 4, tmp_path / "indirect", **options)
    name = data.tables["test"]["file_name"][2]
    for made in (direct, indirect):
        with pytest.raises(
            InputError, match=rf"trained on 1 images of .*test \({name}\).*prepare the data without"
        ):
            check_synthetic(data, [SyntheticSet.load(made.out)])


def test_a_past_that_nobody_knows_is_kept(packaged, make_textured, tmp_path):
    data, run, _, _ = packaged
    source = replace(read_source(run, 16), seen_known=False)
    tuned = train(data, replace(TINY, kimg=0.016, ticks=1), tmp_path / "run", init=source)
    options = {"extractor": MeanColours(), "allow_unverified": True}
    made = SyntheticSet.load(synthesise(data, tuned, ["a"], 4, tmp_path / "syn", **options).out)
    assert not made.seen_known
    info = made.info | {"generator": made.info["generator"] | {"init": None}}
    write_json(made.root / "dataset.json", info)
    assert SyntheticSet.load(made.root).seen_known
    assert PreparedDataset.load(data.root).fingerprint == made.data_fingerprint
