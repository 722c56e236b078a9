"""The reference implementation's numbers for known weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vendor.stylegan2_ada as sg

TRANSFORMS = [
    "xflip",
    "rotate90",
    "xint",
    "scale",
    "rotate",
    "aniso",
    "xfrac",
    "brightness",
    "contrast",
    "lumaflip",
    "hue",
    "saturation",
    "bgc",
]


@pytest.fixture(scope="module", params=["cond", "uncond"])
def reference(request: pytest.FixtureRequest, golden: Path) -> SimpleNamespace:
    folder = golden / f"stylegan2_ada_{request.param}"
    config = json.loads((folder / "config.json").read_text())
    weights_G, weights_D = load_file(folder / "G.safetensors"), load_file(folder / "D.safetensors")
    G, D = sg.Generator(**config["G"]).eval(), sg.Discriminator(**config["D"]).eval()
    G.load_state_dict(weights_G)
    D.load_state_dict(weights_D)
    cases = load_file(folder / "cases.safetensors")
    return SimpleNamespace(
        folder=folder, config=config, cases=cases, G=G, D=D, weights_G=weights_G, weights_D=weights_D
    )


def error(value: Tensor, expected: Tensor) -> float:
    return float((value.detach() - expected).norm() / expected.norm())


def test_mapping(reference: SimpleNamespace) -> None:
    cases = reference.cases
    assert error(reference.G.mapping(cases["z"], cases["c"]), cases["ws"]) < 1e-5


def test_mapping_tracks_w_avg_and_truncates_towards_it(reference: SimpleNamespace) -> None:
    """The reference computed ws_psi07, then ws_psi05_cutoff4, then one more batch, updating w_avg each time."""
    cases = reference.cases
    G = sg.Generator(**reference.config["G"])
    G.load_state_dict(reference.weights_G)
    assert G.mapping.w_avg_beta == reference.config["w_avg_beta"] == 0.995
    mean = cases["ws"][:, 0].double().mean(0)
    w_avg = reference.weights_G["mapping.w_avg"].double()
    for _ in range(3):
        w_avg = (w_avg - 0.005 * mean) / 0.995
    G.mapping.w_avg.copy_(w_avg)
    G.train()
    z, c = cases["z"], cases["c"]
    assert error(G.mapping(z, c, truncation_psi=0.7), cases["ws_psi07"]) < 1e-5
    assert error(G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=4), cases["ws_psi05_cutoff4"]) < 1e-5
    G.mapping(z, c)
    assert error(G.mapping.w_avg, reference.weights_G["mapping.w_avg"]) < 1e-5
    G.mapping(z, c, skip_w_avg_update=True)
    G.eval().mapping(z, c)
    assert error(G.mapping.w_avg, reference.weights_G["mapping.w_avg"]) < 1e-5


def test_synthesis(reference: SimpleNamespace) -> None:
    cases, G = reference.cases, reference.G
    assert error(G.synthesis(cases["ws"], noise_mode="const"), cases["img_noise_const"]) < 1e-5
    assert error(G.synthesis(cases["ws"], noise_mode="none"), cases["img_noise_none"]) < 1e-5
    assert error(G(cases["z"], cases["c"], noise_mode="const"), cases["img_noise_const"]) < 1e-5


def test_discriminator_and_r1(reference: SimpleNamespace) -> None:
    cases, D = reference.cases, reference.D
    assert error(D(cases["real"], cases["c"]), cases["logits_real"]) < 1e-5
    assert error(D(cases["img_noise_const"], cases["c"]), cases["logits_fake"]) < 1e-5
    assert error(sg.r1_penalty(D, cases["real"], cases["c"]), cases["r1_per_sample"]) < 1e-5


def test_path_lengths(reference: SimpleNamespace) -> None:
    cases = reference.cases
    ws = cases["ws"][:4].clone().requires_grad_()
    images = reference.G.synthesis(ws, noise_mode="const")
    assert error(sg.path_lengths(images, ws, cases["pl_noise"]), cases["pl_lengths"]) < 1e-5


def test_generator_loss_and_gradients(reference: SimpleNamespace) -> None:
    cases, G, D = reference.cases, reference.G, reference.D
    loss = sg.g_nonsaturating(D(G(cases["z"], cases["c"], noise_mode="const"), cases["c"])).mean()
    assert error(loss, cases["g_loss"]) < 1e-5
    names = [name.removeprefix("grad:") for name in cases if name.startswith("grad:")]
    assert names
    gradients = torch.autograd.grad(loss, [G.get_parameter(name) for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        assert error(gradient, cases[f"grad:{name}"]) < 1e-5


@pytest.mark.parametrize("q", [0.3, 0.8])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_augmentation(reference: SimpleNamespace, transform: str, q: float) -> None:
    cases = reference.cases
    pipe = sg.AugmentPipe(**(sg.PRESETS[transform] if transform == "bgc" else {transform: 1}))
    out = pipe(cases["ada_in"], debug_percentile=torch.tensor(q))
    assert error(out, cases[f"ada:{transform}:{q}"]) < 1e-5


def test_every_augmentation_case_is_tested(reference: SimpleNamespace) -> None:
    assert {k.split(":")[1] for k in reference.cases if k.startswith("ada:")} == set(TRANSFORMS)


def test_load_official_gives_the_same_weights(reference: SimpleNamespace) -> None:
    """The stored source raises if it is run."""
    networks = sg.load_official(reference.folder / "network-snapshot.pkl")
    assert set(networks) == {"G", "D", "G_ema"}
    for name, network in networks.items():
        expected = reference.weights_D if name == "D" else reference.weights_G
        state = network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[k], expected[k]) for k in expected)
        assert all(p.requires_grad for p in network.parameters())
    cases = reference.cases
    images = networks["G_ema"](cases["z"], cases["c"], noise_mode="const")
    assert error(images, cases["img_noise_const"]) < 1e-5
    assert error(networks["D"](cases["real"], cases["c"]), cases["logits_real"]) < 1e-5
