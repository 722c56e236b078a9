"""The augmentation's random mode, its derivatives and the controller; numbers are in test_golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vendor.stylegan2_ada as sg
from vendor.stylegan2_ada.augment import BAND_POWER, SYM2, _amplify, _Draws, _filter_bank, _Sample


def images(n: int = 8, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_random_mode_draws_from_the_generator_only() -> None:
    pipe, x = sg.AugmentPipe(**sg.PRESETS["bgc"]), images()
    before = torch.get_rng_state()
    first, again, other = (pipe(x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == x.shape
    assert first.isfinite().all()


def test_p_zero_changes_nothing_and_p_is_the_share_of_changed_images() -> None:
    pipe, x = sg.AugmentPipe(brightness=1), images(2000, 4)
    pipe.p.zero_()
    assert pipe(x) is x
    pipe.p.fill_(0.3)
    changed = (pipe(x, generator=torch.Generator().manual_seed(0)) != x).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("size", [16, 32])
def test_the_identity_is_exact(size: int) -> None:
    """The wavelet is orthonormal: resampling on the grid gives back the image, its border included."""
    x = images(4, size)
    kept = sg.AugmentPipe(scale=1)(x, debug_percentile=torch.tensor(0.5))
    torch.testing.assert_close(kept, x, rtol=0, atol=1e-5)


def smooth(n: int = 1, size: int = 16) -> Tensor:
    """Images without detail, different under every flip and turn."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    return torch.stack([x + 0.3 * y, x * y, y - 0.2 * x]).expand(n, -1, -1, -1)


def test_mirrored_and_turned_in_equal_shares() -> None:
    x = smooth(2000)
    out = sg.AugmentPipe(xflip=1, rotate90=1)(x, generator=torch.Generator().manual_seed(0))
    views = [v.rot90(k, (2, 3))[:1] for v in (x, x.flip(3)) for k in range(4)]
    shares = torch.stack([(out - v).abs().mean((1, 2, 3)) < 0.02 for v in views]).float().mean(1)
    assert shares.sum().item() == pytest.approx(1.0)
    # Half of the samples are not mirrored; a quarter of the turns each.
    assert (shares - 1 / 8).abs().max() < 0.03


def test_geometry_is_linear_and_reflects_at_the_border() -> None:
    pipe = sg.AugmentPipe(**sg.PRESETS["bg"])
    x, y = images(4), images(4).flip(0)

    def run(x: Tensor) -> Tensor:
        return pipe(x, generator=torch.Generator().manual_seed(4))

    torch.testing.assert_close(run(2 * x - 3 * y), 2 * run(x) - 3 * run(y), rtol=1e-4, atol=1e-4)
    shift = sg.AugmentPipe(xfrac=1)(torch.ones(2, 3, 16, 16), debug_percentile=torch.tensor(0.9))
    torch.testing.assert_close(shift, torch.ones_like(shift), rtol=0, atol=0.01)


def test_sampling_and_its_adjoint_have_all_derivatives() -> None:
    x = images(2, 5).double().requires_grad_()
    grid = (torch.rand(2, 6, 4, 2, dtype=torch.float64) * 2.4 - 1.2).detach()
    assert torch.autograd.gradcheck(lambda x: _Sample.apply(x, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: _Sample.apply(x, grid).square(), x)


def test_grey_images_and_other_channel_counts() -> None:
    pipe = sg.AugmentPipe(**sg.PRESETS["bgc"])
    assert pipe(images()[:, :1]).shape == (8, 1, 16, 16)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        pipe(images()[:, :2])


def test_controller_moves_p_both_ways_within_bounds() -> None:
    pipe, ada = sg.AugmentPipe(), sg.AdaptiveAugmentation(target=0.6, images=100)
    pipe.p.zero_()
    overfitting, healthy = torch.ones(16, 1), torch.tensor([[1.0], [-1.0]]).repeat(8, 1)
    with pytest.raises(ValueError, match="observed"):
        ada.adjust(pipe)
    ada.observe(healthy)
    assert ada.adjust(pipe) == 0
    assert pipe.p == 0
    ada.observe(overfitting)
    ada.observe(overfitting)
    assert ada.adjust(pipe) == 1
    assert pipe.p.item() == pytest.approx(0.32)
    ada.observe(healthy)
    ada.adjust(pipe)
    assert pipe.p.item() == pytest.approx(0.16)
    for _ in range(10):
        ada.observe(overfitting)
        ada.adjust(pipe)
    assert pipe.p == 1


def test_controller_resumes_between_adjustments() -> None:
    pipe, ada = sg.AugmentPipe(), sg.AdaptiveAugmentation()
    ada.observe(torch.ones(3, 1))
    resumed = sg.AdaptiveAugmentation()
    resumed.load_state_dict(ada.state_dict())
    for controller in (ada, resumed):
        controller.observe(-torch.ones(1, 1))
    assert ada.adjust(pipe) == resumed.adjust(pipe) == 0.5


def test_bands_have_the_responses_of_the_wavelets_halves() -> None:
    """Against the products of the wavelet's squared response at ω, 2ω and 4ω."""
    omega = torch.linspace(0, torch.pi, 65, dtype=torch.float64)

    def low(w: Tensor) -> Tensor:
        phases = torch.exp(1j * w[:, None] * torch.arange(4))
        return (phases @ torch.tensor(SYM2, dtype=torch.complex128)).abs().square() / 2

    high = [1 - low(w) for w in (omega, 2 * omega, 4 * omega)]
    expected = [
        low(omega) * low(2 * omega) * low(4 * omega),
        low(omega) * low(2 * omega) * high[2],
        low(omega) * high[1],
        high[0],
    ]
    bank = _filter_bank().double()
    centred = torch.cos(omega[:, None] * (torch.arange(bank.shape[1]) - bank.shape[1] // 2))
    torch.testing.assert_close(bank @ centred.T, torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 64), (16, 8)])
def test_bands_are_amplified_as_by_convolution_with_reflection(shape: tuple[int, int]) -> None:
    x = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(_amplify(x, torch.ones(3, 4)), x, rtol=0, atol=1e-5)
    gains = torch.tensor([[1.0, 0.5, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0], [3.0, 0.0, 0.1, 1.0]])
    taps = gains @ _filter_bank()
    expected = []
    for image, f in zip(x, taps, strict=True):
        y = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (21, 21), (21, 21)), mode="reflect"))[None]
        y = F.conv2d(y, f.expand(2, 1, 1, -1), groups=2)
        expected.append(F.conv2d(y, f[:, None].expand(2, 1, -1, 1), groups=2)[0])
    torch.testing.assert_close(_amplify(x, gains), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("band", range(4))
def test_a_bands_gain_keeps_the_expected_power(band: int) -> None:
    pipe = sg.AugmentPipe(imgfilter=1, imgfilter_bands=[float(i == band) for i in range(4)])
    gains = pipe._gains(_Draws(500, torch.Generator().manual_seed(0), None), 1.0)
    power = (torch.tensor(BAND_POWER) * gains.square()).sum(1)
    assert gains[:, band].log2().std() > 0.1
    torch.testing.assert_close(power, torch.ones(500))
    assert torch.equal(pipe._gains(_Draws(2, torch.Generator().manual_seed(0), None), 0.0), torch.ones(2, 4))


def test_noise_is_normal_with_a_half_normal_deviation() -> None:
    x = torch.zeros(2000, 3, 8, 8)
    sigma = sg.AugmentPipe(noise=1)(x, generator=torch.Generator().manual_seed(0)).std((1, 2, 3))
    assert sigma.mean().item() == pytest.approx(0.1 * (2 / torch.pi) ** 0.5, rel=0.05)
    assert sigma.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)


def test_cutout_is_a_rectangle_of_half_the_size_anywhere() -> None:
    x = torch.ones(1, 3, 16, 8)
    middle = sg.AugmentPipe(cutout=1)(x, debug_percentile=torch.tensor(0.5))
    expected = x.clone()
    expected[:, :, 4:12, 2:6] = 0
    assert torch.equal(middle, expected)
    many = torch.ones(4000, 1, 16, 16)
    pipe = sg.AugmentPipe(cutout=1)
    pipe.p.fill_(0.5)
    out = pipe(many, generator=torch.Generator().manual_seed(0))
    # An interval of ½ about a uniform centre covers 7/16 of the side on average.
    assert out.mean().item() == pytest.approx(1 - 0.5 * (7 / 16) ** 2, abs=0.01)


def test_the_augmented_discriminator_has_the_derivatives_that_penalties_need() -> None:
    torch.manual_seed(0)
    D = sg.Discriminator(2, 8, 3, channel_base=32, channel_max=4).double()
    D.dtype = torch.float64
    pipe, c = sg.AugmentPipe(**sg.PRESETS["bgcfnc"]), torch.eye(2, dtype=torch.float64)

    def judge(x: Tensor) -> Tensor:
        return D(pipe(x, generator=torch.Generator().manual_seed(1)), c)

    x = images(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(judge, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(judge, x, fast_mode=True)
