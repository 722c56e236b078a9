"""Generators that are told attributes: what they are told, that it reaches the image, and what can be asked of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from balancer import smear
from balancer.data import PreparedDataset, prepare
from balancer.data.attributes import ATTRIBUTES, attribute_indices, attribute_values, multi_hot
from balancer.errors import InputError
from balancer.files import read_json, write_json
from balancer.generators import GeneratorConfig, load_generator, read_source, registry, train
from balancer.generators.checkpoints import load_tensors, save_tensors
from balancer.generators.combinations import Combinations, withhold
from balancer.generators.training import Batches, plan
from balancer.generators.transfer import initialise

CONFIG = GeneratorConfig(
    condition="attributes", kimg=0.064, batch_size=8, ticks=2, channel_base=128, channel_max=16, latent=16
)
CPU = torch.device("cpu")


def indices(*rows):
    return attribute_indices(pd.DataFrame(rows), "test")


BIG, SMALL = {"cell_size": "big", "granularity": "yes"}, {"cell_size": "small", "granularity": "no"}
TABLE = pd.DataFrame([{"label": "a", **BIG}] * 3 + [{"label": "a", **SMALL}] + [{"label": "b", **SMALL}] * 4)


@pytest.fixture
def combinations():
    return Combinations.of(TABLE, "metadata.csv")


def test_combinations_are_counted_by_class_and_survive_json(combinations):
    assert [attribute_values(row) for row in combinations.indices] == [BIG, SMALL]
    assert {label: n.tolist() for label, n in combinations.counts.items()} == {"a": [3, 1], "b": [0, 4]}
    again = Combinations.from_json(json.loads(json.dumps(combinations.to_json())), "x")
    assert np.array_equal(again.indices, combinations.indices)
    assert {k: n.tolist() for k, n in again.counts.items()} == {"a": [3, 1], "b": [0, 4]}


def test_what_is_not_asked_for_comes_from_what_agrees_most(combinations):
    seeds = list(range(400))

    def drawn(values, label=None):
        found = pd.DataFrame([attribute_values(row) for row in combinations.draw(values, seeds, label)])
        return found.value_counts(normalize=True).to_dict()

    assert drawn({}, "b") == {("small", "no"): 1}
    assert drawn({}, "a")[("big", "yes")] == pytest.approx(3 / 4, abs=0.06)
    assert drawn({})[("big", "yes")] == pytest.approx(3 / 8, abs=0.06)
    assert drawn({"cell_size": "big"}) == {("big", "yes"): 1}
    assert drawn({"cell_size": "big"}, "b") == {("big", "no"): 1}  # none of b agrees: that no image has
    assert drawn({"cell_size": "big", "granularity": "no"}) == {("big", "nil", "nil", "no"): 1}
    one = combinations.draw({}, [7], "a")
    assert np.array_equal(combinations.draw({}, [1, 2, 7], "a")[2:], one)
    with pytest.raises(InputError, match="no class 'c'; known: a, b"):
        combinations.draw({}, seeds, "c")
    with pytest.raises(InputError, match="no value of cell_size 'huge'"):
        combinations.draw({"cell_size": "huge"}, seeds)


def test_granules_that_are_asked_for_are_granules_in_all_that_is_told():
    table = pd.DataFrame(
        {"label": ["a"], "granule_type": ["nil"], "granule_colour": ["nil"], "granularity": ["no"]}
    )
    without = Combinations.of(table, "x.csv")
    (told,) = without.draw({"granule_colour": "red"}, [0], "a")
    assert attribute_values(told) == {"granule_colour": "red", "granularity": "yes"}  # no type is told
    (told,) = without.draw({"granularity": "yes"}, [0])
    assert attribute_values(told) == {"granularity": "yes"}
    with pytest.raises(InputError, match="granule_colour=red, granularity=no contradict each other"):
        without.draw({"granule_colour": "red", "granularity": "no"}, [0])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda value: None, "is damaged"),
        (lambda value: value | {"combinations": {"a": {"0,1": 2}}}, "is damaged"),
        (lambda value: value | {"combinations": {"a": {",".join("9" * 11): 2}}}, "are no combinations"),
        (lambda value: value | {"vocabulary": {"cell_size": ["big"]}}, "another vocabulary"),
    ],
)
def test_combinations_that_cannot_be_are_a_sentence(combinations, damage, sentence):
    with pytest.raises(InputError, match=f"run/generator.*{sentence}"):
        Combinations.from_json(damage(combinations.to_json()), "run/generator.safetensors")


def test_half_of_the_known_attributes_are_withheld_of_one_image_in_ten():
    rng = np.random.default_rng(0)
    whole = np.zeros((5000, 11), dtype=np.int64)
    whole[::2, 6:] = -1
    left = withhold(whole, rng)
    known = (left >= 0).sum(1)
    assert set(known[::2]) == {3, 6} and set(known[1::2]) == {6, 11}
    assert (known < (whole >= 0).sum(1)).mean() == pytest.approx(0.1, abs=0.02)
    assert (left[1::2] < 0).mean(0) == pytest.approx(0.1 * 5 / 11, abs=0.02)  # each as often
    alone = np.where(np.arange(11) == 3, 0, np.full((50, 11), -1))
    assert np.array_equal(withhold(alone, rng), alone)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A prepared set of rendered cells, whose metadata have the attributes."""
    place = tmp_path_factory.mktemp("cells")
    smear.write_source(place / "source", {"neutrophil": 50, "CLL": 50, "lymphocyte": 30}, 16, seed=0)
    prepare(place / "source", place / "data", resolution=16)
    return PreparedDataset.load(place / "data")


@pytest.fixture(scope="module", params=["stylegan2-ada", "projected"])
def config(request):
    return replace(CONFIG, generator=request.param)


@pytest.fixture(scope="module")
def run(cells, config, tmp_path_factory):
    return train(cells, config, tmp_path_factory.mktemp("runs") / "run")


def test_batches_draw_by_class_and_tell_the_attributes_of_the_images(cells):
    images, labels = cells.images("train"), cells.labels("train")
    of_images = attribute_indices(cells.tables["train"], "x")
    config = replace(CONFIG, batch_size=1200, kimg=9, symmetries=False)
    real, told, fake = Batches(images, labels, config, attributes=of_images)[0]
    assert told.shape == fake.shape == (1200, 31) and told.dtype == fake.dtype == torch.float32
    assert torch.equal(real, Batches(images, labels, config)[0][0])
    by_pixels = {x.tobytes(): k for k, x in enumerate(images[:])}
    shown = [
        by_pixels[x.tobytes()]
        for x in ((real + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    ]
    vectors = torch.from_numpy(multi_hot(of_images))
    assert np.bincount(labels[shown]) == pytest.approx(400, abs=80)
    assert (told <= vectors[shown]).all()
    assert (told == vectors[shown]).all(1).float().mean() == pytest.approx(0.9, abs=0.05)
    own = {tuple(vector) for vector in vectors.tolist()}
    assert np.mean([tuple(vector) in own for vector in fake.tolist()]) == pytest.approx(0.9, abs=0.05)
    halves = [Batches(images, labels, config, process, 2, attributes=of_images)[0][2] for process in range(2)]
    assert torch.equal(torch.cat(halves), fake)


def test_a_run_says_what_it_was_told(run, cells):
    config, generator = read_json(run / "config.json"), load_generator(run)
    assert config["training"]["condition"] == "attributes"
    assert config["attributes"] == generator.info["attributes"]
    assert config["attributes"]["vocabulary"] == {name: list(values) for name, values in ATTRIBUTES.items()}
    counts = {label: sum(of.values()) for label, of in config["attributes"]["combinations"].items()}
    assert counts == cells.counts("train")
    assert generator.network.c_dim == 31 and generator.classes == cells.classes


def test_classes_and_attributes_can_be_asked_for_by_seed(run):
    generator = load_generator(run)
    seeds = [5, 6, 7]
    images = generator.generate("CLL", seeds)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    asked = {"cell_size": "big", "nucleus_shape": "segmented-bilobed", "cytoplasm_vacuole": "yes"}
    made = generator.generate_attributes(asked, seeds)
    assert np.array_equal(made, generator.generate_attributes(asked, seeds))
    assert not np.array_equal(made[0], made[1])
    assert np.abs(generator.generate_attributes(asked, [7], label=None)[0].astype(int) - made[2]).max() <= 1
    other = generator.generate_attributes(asked | {"cell_size": "small"}, seeds)
    assert not np.array_equal(made, other)
    assert np.array_equal(generator.generate_attributes({}, seeds, label="CLL"), images)
    with pytest.raises(InputError, match="no attribute 'size'"):
        generator.generate_attributes({"size": "big"}, seeds)


def test_a_single_attribute_tells_in_both_networks(cells, config, tmp_path):
    planned = plan(cells, config, tmp_path / "run")
    adversaries = planned.adversaries
    vectors = torch.from_numpy(multi_hot(attribute_indices(cells.tables["train"].head(8), "x")))
    other = vectors.clone()
    other[:, :2] = 1 - other[:, :2]  # of the other size
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(8, 16, generator=rng)
    one, two = (
        registry.family(config.generator).sample(adversaries.G_ema, z, v, 1.0) for v in (vectors, other)
    )
    assert (one - two).abs().flatten(1).amax(1).min() > 1e-3
    real = planned.batches[0][0]
    seen = adversaries.pyramid(real) if config.generator == "projected" else real
    adversaries.D(seen, vectors)  # the projected discriminator takes its scale from the first that it sees
    first, again, changed = (adversaries.D(seen, v).detach() for v in (vectors, vectors, other))
    assert torch.allclose(first, again, atol=0.3 * (first - changed).abs().max().item())
    assert (first - changed).abs().min() > 0


def test_a_resumed_run_equals_an_uninterrupted_one(run, cells, config, tmp_path, train_until):
    train_until(6, cells, config, tmp_path / "run")
    train(cells, config, tmp_path / "run", resume=True)
    whole, resumed = (load_tensors(path / "state.safetensors")[0] for path in (run, tmp_path / "run"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_run_is_not_resumed_with_other_attributes_or_another_condition(run, cells, config):
    table = cells.tables["train"].assign(cell_size="big")
    changed = replace(cells, tables=cells.tables | {"train": table})
    with pytest.raises(InputError, match=r"The attributes in .*train/metadata.csv are not those"):
        plan(changed, config, run, resume=True)
    with pytest.raises(InputError, match="begun with another condition"):
        plan(cells, replace(config, condition="class"), run, resume=True)


def test_a_run_from_before_there_were_conditions_goes_on(cells, tmp_path):
    config = replace(CONFIG, condition="class")
    old = train(cells, config, tmp_path / "run")
    info = read_json(old / "config.json")
    assert "attributes" not in info and info["training"].pop("condition") == "class"
    write_json(old / "config.json", info)
    for name in ("state", "generator"):
        tensors, about = load_tensors(old / f"{name}.safetensors")
        del about["config"]["condition"]
        save_tensors(old / f"{name}.safetensors", tensors, about)
    assert plan(cells, config, old, resume=True).start == 8
    generator = load_generator(old)
    assert generator.combinations is None and read_source(old, 16).condition == "class"
    with pytest.raises(InputError, match=r"was trained with --condition class.*--condition attributes"):
        generator.generate_attributes({"cell_size": "big"}, [1])


def test_images_without_any_attribute_are_left_out(cells, tmp_path, monkeypatch):
    table = cells.tables["train"].copy()
    table.loc[table["label"] == "lymphocyte", list(ATTRIBUTES)] = None
    partly = table.index[table["label"] == "CLL"]
    table.loc[partly, list(ATTRIBUTES)[1:]] = None
    notes = []
    monkeypatch.setattr("balancer.generators.training.note", notes.append)
    run = train(replace(cells, tables=cells.tables | {"train": table}), CONFIG, tmp_path / "run")
    missing = (table["label"] == "lymphocyte").sum()
    assert f"Train images without any attribute are left out: {missing} of lymphocyte." in notes
    assert set(pd.read_csv(run / "seen.csv")["label"]) == {"CLL", "neutrophil"}
    generator = load_generator(run)
    assert generator.info["known"] == ["CLL", "neutrophil"]
    assert generator.generate("CLL", [1]).shape == (1, 16, 16, 3)
    nothing = replace(cells, tables=cells.tables | {"train": table.drop(columns=list(ATTRIBUTES))})
    with pytest.raises(InputError, match=r"no attribute of any train image .*--condition class"):
        train(nothing, CONFIG, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["r3gan", "acdb"])
def test_families_that_know_classes_alone_say_so(cells, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} knows classes alone.*stylegan2-ada or projected"):
        plan(cells, replace(CONFIG, generator=name), tmp_path / "run")
    with pytest.raises(InputError, match="no condition 'attribute'; .*Did you mean 'attributes'"):
        replace(CONFIG, condition="attribute")


def test_a_damaged_generator_is_a_sentence(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    tensors, about = load_tensors(run / "generator.safetensors")
    save_tensors(tmp_path / "run/generator.safetensors", tensors, about | {"attributes": None})
    with pytest.raises(InputError, match=r"generator.safetensors is damaged \(its attributes"):
        load_generator(tmp_path / "run")


def test_weights_go_from_classes_to_attributes_and_back_but_for_what_tells_them_apart(
    run, cells, config, tmp_path
):
    by_class = replace(config, condition="class")
    family = registry.family(config.generator)

    def fresh(wanted):
        torch.manual_seed(1)
        return family.adversaries(family.resolve(wanted, 16), len(cells.classes), 16, CPU)

    classes = read_source(train(cells, by_class, tmp_path / "classes"), 16)
    attributes = read_source(run, 16)
    for source, wanted, kinds in (
        (classes, config, "The source is told classes: what tells attributes apart is fresh."),
        (attributes, by_class, "The source is told attributes: what tells classes apart is fresh."),
        (attributes, config, "The source is told the same attributes."),
    ):
        adversaries, before = fresh(wanted), fresh(wanted)
        assert initialise(adversaries, source, cells.classes).endswith(kinds)
        for module, origin in (("G", "G_ema"), ("D", "D")):
            found, untouched = (a.modules[module].state_dict() for a in (adversaries, before))
            differing = {key for key, x in source.weights[origin].items() if not torch.equal(found[key], x)}
            of_each = {key for key in found if key.endswith(("embed.weight", "embedding.weight"))}
            assert differing == (set() if source.condition == wanted.condition else of_each)
            assert all(torch.equal(found[key], untouched[key]) for key in differing)
    tuned = train(cells, config, tmp_path / "tuned", init=classes)
    assert load_generator(tuned).network.c_dim == 31


YES_NO = {True: "yes", False: "no"}


@pytest.fixture(scope="module")
def painted(make_dataset, tmp_path_factory):
    """Pictures whose vacuole makes them red and whose granules make them green; no class has both."""
    root = tmp_path_factory.mktemp("painted") / "data"
    data = make_dataset(root, {"train": {"a": 40, "b": 40, "c": 40}}, 16)
    of_class = {"a": (True, False), "b": (False, True), "c": (False, False)}
    rng, table = np.random.default_rng(0), pd.read_csv(root / "train/metadata.csv")
    for name, label in zip(table["file_name"], table["label"], strict=True):
        red, green = of_class[label]
        colour = np.array([200 if red else 60, 200 if green else 60, 60]) + rng.normal(0, 10, 3)
        pixels = colour + rng.normal(0, 5, (16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "train" / name)
    table["cytoplasm_vacuole"] = [YES_NO[of_class[label][0]] for label in table["label"]]
    table["granularity"] = [YES_NO[of_class[label][1]] for label in table["label"]]
    table.to_csv(root / "train/metadata.csv", index=False)
    return PreparedDataset.load(data.root)


@pytest.fixture(scope="module")
def painter(painted, tmp_path_factory):
    config = replace(CONFIG, kimg=6.4, batch_size=16, learning_rate=0.005)
    generator = load_generator(train(painted, config, tmp_path_factory.mktemp("painter") / "run"))

    def means(red, green):
        asked = {"cytoplasm_vacuole": YES_NO[red], "granularity": YES_NO[green]}
        return generator.generate_attributes(asked, list(range(64))).mean((0, 1, 2))

    return SimpleNamespace(generator=generator, means=means)


def test_attributes_decide_what_the_images_show(painter):
    red, green, neither = painter.means(True, False), painter.means(False, True), painter.means(False, False)
    assert red[0] - max(green[0], neither[0]) > 60
    assert green[1] - max(red[1], neither[1]) > 60
    of_class = painter.generator.generate("a", list(range(64))).mean((0, 1, 2))
    assert of_class == pytest.approx(red, abs=10)


def test_a_combination_that_no_class_has_can_be_asked_for(painter):
    """It shows one of both, or both faintly: the discriminator knows no picture that has the two."""
    both, neither = painter.means(True, True), painter.means(False, False)
    assert (both - neither)[:2].max() > 40


def test_a_part_of_the_attributes_can_be_asked_for(painter):
    asked = painter.generator.generate_attributes({"cytoplasm_vacuole": "yes"}, list(range(64)))
    assert asked.mean((0, 1, 2)) == pytest.approx(painter.means(True, False), abs=10)
