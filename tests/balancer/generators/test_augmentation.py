"""What the discriminator sees of an image: the names, their p, and DiffAugment against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import vendor.stylegan2_ada as sg
from balancer.errors import InputError
from balancer.generators import GeneratorConfig
from balancer.generators.augmentation import AUGMENTATIONS, DiffAugment, augmentation, p_is_free

NONE = GeneratorConfig(augmentation="none")


def images(n: int = 6, h: int = 16, w: int = 16) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(2)) * 2 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_is_drawn_from_the_generator_and_lets_the_gradient_through(name: str) -> None:
    augment = augmentation(replace(NONE, augmentation=name, augmentation_p=1.0))
    x = images().requires_grad_()
    before = torch.get_rng_state()
    first, again, other = (augment(x, generator=seeded(s)) for s in (1, 1, 2))
    assert first.shape == x.shape and first.isfinite().all()
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    (gradient,) = torch.autograd.grad(first.square().sum(), x)
    assert gradient.flatten(1).any(1).all()
    assert torch.equal(first, x) == (name == "none")
    assert torch.equal(first, other) == (name == "none")
    untouched = augmentation(replace(NONE, augmentation=name, augmentation_p=0.0))
    assert untouched(x, generator=seeded()) is x


def test_p_is_fixed_where_it_was_chosen_or_has_no_controller() -> None:
    cases = {
        ("bgc", None): (0, True),
        ("bgc", 0.3): (0.3, False),
        ("diffaugment", None): (1, False),
        ("diffaugment", 0.5): (0.5, False),
        ("none", None): (0, False),
    }
    for (name, p), (first, free) in cases.items():
        config = replace(NONE, augmentation=name, augmentation_p=p)
        assert float(augmentation(config).p) == pytest.approx(first)
        assert p_is_free(config) == free


def test_unknown_names_and_impossible_probabilities_are_sentences() -> None:
    with pytest.raises(
        InputError, match="There is no augmentation 'difaugment'; known: none, blit.*'diffaugment'"
    ):
        augmentation(replace(NONE, augmentation="difaugment"))
    with pytest.raises(InputError, match=r"from 0 to 1, not 1\.5"):
        augmentation(replace(NONE, augmentation_p=1.5))
    assert set(sg.PRESETS) < set(AUGMENTATIONS)


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_diffaugment_equals_plain_loops(p: float) -> None:
    """Per image and operation, on padded and sliced arrays, with the numbers that the module draws."""
    n, h, w = 40, 16, 24
    augment, x = DiffAugment(), images(n, h, w)
    augment.p.fill_(p)
    out = augment(x, generator=seeded(3))
    draws = torch.rand(10, n, 1, 1, 1, generator=seeded(3)).view(10, n).T.tolist()
    for image, result, u in zip(x, out, draws, strict=True):
        y = image.clone()
        if u[0] < p:
            y = y + (u[3] - 0.5)
            grey = y.mean(0)
            y = torch.stack([grey + (channel - grey) * 2 * u[4] for channel in y])
            y = y.mean() + (y - y.mean()) * (u[5] + 0.5)
        if u[1] < p:
            dy, dx = int(u[6] * 5) - 2, int(u[7] * 7) - 3
            padded = torch.zeros(3, h + 2 * 2, w + 2 * 3)
            padded[:, 2 : 2 + h, 3 : 3 + w] = y
            y = padded[:, 2 + dy : 2 + dy + h, 3 + dx : 3 + dx + w]
        if u[2] < p:
            top, left = int(u[8] * h) - h // 4, int(u[9] * w) - w // 4
            y = y.clone()
            y[:, max(top, 0) : max(top + h // 2, 0), max(left, 0) : max(left + w // 2, 0)] = 0
        torch.testing.assert_close(result, y, rtol=1e-5, atol=1e-5)


def test_diffaugment_treats_the_share_p_of_images() -> None:
    augment, x = DiffAugment(), images(1).expand(4000, -1, -1, -1)
    augment.p.fill_(0.3)
    changed = ((augment(x, generator=seeded()) - x).abs() > 1e-4).flatten(1).any(1).float().mean().item()
    # Nothing happens to (1 − p)³ of them, and a shift by 0 to 1 in 25 of those that are only shifted.
    assert changed == pytest.approx(1 - 0.7**3 - 0.3 * 0.7**2 / 25, abs=0.03)


def test_diffaugment_has_first_and_second_derivatives() -> None:
    augment, x = DiffAugment(), images(2, 8, 8).double().requires_grad_()

    def run(x: Tensor) -> Tensor:
        return augment(x, generator=seeded(1)).square()

    assert torch.autograd.gradcheck(run, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, x, fast_mode=True)
