"""R3GAN: the reference's numbers, the second derivatives, the schedules, and images that come to look real."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from balancer.errors import InputError
from balancer.generators import GeneratorConfig, load_generator, r3gan, train
from balancer.generators.adversaries import Chunk
from balancer.generators.r3gan import ops
from balancer.generators.r3gan.family import cosine, default_gamma


@pytest.fixture(scope="module", params=["cond", "uncond"])
def reference(request: pytest.FixtureRequest, golden: Path) -> SimpleNamespace:
    folder = golden / f"r3gan_{request.param}"
    cases = load_file(folder / "cases.safetensors")
    G, D = r3gan.load_official(folder)
    return SimpleNamespace(
        folder=folder,
        config=json.loads((folder / "config.json").read_text()),
        cases=cases,
        c=cases.get("c"),
        G=G,
        D=D,
    )


def error(value: Tensor, expected: Tensor) -> float:
    return float((value.detach() - expected).norm() / expected.norm())


def check_gradients(network: nn.Module, cases: dict[str, Tensor], prefix: str) -> None:
    expected = {k.removeprefix(prefix): value for k, value in cases.items() if k.startswith(prefix)}
    assert expected
    parameters = dict(network.named_parameters())
    for name, value in expected.items():
        gradient = parameters[name].grad
        assert gradient is not None and error(gradient, value) < 1e-5, name


def test_images_and_logits(reference: SimpleNamespace) -> None:
    cases, c = reference.cases, reference.c
    assert error(reference.G(cases["z"], c), cases["img"]) < 1e-5
    assert error(reference.D(cases["real"], c), cases["logits_real"]) < 1e-5
    assert error(reference.D(cases["img"], c), cases["logits_fake"]) < 1e-5


def test_discriminator_loss_and_its_gradients(reference: SimpleNamespace) -> None:
    cases, c, D = reference.cases, reference.c, reference.D
    D.zero_grad()
    real, fake = (cases[name].clone().requires_grad_() for name in ("real", "img"))
    logits_real, logits_fake = D(real, c), D(fake, c)
    loss = r3gan.relativistic(logits_real, logits_fake)
    r1, r2 = r3gan.gradient_penalty(logits_real, real), r3gan.gradient_penalty(logits_fake, fake)
    assert error(logits_real - logits_fake, cases["D_relativistic"]) < 1e-5
    assert error(loss, cases["D_adversarial"]) < 1e-5
    assert error(r1, cases["R1"]) < 1e-5
    assert error(r2, cases["R2"]) < 1e-5
    (loss + reference.config["gamma"] / 2 * (r1 + r2)).mean().backward()
    check_gradients(D, cases, "gradD:")


def test_generator_loss_and_its_gradients(reference: SimpleNamespace) -> None:
    cases, c, G, D = reference.cases, reference.c, reference.G, reference.D
    G.zero_grad()
    logits_fake, logits_real = D(G(cases["z"], c), c), D(cases["real"], c)
    loss = r3gan.relativistic(logits_fake, logits_real)
    assert error(logits_fake - logits_real, cases["G_relativistic"]) < 1e-5
    assert error(loss, cases["G_adversarial"]) < 1e-5
    loss.mean().backward()
    check_gradients(G, cases, "gradG:")


def test_initialisation_has_the_references_standard_deviations(reference: SimpleNamespace) -> None:
    """Pooled over fresh networks; two samples of n and m numbers differ by σ·√(1/2n + 1/2m)."""
    copies = 8
    for which, kind in (("G", r3gan.Generator), ("D", r3gan.Discriminator)):
        torch.manual_seed(0)
        fresh = [dict(kind(**reference.config[which]).named_parameters()) for _ in range(copies)]
        expected = reference.config["initial_std"][f"{which}_std"]
        assert fresh[0].keys() == expected.keys()
        for name, std in expected.items():
            values = torch.stack([network[name].detach() for network in fresh])
            if std == 0:
                assert not values.any(), name
            else:
                n = values[0].numel()
                tolerance = 4 * sqrt((1 + 1 / copies) / (2 * n))
                assert float(values.std()) == pytest.approx(std, rel=tolerance), name


def test_official_weights_must_fit_exactly(reference: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "G.safetensors", "D.safetensors"):
        shutil.copyfile(reference.folder / name, folder / name)
    weights = load_file(folder / "D.safetensors")
    first = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != first}, folder / "D.safetensors")
    with pytest.raises(InputError, match=r"Missing key.*" + first):
        r3gan.load_official(folder)
    (folder / "D.safetensors").write_bytes((folder / "G.safetensors").read_bytes()[:300])
    with pytest.raises(InputError, match="do not fit"):
        r3gan.load_official(folder)
    (folder / "config.json").write_text('{"G": {"z_dim": 3}}')
    with pytest.raises(InputError, match="does not describe R3GAN"):
        r3gan.load_official(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="config.json does not exist"):
        r3gan.load_official(folder)


def test_first_and_second_derivatives_by_finite_differences() -> None:
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64, requires_grad=True)

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return ops.convolve(x, w, 2)

    f = ops.low_pass((1, 3, 3, 1)).double()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(convolve, (randn(2, 4, 3, 3), randn(6, 2, 3, 3)))
        assert check(ops.pointwise, (randn(2, 4, 3, 3), randn(3, 4, 1, 1)))
        assert check(lambda x: ops.downsample2d(x, f), randn(2, 3, 4, 4))
        assert check(lambda x: ops.upsample2d(x, f), randn(2, 3, 4, 4))


def test_operations_agree_with_pytorchs_own() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, generator=rng)
    w = torch.randn(12, 4, 3, 3, generator=rng)
    torch.testing.assert_close(ops.convolve(x, w, 2), F.conv2d(x, w, padding=1, groups=2))
    assert float(ops.low_pass((1, 2, 1)).sum()) == pytest.approx(1)
    f = ops.low_pass((1, 3, 3, 1))
    constant = torch.full((1, 1, 8, 8), 3.0)
    torch.testing.assert_close(
        ops.upsample2d(constant, f)[..., 1:-1, 1:-1], constant.new_full((1, 1, 14, 14), 3)
    )
    torch.testing.assert_close(
        ops.downsample2d(constant, f)[..., 1:-1, 1:-1], constant.new_full((1, 1, 2, 2), 3)
    )


def test_bfloat16_computes_nearly_the_same(reference: SimpleNamespace) -> None:
    cases, c = reference.cases, reference.c
    G, D = r3gan.load_official(reference.folder)
    G.dtype = D.dtype = torch.bfloat16
    assert error(G(cases["z"], c), cases["img"]) < 0.02
    real = cases["real"].clone().requires_grad_()
    logits = D(real, c)
    assert logits.dtype == torch.float32
    assert error(logits, cases["logits_real"]) < 0.03
    assert error(r3gan.gradient_penalty(logits, real), cases["R1"]) < 0.03


def test_gamma_is_the_papers_and_log_log_linear_between() -> None:
    assert [default_gamma(side) for side in (32, 64, 256)] == pytest.approx([0.05, 2, 150])
    assert default_gamma(128) == pytest.approx(sqrt(2 * 150))
    assert default_gamma(16) == pytest.approx(0.05**2 / 2)
    assert default_gamma(512) == pytest.approx(150 * sqrt(75))


def test_cosine() -> None:
    assert [cosine(t, 2.0, 1.0) for t in (0, 0.5, 1, 3)] == pytest.approx([2, 1.5, 1, 1])
    assert cosine(0.25, 0.0, 1.0) == pytest.approx((1 - sqrt(0.5)) / 2)


def test_networks_are_about_a_million_parameters_at_every_resolution() -> None:
    family = r3gan.R3GAN()
    for resolution in (32, 64, 128):
        config = family.resolve(GeneratorConfig(generator="r3gan"), resolution)
        adversaries = family.adversaries(config, 4, resolution, torch.device("cpu"))
        for name in ("G", "D"):
            assert 0.6e6 < sum(p.numel() for p in adversaries.modules[name].parameters()) < 1.4e6
    with pytest.raises(InputError, match="power of two"):
        family.network_config(config, 4, 48)


def test_schedules_reach_their_last_values() -> None:
    family = r3gan.R3GAN()
    settings = GeneratorConfig(
        generator="r3gan", kimg=0.08, batch_size=8, channel_base=128, channel_max=8, latent=8
    )
    config = family.resolve(settings, 8)
    assert config.learning_rate == 2e-4
    adversaries = family.adversaries(config, 2, 8, torch.device("cpu"))
    seen = []
    for step in (0, 9):
        rng = torch.Generator().manual_seed(step)
        real, labels = torch.rand(8, 3, 8, 8, generator=rng) * 2 - 1, torch.arange(8) % 2
        logged = adversaries.step(step, [Chunk(real, labels, labels, rng)])
        groups = [optimizer.param_groups[0] for optimizer in adversaries.optimizers.values()]
        assert groups[0]["lr"] == groups[1]["lr"]
        seen.append((groups[0]["lr"], *groups[0]["betas"], float(logged["augmentation_p"])))
    assert seen[0] == pytest.approx((2e-4, 0, 0.9, 0))
    assert seen[1] == pytest.approx((5e-5, 0, 0.99, 0.55))


def test_the_generator_follows_the_data(make_dataset, tmp_path) -> None:
    data = make_dataset(tmp_path / "data", {"train": {"a": 40, "b": 40}}, resolution=8)
    config = GeneratorConfig(
        generator="r3gan", kimg=4, batch_size=16, ticks=2, channel_base=128, channel_max=16, latent=16
    )
    generator = load_generator(train(data, replace(config, learning_rate=0.005), tmp_path / "run"))
    means = {}
    for label in ("a", "b"):
        real, _ = data.images_of(label, ["train"])
        means[label] = real.mean((0, 1, 2)), generator.generate(label, list(range(64))).mean((0, 1, 2))
    for real, fake in means.values():
        assert np.abs(fake - real).max() < 0.3 * np.abs(real - 127.5).max()
