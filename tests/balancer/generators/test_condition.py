"""The ramp of the condition, classless layers, noise on embeddings and NoisyTwins' loss, network by network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import vendor.stylegan2_ada as sg
from balancer.errors import InputError
from balancer.generators import GeneratorConfig, r3gan, registry
from balancer.generators.condition import OFF_DIAGONAL, check_condition, condition_share, decorrelation

RESOLUTION, CLASSES = 16, 3
CPU = torch.device("cpu")


@pytest.fixture(params=["stylegan2-ada", "r3gan"])
def networks(request: pytest.FixtureRequest) -> SimpleNamespace:
    """G and D of a family, as functions of images and labels, and how to set their condition."""
    family = registry.family(request.param)
    config = GeneratorConfig(request.param, batch_size=8, channel_base=128, channel_max=16, latent=16)
    torch.manual_seed(0)
    adversaries = family.adversaries(family.resolve(config, RESOLUTION), CLASSES, RESOLUTION, CPU)
    G, D = adversaries.G_ema, adversaries.D
    D.dtype = torch.float32
    with torch.no_grad():
        for p in (*G.parameters(), *D.parameters()):  # R3GAN's blocks begin as the identity
            p.add_(torch.randn(p.shape) * 0.1)

    def condition(value: float) -> None:
        D.condition = value
        getattr(G, "mapping", G).condition = value

    z = torch.randn(8, 16)
    images = torch.rand(8, 3, RESOLUTION, RESOLUTION) * 2 - 1
    return SimpleNamespace(
        condition=condition,
        generate=lambda labels: family.sample(G, z, labels, 1.0).detach(),
        judge=lambda labels: D(images, adversaries.condition(labels)).detach().flatten(),
    )


def labels(value: int) -> Tensor:
    return torch.full((8,), value)


def test_share_is_a_ramp_and_one_by_default() -> None:
    config = GeneratorConfig(kimg=1.0, batch_size=100, unconditional_kimg=0.2, ramp_kimg=0.4)
    shares = [condition_share(config, step) for step in range(10)]
    assert shares == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    sudden = replace(config, ramp_kimg=0.0)
    assert [condition_share(sudden, step) for step in range(4)] == [0, 0, 1, 1]
    assert {condition_share(replace(sudden, unconditional_kimg=0.0), step) for step in range(4)} == {1}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"unconditional_kimg": 0.5, "ramp_kimg": 0.5},
            "not be conditional before 1 kimg and the run ends at 1",
        ),
        ({"embedding_noise": -1.0}, "embedding_noise must be at least 0, not -1"),
        ({"decorrelation": 0.1}, "give --embedding-noise too"),
    ],
)
def test_a_condition_that_cannot_be_is_a_sentence(wrong: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_condition(replace(GeneratorConfig(kimg=1.0), **wrong))


def test_without_condition_no_network_sees_the_class(networks: SimpleNamespace) -> None:
    for run in (networks.generate, networks.judge):
        networks.condition(1.0)
        assert not torch.allclose(run(labels(0)), run(labels(1)), atol=1e-3)
        networks.condition(0.0)
        torch.testing.assert_close(run(labels(0)), run(labels(1)), rtol=0, atol=1e-6)


def test_the_logit_goes_from_the_mean_over_classes_to_the_class(networks: SimpleNamespace) -> None:
    networks.condition(1.0)
    each = torch.stack([networks.judge(labels(k)) for k in range(CLASSES)])
    for share in (0.0, 0.3, 1.0):
        networks.condition(share)
        expected = (1 - share) * each.mean(0) + share * each[1]
        torch.testing.assert_close(networks.judge(labels(1)), expected, rtol=1e-4, atol=1e-5)


def generator(**kwargs: int) -> sg.Generator:
    torch.manual_seed(0)
    return sg.Generator(8, CLASSES, 8, 32, 3, {"num_layers": 2}, {"channel_base": 64}, **kwargs)


def test_classless_layers_get_the_same_w_for_every_class() -> None:
    z, c = torch.randn(2, 8), torch.eye(CLASSES)
    G = generator(classless_resolution=8).eval()
    for psi in (1.0, 0.5):
        one, other = (G.mapping(z, c[k].expand(2, -1), truncation_psi=psi) for k in (0, 1))
        differs = (one != other).any(2).all(0)
        assert differs.tolist() == [False] * 3 + [True] * (G.num_ws - 3)  # a convolution at 4 px, two at 8 px
    plain = generator().eval()
    assert "mapping.w_avg_classless" not in plain.state_dict()
    assert torch.equal(G.mapping(z, c[[0, 0]])[:, 3:], plain.mapping(z, c[[0, 0]])[:, 3:])


def test_classless_layers_are_truncated_towards_a_mean_of_their_own() -> None:
    G = generator(classless_resolution=4)
    z, c = torch.randn(64, 8), torch.eye(CLASSES)[torch.arange(64) % CLASSES]
    for _ in range(2000):
        ws = G.mapping(z, c)
    torch.testing.assert_close(G.mapping.w_avg_classless, ws[:, 0].mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(G.mapping.w_avg, ws[:, 1].mean(0), rtol=1e-3, atol=1e-4)
    centre = G.eval().mapping(z, c, truncation_psi=0.0)
    assert torch.equal(centre[5, 0], G.mapping.w_avg_classless)
    assert torch.equal(centre[5, 1], G.mapping.w_avg)


@pytest.mark.parametrize("wrong", [6, 32, 64])
def test_a_classless_resolution_is_a_lower_one(wrong: int) -> None:
    with pytest.raises(ValueError, match="up to 4 or 8 or 16 px"):
        generator(classless_resolution=wrong)
    family = registry.family("stylegan2-ada")
    config = family.resolve(GeneratorConfig(classless_resolution=wrong), 32)
    with pytest.raises(InputError, match="must be 4, 8, 16 or 0"):
        family.network_config(config, 2, 32)


@pytest.mark.parametrize(
    "measure", [{"classless_resolution": 4}, {"decorrelation": 0.1, "embedding_noise": 1.0}]
)
def test_r3gan_refuses_what_has_no_meaning_there(measure: dict[str, float]) -> None:
    with pytest.raises(InputError, match="take the generator stylegan2-ada"):
        registry.family("r3gan").resolve(GeneratorConfig("r3gan", **measure), 32)


def test_noise_has_the_standard_deviation_asked_for() -> None:
    """In units of the embedding's root mean square, in both families."""
    torch.manual_seed(0)
    R = r3gan.Generator(8, [8, 8], [1, 1], [1, 1], 2, CLASSES, 64)
    c = torch.eye(CLASSES)[torch.zeros(4000, dtype=torch.long)]
    embeddings: list[Callable[..., Tensor]] = [generator().mapping._embedding, R._embedding]
    for embedding in embeddings:
        clean, noisy = (embedding(c, sigma, torch.Generator().manual_seed(0)) for sigma in (0.0, 0.5))
        size = clean.square().mean().sqrt()
        assert ((noisy - clean).std() / size).item() == pytest.approx(0.5, rel=0.02)
        assert torch.equal(noisy, embedding(c, 0.5, torch.Generator().manual_seed(0)))


def test_decorrelation_is_that_of_numpys_correlations() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(32, 5))
    b = a @ rng.normal(size=(5, 5)) + rng.normal(size=(32, 5)) * 3 + 7
    c = np.corrcoef(a.T, b.T)[:5, 5:]
    expected = (
        ((1 - c.diagonal()) ** 2).sum()
        + OFF_DIAGONAL * (c**2).sum()
        - OFF_DIAGONAL * (c.diagonal() ** 2).sum()
    )
    assert decorrelation(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(expected, rel=1e-6)
    q, _ = np.linalg.qr(a - a.mean(0))
    assert decorrelation(torch.from_numpy(q), torch.from_numpy(q)).item() == pytest.approx(0, abs=1e-6)
