"""What has the same meaning is copied, whatever the classes and the resolution; the rest is refused or fresh."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from balancer.errors import InputError
from balancer.generators import GeneratorConfig, registry, transfer
from balancer.generators.checkpoints import collect_state, load_tensors, save_tensors
from balancer.generators.r3gan import ops
from balancer.generators.transfer import builtin, initialise, read_source, seen_with
from vendor.stylegan2_ada.ops import upsample2d

CPU = torch.device("cpu")
CLASSES = ["a", "b", "c", "d"]
SMALL = GeneratorConfig(channel_base=128, channel_max=16, latent=16)
HASHES = pd.DataFrame(
    {"source_sha256": ["00", "01"], "label": ["a", "b"], "file_name": ["a/0.png", "b/1.png"]}
)


def resolved(name, resolution=16, **settings):
    return registry.family(name).resolve(replace(SMALL, generator=name, **settings), resolution)


def new_adversaries(name, classes=4, resolution=16, seed=1, **settings):
    config = resolved(name, resolution, **settings)
    torch.manual_seed(seed)
    return registry.family(name).adversaries(config, classes, resolution, CPU)


def unlike_fresh(adversaries):
    """Give every parameter a value of its own: some begin at zero or one."""
    rng = torch.Generator().manual_seed(7)
    for module in adversaries.modules.values():
        for p in module.parameters():
            p.data += 0.1 * p.data.std(correction=0).clamp(0.1) * torch.randn(p.shape, generator=rng)
    if hasattr(adversaries.modules["G_ema"], "mapping"):
        adversaries.modules["G_ema"].mapping.w_avg += 1
    return adversaries


def write_run(folder, adversaries, resolution=16, known=CLASSES):
    """A run as training writes it."""
    config = adversaries.config
    network = registry.family(config.generator).network_config(config, len(CLASSES), resolution)
    info = {
        "generator": config.generator,
        "network": network,
        "classes": CLASSES,
        "known": list(known),
        "resolution": resolution,
        "data": {"path": "x", "fingerprint": "y", "source": "real"},
        "config": config.to_json(),
        "kimg": 1.0,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "generator", **info}))
    save_tensors(folder / "generator.safetensors", adversaries.modules["G_ema"].state_dict(), info)
    save_tensors(
        folder / "state.safetensors", collect_state(adversaries.modules, adversaries.optimizers), info
    )
    HASHES.to_csv(folder / "seen.csv", index=False)
    return folder


@pytest.fixture(scope="module", params=registry.FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def origin(name):
    return unlike_fresh(new_adversaries(name, seed=0))


@pytest.fixture(scope="module")
def source(origin, tmp_path_factory):
    return read_source(write_run(tmp_path_factory.mktemp("runs") / "run", origin), 16)


@pytest.fixture
def style(tmp_path):
    """A source of stylegan2-ada, and the adversaries behind it."""
    adversaries = unlike_fresh(new_adversaries("stylegan2-ada", seed=0))
    return write_run(tmp_path / "style", adversaries), adversaries


def draw(name, adversaries, label, classes):
    family = registry.family(name)
    z = family.latents(family.network_config(adversaries.config, len(classes), 16), [1, 2, 3, 4])
    labels = torch.full((4,), classes.index(label))
    with torch.no_grad():
        return family.sample(adversaries.modules["G_ema"], z, labels, 1.0)


def judge(adversaries, images, label, classes):
    labels = torch.full((len(images),), classes.index(label))
    adversaries.augment.p.zero_()
    with torch.no_grad():
        return adversaries.judge(images, labels, torch.Generator().manual_seed(0))


def test_the_same_networks_are_copied_whole(name, origin, source):
    adversaries = new_adversaries(name)
    sentence = initialise(adversaries, source, CLASSES)
    for module, expected in (("G", "G_ema"), ("G_ema", "G_ema"), ("D", "D")):
        target, wanted = adversaries.modules[module].state_dict(), origin.modules[expected].state_dict()
        assert all(torch.equal(target[key], wanted[key]) for key in wanted)
    assert "fresh" not in sentence
    assert "a, b, c, d" in sentence


def test_classes_are_found_by_name(name, origin, source):
    """Fewer classes in another order: the networks compute for each what they computed under its old number."""
    adversaries, classes = new_adversaries(name, classes=3), ["d", "new", "a"]
    sentence = initialise(adversaries, source, classes)
    for label in ("a", "d"):
        before = draw(name, origin, label, CLASSES)
        assert torch.allclose(draw(name, adversaries, label, classes), before, atol=1e-4)
        if name == "projected":
            continue  # judges what it sees by batches; its embeddings are compared below
        images = before.clamp(-1, 1)
        expected = judge(origin, images, label, CLASSES)
        assert torch.allclose(judge(adversaries, images, label, classes), expected, rtol=0.02, atol=0.02)
    if name == "projected":
        wanted, found = (a.modules["D"].state_dict() for a in (origin, adversaries))
        tables = [key for key in wanted if key.endswith("embedding.weight")]
        assert tables
        assert all(torch.equal(found[key][[2, 0]], wanted[key][[0, 3]]) for key in tables)
        assert all(torch.allclose(found[key][1], wanted[key].mean(0), atol=1e-6) for key in tables)
    assert "by name: d, a." in sentence
    assert "mean of those the source knows: new." in sentence


def test_a_class_that_the_source_was_not_trained_on_begins_as_the_mean_of_the_others(tmp_path):
    origin = unlike_fresh(new_adversaries("stylegan2-ada", seed=0))
    source = read_source(write_run(tmp_path / "run", origin, known=["a", "c"]), 16)
    adversaries = new_adversaries("stylegan2-ada", classes=2)
    initialise(adversaries, source, ["c", "d"])
    for module in ("G", "D"):
        columns = origin.modules["G_ema" if module == "G" else "D"].mapping.embed.weight * (2 / 4) ** 0.5
        found = adversaries.modules[module].mapping.embed.weight
        assert torch.allclose(found[:, 0], columns[:, 2])
        assert torch.allclose(found[:, 1], (columns[:, 0] + columns[:, 2]) / 2)


@pytest.mark.parametrize("resolution", [8, 32])
def test_another_resolution_shares_the_stages_that_both_have(name, origin, source, resolution):
    adversaries = new_adversaries(name, resolution=resolution)
    before = {n: p.clone() for n, p in adversaries.modules["G"].named_parameters()}
    initialise(adversaries, source, CLASSES)
    shared = origin.modules["G_ema"].state_dict()
    for key, value in adversaries.modules["G"].state_dict().items():
        if key in transfer.AT_THE_IMAGE:
            continue
        if key in shared:
            assert torch.equal(value, shared[key]), key
        elif key in before and not key.endswith("torgb.weight"):
            assert torch.equal(value, before[key]), key


def test_a_higher_resolution_begins_as_the_enlarged_image(style):
    run, origin = style
    adversaries = new_adversaries("stylegan2-ada", resolution=32)
    sentence = initialise(adversaries, read_source(run, 32), CLASSES)
    G = adversaries.modules["G_ema"]
    z = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3, 4)])
    c = F.one_hot(torch.ones(4).long(), 4).float()
    with torch.no_grad():
        small, large = (network(z, c, noise_mode="const") for network in (origin.modules["G_ema"], G))
    bias = G.synthesis.b32.torgb.bias[:, None, None]
    assert torch.allclose(large, upsample2d(small, G.synthesis.b32.resample_filter) + bias, atol=1e-5)
    assert "tensors were copied, fresh: synthesis.b32." in sentence
    assert "tensors were copied, fresh: b32." in sentence


def test_a_higher_resolution_of_r3gan_begins_as_the_enlarged_image_where_the_width_stays():
    origin, adversaries = new_adversaries("r3gan", seed=0), new_adversaries("r3gan", resolution=32)
    info = {"generator": "r3gan", "classes": CLASSES, "known": CLASSES, "config": origin.config.to_json()}
    source = transfer.Source("run", "0", info, {"G_ema": origin.modules["G_ema"].state_dict()}, HASHES, True)
    initialise(adversaries, source, CLASSES)
    small, large = (draw("r3gan", a, "b", CLASSES) for a in (origin, adversaries))
    kernel = adversaries.modules["G"].MainLayers[3].Layers[0].Resampler.Kernel
    assert torch.allclose(large, ops.upsample2d(small, kernel), atol=1e-5)


def test_stages_of_r3gan_discriminators_are_matched_from_4_pixels_on():
    origin, larger = new_adversaries("r3gan", seed=0), new_adversaries("r3gan", resolution=32)
    weights = {"G_ema": origin.modules["G_ema"].state_dict(), "D": origin.modules["D"].state_dict()}
    info = {"generator": "r3gan", "classes": CLASSES, "known": CLASSES, "config": origin.config.to_json()}
    source = transfer.Source("run", "0", info, weights, HASHES, True)
    initialise(larger, source, CLASSES)
    for before, after in zip(
        reversed(origin.modules["D"].MainLayers), reversed(larger.modules["D"].MainLayers), strict=False
    ):
        expected, found = before.state_dict(), after.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_families_with_one_generator_share_it_and_not_the_discriminator(style):
    run, origin = style
    adversaries = new_adversaries("acdb")
    before = {key: value.clone() for key, value in adversaries.modules["D"].state_dict().items()}
    sentence = initialise(adversaries, read_source(run, 16), CLASSES)
    wanted = origin.modules["G_ema"].state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in adversaries.modules["G"].state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in adversaries.modules["D"].state_dict().items())
    assert "The discriminator is fresh" in sentence


def test_nothing_fits_between_other_families(style):
    with pytest.raises(InputError, match=r"nothing fits into r3gan; train with --generator stylegan2-ada"):
        initialise(new_adversaries("r3gan"), read_source(style[0], 16), CLASSES)


@pytest.mark.parametrize(
    ("settings", "named"), [({"channel_max": 8}, "channel_max 16"), ({"latent": 8}, "latent 16")]
)
def test_other_sizes_are_refused_with_those_to_give(style, settings, named):
    with pytest.raises(InputError, match=f"other sizes .*train with its {named}"):
        initialise(new_adversaries("stylegan2-ada", **settings), read_source(style[0], 16), CLASSES)


def test_the_source_says_which_sizes_it_needs(source):
    assert source.network_defaults() | {"channel_base": 128, "channel_max": 16, "latent": 16} == (
        source.network_defaults()
    )


def test_another_depth_of_the_mapping_is_refused(golden):
    source = read_source(golden / "stylegan2_ada_uncond" / "network-snapshot.pkl", 16)
    assert source.network_defaults()["mapping_layers"] == 8
    with pytest.raises(InputError, match="other sizes"):
        initialise(new_adversaries("stylegan2-ada"), source, CLASSES)


def test_a_source_without_classes_gives_the_latents_part_of_the_mapping(style):
    run, _ = style
    source = read_source(run, 16)
    network = source.info["network"] | {"c_dim": 0}
    unconditional = registry.family("stylegan2-ada").generator(network).state_dict()
    source = replace(
        source, weights={"G_ema": unconditional}, info=source.info | {"classes": ["x"], "known": ["x"]}
    )
    adversaries = new_adversaries("stylegan2-ada")
    before = {key: value.clone() for key, value in adversaries.modules["G"].state_dict().items()}
    sentence = initialise(adversaries, source, CLASSES)
    after = adversaries.modules["G"].state_dict()
    fc0 = after.pop("mapping.fc0.weight")
    assert torch.equal(fc0[:, :16], unconditional["mapping.fc0.weight"])
    assert torch.equal(fc0[:, 16:], before["mapping.fc0.weight"][:, 16:])
    for key, value in after.items():
        assert torch.equal(value, (before if "mapping.embed" in key else unconditional)[key]), key
    assert "no classes" in sentence


def test_half_precision_without_a_state_is_read_as_float32(style):
    run, origin = style
    (run / "state.safetensors").unlink()
    source = read_source(run, 16)
    assert set(source.weights) == {"G_ema"}
    assert "The discriminator is fresh" in initialise(new_adversaries("stylegan2-ada"), source, CLASSES)
    info = source.info
    for file, module in (("generator", "G_ema"), ("discriminator", "D")):
        halves = {k: v.half() for k, v in origin.modules[module].state_dict().items()}
        save_tensors(run / f"{file}.safetensors", halves, info)
    source = read_source(run, 16)
    adversaries = new_adversaries("stylegan2-ada")
    initialise(adversaries, source, CLASSES)
    for module in ("G_ema", "D"):
        wanted = origin.modules[module].state_dict()
        for key, value in adversaries.modules[module].state_dict().items():
            assert value.dtype == torch.float32
            assert torch.allclose(value, wanted[key], rtol=1e-3, atol=1e-3)


def test_what_the_source_has_seen_goes_on(style):
    run, _ = style
    source = read_source(run, 16)
    assert source.to_json() == {
        "path": str(run),
        "sha256": source.sha256,
        "generator": "stylegan2-ada",
        "seen_known": True,
    }
    own = pd.DataFrame(
        {
            "source_sha256": ["01", "02"],
            "label": ["b", "c"],
            "file_name": ["b/9.png", "c/2.png"],
            "group": [1, 2],
        }
    )
    rows = seen_with(own, source)
    assert rows[["source_sha256", "label", "file_name"]].to_numpy().tolist() == [
        ["01", "b", "b/9.png"],
        ["02", "c", "c/2.png"],
        ["00", "a", "a/0.png"],
    ]
    hashed = replace(
        source, seen=source.seen.assign(perceptual_hash=[f"{i:064x}" for i in range(len(source.seen))])
    )
    rows = seen_with(own, hashed)
    assert rows["file_name"].tolist() == ["b/9.png", "c/2.png", "a/0.png"]
    expected = hashed.seen.set_index("source_sha256")["perceptual_hash"]
    assert rows["perceptual_hash"].fillna("").tolist() == [
        expected.get(sha, "") for sha in rows["source_sha256"]
    ]
    assert seen_with(own, None)["source_sha256"].tolist() == ["01", "02"]
    (run / "seen.csv").unlink()
    blind = read_source(run, 16)
    assert not blind.seen_known
    assert seen_with(own, blind)["source_sha256"].tolist() == ["01", "02"]


def test_a_source_that_began_from_something_unknown_is_not_fully_known(style):
    run, origin = style
    info = read_source(run, 16).info | {"init": {"path": "x.pkl", "seen_known": False}}
    save_tensors(run / "generator.safetensors", origin.modules["G_ema"].state_dict(), info)
    assert not read_source(run, 16).seen_known


def test_the_builtin_is_the_nearest_resolution(style, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "BUILTIN", tmp_path / "builtin")
    with pytest.raises(InputError, match="No builtin generator"):
        builtin(32)
    for resolution in (32, 64):
        (tmp_path / "builtin" / str(resolution)).mkdir(parents=True)
        (tmp_path / "builtin" / str(resolution) / "generator.safetensors").touch()
    chosen = {r: builtin(r).name for r in (16, 32, 48, 64, 128)}
    assert chosen == {16: "32", 32: "32", 48: "64", 64: "64", 128: "64"}
    (tmp_path / "builtin" / "32" / "generator.safetensors").unlink()
    (tmp_path / "builtin" / "32").rmdir()
    style[0].rename(tmp_path / "builtin" / "32")
    assert read_source("builtin", 16).path == "builtin/32"


def test_what_is_no_source_is_a_sentence(style, tmp_path):
    run, _ = style
    with pytest.raises(InputError, match="nowhere does not exist; --init takes"):
        read_source(tmp_path / "nowhere", 16)
    with pytest.raises(InputError, match="is no generator run"):
        read_source(tmp_path, 16)
    for file in ("state", "generator"):
        path = run / f"{file}.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=rf"{file}\.safetensors is damaged"):
            read_source(run, 16)


def test_weights_that_are_not_whole_are_a_sentence(style):
    path = style[0] / "generator.safetensors"
    weights, info = load_tensors(path)
    first = next(iter(weights))
    without = {name: value for name, value in info.items() if name != "network"}
    for tensors, about, sentence in (
        (weights, without, "is damaged .its metadata lacks network"),
        (weights, {**info, "network": {}}, "does not hold the network that it describes"),
        ({n: t for n, t in weights.items() if n != first}, info, f"Missing key.*{first}"),
        ({**weights, first: weights[first] * float("nan")}, info, "weights that are no finite numbers"),
        (weights, {**info, "resolution": 64}, "makes images of .* px, where its metadata says 64 px"),
        (weights, {**info, "classes": list("abcdefgh")}, "does not know the 8 classes"),
    ):
        save_tensors(path, tensors, about)
        with pytest.raises(InputError, match=sentence) as raised:
            read_source(style[0], 16)
        assert len(str(raised.value).splitlines()) == 1


def test_foreign_weights_are_a_sentence(style):
    run, _ = style
    save_file(load_file(run / "generator.safetensors"), run / "generator.safetensors")
    with pytest.raises(InputError, match="no checkpoint of hemabalance"):
        read_source(run, 16)
