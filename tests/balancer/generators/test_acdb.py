"""The auxiliary classifier: its loss against the equation, and that it separates classes for both networks."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balancer.generators import GeneratorConfig, registry
from balancer.generators.acdb import ClassifyingDiscriminator, d2d_ce
from balancer.generators.adversaries import Chunk
from balancer.generators.training import Batches

RESOLUTION = 16
SMALL = GeneratorConfig("acdb", kimg=1, batch_size=16, channel_base=128, channel_max=16, latent=16)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def literal(embedding, proxies, labels, temperature, positive_margin, negative_margin):
    """The equation of arXiv 2111.01118, a term at a time."""

    def cosine(a, b):
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / (sum(p * p for p in a) ** 0.5 * sum(q * q for q in b) ** 0.5)

    f, v, y = embedding.tolist(), proxies.tolist(), labels.tolist()
    total = 0.0
    for i in range(len(f)):
        positive = exp(min(cosine(f[i], v[y[i]]) - positive_margin, 0) / temperature)
        negatives = 0.0
        for j in range(len(f)):
            if y[j] != y[i]:
                negatives += exp(max(cosine(f[i], f[j]) - negative_margin, 0) / temperature)
        total -= log(positive / (positive + negatives))
    return total / len(f)


@pytest.mark.parametrize("margins", [(0.98, 0.02), (0.3, -0.3), (1.0, -1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_the_loss_is_the_papers_equation(margins, temperature):
    draw = rng()
    embedding = 5 * torch.randn(12, 6, generator=draw, dtype=torch.float64)
    proxies = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 3, 3, 3, 0])
    expected = literal(embedding, proxies, labels, temperature, *margins)
    assert float(d2d_ce(embedding, proxies, labels, temperature, *margins)) == pytest.approx(expected)


def test_only_pairs_that_are_wrong_by_their_margin_are_moved():
    """Embeddings on their proxies, at right angles to the other class; then one of them beside the other class."""
    proxies = torch.eye(3)[:2].requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    right = torch.eye(3)[labels].requires_grad_()
    d2d_ce(right, proxies, labels).backward()
    assert right.grad.abs().max() == proxies.grad.abs().max() == 0
    wrong = torch.eye(3)[labels]
    wrong[0] = torch.tensor([0.6, 0.8, 0.0])
    wrong.requires_grad_()
    d2d_ce(wrong, proxies, labels).backward()
    assert wrong.grad[0, 0] < 0 < wrong.grad[0, 1]  # descent takes it to its proxy, away from the others
    assert wrong.grad[1].abs().max() == 0


def test_classes_without_images_take_no_part_and_one_class_alone_costs_nothing():
    embedding = torch.randn(8, 6, generator=rng()).requires_grad_()
    proxies = torch.randn(5, 6, generator=rng(1)).requires_grad_()
    labels = torch.tensor([1, 1, 1, 3, 3, 3, 3, 1])
    loss = d2d_ce(embedding, proxies, labels)
    loss.backward()
    moved = proxies.grad.abs().sum(1) > 0
    assert moved.tolist() == [False, True, False, True, False]
    others = proxies.detach().clone()
    others[[0, 2, 4]] = embedding.detach()[:3]
    assert d2d_ce(embedding, others, labels).item() == loss.item()
    assert d2d_ce(embedding, proxies, torch.ones(8, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-6)


def test_gradients_of_proxies_do_not_grow_with_the_features_as_a_softmaxs_weights_do():
    embedding = torch.randn(16, 8, generator=rng())
    labels = torch.arange(16) % 3
    norms = {"d2d_ce": [], "softmax": []}
    for scale in (1.0, 1000.0):
        for name in norms:
            proxies = torch.randn(3, 8, generator=rng(1)).requires_grad_()
            x = scale * embedding
            loss = d2d_ce(x, proxies, labels) if name == "d2d_ce" else F.cross_entropy(x @ proxies.T, labels)
            loss.backward()
            norms[name].append(float(proxies.grad.norm()))
    assert norms["d2d_ce"][1] == pytest.approx(norms["d2d_ce"][0], rel=1e-4)
    assert norms["softmax"][1] > 500 * norms["softmax"][0]


def two_colours(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Red images of class 0 and blue ones of class 2, in turn; there is a class 1 without images."""
    labels = torch.arange(n) % 2 * 2
    colour = torch.eye(3)[labels] - 0.5
    noise = 0.2 * torch.randn(n, 3, RESOLUTION, RESOLUTION, generator=rng(seed))
    return colour[:, :, None, None] + noise, labels


def new_adversaries(**settings):
    config = registry.family("acdb").resolve(replace(SMALL, **settings), RESOLUTION)
    torch.manual_seed(0)
    return registry.family("acdb").adversaries(config, 3, RESOLUTION, torch.device("cpu"))


def test_the_head_learns_the_classes_and_the_generator_learns_them_from_the_head():
    """The logit does not see the class: which class is red, the generator can know from the head alone."""
    adversaries = new_adversaries(learning_rate=0.005)
    unseen = adversaries.D.proxies[1].clone()
    for step in range(60):
        real, labels = two_colours(16, step)
        adversaries.step(step, [Chunk(real, labels, labels.flip(0), rng(step))])
    assert torch.equal(adversaries.D.proxies[1], unseen)
    real, labels = two_colours(64, seed=1000)
    with torch.no_grad():
        fake, _ = adversaries.generate(labels, rng(1))
        for images in (real, fake):
            _, embedding = adversaries.D.judge(images)
            cosine = F.normalize(embedding) @ F.normalize(adversaries.D.proxies[[0, 2]]).T
            assert (2 * cosine.argmax(1) == labels).float().mean() > 0.95
    redness = (fake[:, 0] - fake[:, 2]).mean((1, 2))
    assert redness[labels == 0].mean() > 0.5 > -0.5 > redness[labels == 2].mean()


def test_without_a_condition_the_head_rests_and_frozen_blocks_do_too():
    adversaries = new_adversaries(unconditional_kimg=0.5, freeze_discriminator=1)
    D = adversaries.D
    before = {name: p.clone() for name, p in D.named_parameters()}
    real, labels = two_colours(16, 0)
    chunks = [Chunk(real, labels, labels, rng())]
    adversaries.step(0, chunks)
    after = dict(D.named_parameters())
    assert torch.equal(after["proxies"], before["proxies"])
    assert not torch.equal(after["logit.weight"], before["logit.weight"])
    adversaries.step(60, chunks)
    assert not torch.equal(after["proxies"], before["proxies"])
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("b16."))


def test_the_logit_does_not_see_the_class_and_the_penalty_not_the_head():
    adversaries = new_adversaries()
    real, labels = two_colours(16, 0)
    logits = [adversaries.judge(real, y, rng()) for y in (labels, labels.flip(0))]
    assert torch.equal(*logits)
    adversaries.gradient_penalty(Chunk(real, labels, labels, rng())).backward()
    D = adversaries.D
    assert D.logit.weight.grad.abs().sum() > 0
    assert D.proxies.grad is None and D.embed.weight.grad is None


def test_gradients_are_finite_at_the_start():
    for latent in (1, 16):
        adversaries = new_adversaries(latent=latent)
        real, labels = two_colours(16, 0)
        chunk = Chunk(real, labels, labels, rng())
        fake, _ = adversaries.generate(labels, chunk.rng)
        for name, loss in (
            ("G", adversaries.generator_loss(fake, chunk)),
            ("D", adversaries.discriminator_loss(fake.detach(), chunk, [])),
        ):
            adversaries.modules[name].zero_grad()
            loss.backward()
            gradients = [p.grad for p in adversaries.modules[name].parameters() if p.grad is not None]
            assert all(g.isfinite().all() for g in gradients)
            assert 0 < torch.stack([g.norm() for g in gradients]).norm() < 100


def test_classes_are_drawn_evenly_unless_told_otherwise():
    labels = np.repeat([0, 1, 3], [3, 9, 300])
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    config = registry.family("acdb").resolve(replace(SMALL, batch_size=3000, kimg=3), 8)
    _, real, fake = Batches(images, labels, config)[0]
    for drawn in (real, fake):
        counts = drawn.bincount(minlength=4)
        assert counts[2] == 0
        assert (counts[[0, 1, 3]] - 1000).abs().max() < 130  # five standard deviations


def test_its_generator_is_that_of_stylegan2_ada():
    """So a run of either can begin from the other's generator, and from the blocks of its discriminator."""
    other = registry.family("stylegan2-ada")
    config = other.resolve(replace(SMALL, generator="stylegan2-ada"), RESOLUTION)
    adversaries = other.adversaries(config, 3, RESOLUTION, torch.device("cpu"))
    ours = new_adversaries().modules
    theirs = adversaries.modules

    def shapes(module, prefix=""):
        return {k: v.shape for k, v in module.state_dict().items() if k.startswith(prefix)}

    for name in ("G", "G_ema"):
        assert shapes(ours[name]) == shapes(theirs[name])
    for block in ("b16", "b8", "b4.conv", "b4.fc"):
        assert shapes(ours["D"], block) == shapes(theirs["D"], block)


def test_a_batch_that_is_no_image_of_this_size_is_refused():
    D = ClassifyingDiscriminator(2, img_resolution=8, img_channels=3, channel_base=64, channel_max=8)
    assert D(torch.zeros(4, 3, 8, 8)).shape == (4, 1)
    with pytest.raises(ValueError, match="3×8×8"):
        D(torch.zeros(4, 3, 16, 16))
