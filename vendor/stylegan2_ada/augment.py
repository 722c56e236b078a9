"""Stochastic discriminator augmentation (arXiv 2006.06676, appendix B).

Pixel blitting, geometry, colour, filtering of frequency bands and corruptions (noise, cutout), in this order.

All geometric transforms of a sample are one 3×3 matrix and all colour transforms one 4×4 matrix. The image is
resampled once: padded by reflection, upsampled by 2 with the sym6 wavelet's low-pass filter, sampled
bilinearly, and brought back with the same filter. Padding and filters are linear along each axis, so each is a
small dense matrix, which is quick on any device and differentiable any number of times. So are the band
filters, one matrix per image and axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import _randn

BLIT = {"xflip": 1, "rotate90": 1, "xint": 1}
GEOMETRY = {"scale": 1, "rotate": 1, "aniso": 1, "xfrac": 1}
COLOUR = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 1, "saturation": 1}
FILTER = {"imgfilter": 1}
NOISE = {"noise": 1}
CUTOUT = {"cutout": 1}
PRESETS: dict[str, dict[str, Any]] = {
    "blit": BLIT,
    "geom": GEOMETRY,
    "color": COLOUR,
    "filter": FILTER,
    "noise": NOISE,
    "cutout": CUTOUT,
    "bg": BLIT | GEOMETRY,
    "bgc": BLIT | GEOMETRY | COLOUR,
    "bgcf": BLIT | GEOMETRY | COLOUR | FILTER,
    "bgcfn": BLIT | GEOMETRY | COLOUR | FILTER | NOISE,
    "bgcfnc": BLIT | GEOMETRY | COLOUR | FILTER | NOISE | CUTOUT,
}

# Low-pass filter of Daubechies' least asymmetric wavelet with 6 vanishing moments.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
MARGIN = len(SYM6) // 4  # pixels at each side that the filter reaches into
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected in natural images, from low to high frequencies


class _Sample(torch.autograd.Function):
    """Bilinear sampling with zeros outside, linear in the image.

    PyTorch's own has no second derivative; here it and its adjoint are each other's derivative.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(grad[0], grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        x = g.new_empty(1).expand(shape)  # only its shape is read: the sampling is linear in it
        bilinear, zeros = 0, 0
        mask = (True, False)
        return torch.ops.aten.grid_sampler_2d_backward(g, x, grid, bilinear, zeros, False, mask)[0]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad[0], grid), None, None


def _filter_matrix(taps: Tensor, n: int, up: int, down: int, pad: int, size: int) -> Tensor:
    """size×n matrix that inserts up − 1 zeros after each sample, pads ``pad`` in front, correlates, decimates."""
    k = torch.arange(n) * up + pad - torch.arange(size)[:, None] * down
    inside = (k >= 0) & (k < len(taps))
    return torch.where(inside, taps[k.clamp(0, len(taps) - 1)], 0.0)


def _upsampling_matrix(n: int, before: int, after: int) -> Tensor:
    """2(before + n + after)×n: reflection padding, then twice the samples through the sym6 filter."""
    padded = before + n + after
    i = (torch.arange(padded) - before).abs()
    reflect = torch.eye(n)[(n - 1) - ((n - 1) - i).abs()]
    taps = torch.tensor(SYM6)
    taps = 2 * taps / taps.sum()
    return _filter_matrix(taps.flip(0), padded, 2, 1, len(SYM6) // 2, 2 * padded) @ reflect


def _downsampling_matrix(n: int) -> Tensor:
    """n×2(n + 2·MARGIN): half the samples through the sym6 filter, the margins cut off."""
    taps = torch.tensor(SYM6)
    return _filter_matrix(taps / taps.sum(), 2 * (n + 2 * MARGIN), 1, 2, -1, n)


def _resample(images: Tensor, inverse: Tensor) -> Tensor:
    """Transform N×C×H×W by N×3×3 matrices (CPU) from output to input pixels, the centre being the origin."""
    _, _, h, w = images.shape
    size = torch.tensor([w, h])
    centre = (size - 1) / 2
    corners = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]) * centre[:, None]
    corners = inverse[:, :2, :2] @ corners + inverse[:, :2, 2:]
    reach = 2 * MARGIN - centre
    before = (-corners).amax((0, 2)) + reach
    after = corners.amax((0, 2)) + reach
    before, after = (m.clamp(min=0).minimum(size - 1).ceil().int() for m in (before, after))

    def as_images(matrix: Tensor) -> Tensor:
        return matrix.to(images.device, images.dtype)

    up_x = as_images(_upsampling_matrix(w, int(before[0]), int(after[0])))
    up_y = as_images(_upsampling_matrix(h, int(before[1]), int(after[1])))
    x = up_y @ images @ up_x.t()

    # Matrices act on pixels about the centre; affine_grid and grid_sample count from −1 to 1 across the image.
    # A filtered sample sits half a fine pixel before its coarse one, hence the shift by ½ around the transform.
    big = torch.tensor([x.shape[3], x.shape[2]])
    out = 2 * (size + 2 * MARGIN)
    shift = (before - after).float()  # of the origin by the padding, in fine pixels
    linear = inverse[:, :2, :2]
    offset = 2 * inverse[:, :2, 2] + shift - 0.5 + (linear @ torch.tensor([0.5, 0.5]))
    theta = torch.cat([linear * out / big[:, None], (offset * 2 / big)[:, :, None]], dim=2)
    shape = [len(images), images.shape[1], int(out[1]), int(out[0])]
    grid = F.affine_grid(theta, shape, align_corners=False)
    x = _Sample.apply(x, as_images(grid))

    down_x, down_y = as_images(_downsampling_matrix(w)), as_images(_downsampling_matrix(h))
    return down_y @ x @ down_x.t()


def _filter_bank() -> Tensor:
    """4×43: filters of the frequencies up to π/8, π/4, π/2 and π; symmetric, and their sum is the identity.

    From the squared responses of the sym2 wavelet's halves L and H, L + H = 1: the bands are
    L(ω)L(2ω)L(4ω), L(ω)L(2ω)H(4ω), L(ω)H(2ω) and H(ω).
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1) ** np.arange(1, len(low) + 1)
    bank = np.ones((1, 1))
    for _ in range(len(BAND_POWER) - 1):
        spread = np.zeros((len(bank), 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        lower = np.stack([np.convolve(band, low) for band in spread])
        bank = np.vstack([lower, np.pad(high, (lower.shape[1] - len(high)) // 2)])
    return torch.from_numpy(bank).float()


def _band_matrices(n: int) -> Tensor:
    """4×n×n: each band's filter along an axis that is reflected at both ends, as often as it takes."""
    bank = _filter_bank()
    taps = bank.shape[1]
    period = max(2 * (n - 1), 1)
    read = (torch.arange(n)[:, None] + torch.arange(taps) - taps // 2) % period
    read = read.minimum(period - read)
    matrices = torch.zeros(len(bank), n, n)
    return matrices.scatter_add_(2, read.expand(len(bank), -1, -1), bank[:, None].expand(-1, n, -1))


def _amplify(images: Tensor, gains: Tensor) -> Tensor:
    """Multiply the frequency bands of N×C×H×W, along both axes, by gains N×4 (CPU)."""
    along_y, along_x = (
        torch.einsum("nb,bij->nij", gains, _band_matrices(size)).to(images.device, images.dtype)[:, None]
        for size in images.shape[2:]
    )
    return along_y @ images @ along_x.mT


def _matrix(rows: list[list[Tensor | float]], n: int) -> Tensor:
    """N×k×k matrix of rows that hold numbers and N-vectors."""
    return torch.stack([torch.stack([torch.as_tensor(v).expand(n).float() for v in r], -1) for r in rows], -2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], len(x))


def _rotation(theta: Tensor) -> Tensor:
    cos, sin = theta.cos(), theta.sin()
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], len(theta))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], len(x))


class _Draws:
    """Random numbers for a batch, or one fixed percentile for all of them."""

    def __init__(self, n: int, generator: torch.Generator | None, percentile: Tensor | None) -> None:
        self.n, self.generator, self.q = n, generator, percentile
        self.device = generator.device if generator is not None else "cpu"

    def uniform(self, *shape: int) -> Tensor:
        if self.q is not None:
            return self.q.expand(self.n, *shape)
        return torch.rand(self.n, *shape, generator=self.generator, device=self.device).cpu()

    def normal(self, *shape: int) -> Tensor:
        if self.q is not None:
            return torch.erfinv(2 * self.q - 1).expand(self.n, *shape)
        return torch.randn(self.n, *shape, generator=self.generator, device=self.device).cpu()

    def half_normal(self) -> Tensor:
        if self.q is not None:
            return torch.erfinv(self.q).expand(self.n)
        return self.normal().abs()

    def sometimes(self, probability: float, value: Tensor, neutral: float) -> Tensor:
        """``value`` for the samples that a coin picks, else ``neutral``."""
        if self.q is not None:
            return value
        coin = torch.rand(self.n, generator=self.generator, device=self.device).cpu() < probability
        return torch.where(coin.view(-1, *[1] * (value.ndim - 1)), value, neutral)


class AugmentPipe(nn.Module):
    """Transforms every image by chance, so that D cannot learn the training set by heart.

    Args:
        xflip, rotate90, xint, scale, rotate, aniso, xfrac, brightness, contrast, lumaflip, hue, saturation, imgfilter,
            noise, cutout: probability multipliers; each transform happens with that times ``p``. PRESETS has the
            usual combinations: ``AugmentPipe(**PRESETS["bgc"])``.
        xint_max: largest shift by whole pixels, as a share of the size.
        scale_std, aniso_std, contrast_std, saturation_std: standard deviation of the factor's log₂.
        xfrac_std: standard deviation of the shift, as a share of the size.
        brightness_std: standard deviation of what is added, in image units.
        rotate_max, hue_max: largest angle, as a share of π.
        imgfilter_bands: probability multipliers of the four frequency bands, from low to high.
        imgfilter_std: standard deviation of the log₂ of a band's gain, before all are scaled to keep the power.
        noise_std: standard deviation of the half-normal from which the noise's standard deviation is drawn.
        cutout_size: sides of the grey rectangle, as a share of the image's.

    ``p`` is a buffer, a scalar in [0, 1]; set it with ``fill_``, or let AdaptiveAugmentation do so.
    """

    p: Tensor

    def __init__(
        self,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.ones([]))
        self.xflip, self.rotate90, self.xint, self.xint_max = xflip, rotate90, xint, xint_max
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.scale_std, self.rotate_max, self.aniso_std, self.xfrac_std = (
            scale_std,
            rotate_max,
            aniso_std,
            xfrac_std,
        )
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        self.imgfilter, self.imgfilter_bands, self.imgfilter_std = imgfilter, imgfilter_bands, imgfilter_std
        self.noise, self.cutout, self.noise_std, self.cutout_size = noise, cutout, noise_std, cutout_size

    def forward(
        self,
        images: Tensor,
        debug_percentile: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images N×C×H×W, about in [−1, 1] → the same shape.

        Args:
            debug_percentile: a scalar in (0, 1) that stands for every draw, and every transform happens.
            generator: source of all random numbers, else PyTorch's global CPU state.

        Raises:
            ValueError: colour transforms of images that have neither 1 nor 3 channels.
        """
        p = float(self.p)
        if p == 0 and debug_percentile is None:
            return images
        n, c, h, w = images.shape
        q = None if debug_percentile is None else torch.as_tensor(debug_percentile).float().cpu()
        draws = _Draws(n, generator, q)
        inverse = self._geometry(draws, p, h, w)
        if inverse is not None:
            images = _resample(images, inverse)
        colour = self._colour(draws, p, c)
        if colour is not None:
            if c not in (1, 3):
                raise ValueError(f"Colours can be augmented in images of 1 or 3 channels, not {c}.")
            colour = colour[:, :3] if c == 3 else colour[:, :3].mean(1, keepdim=True)
            linear = colour[:, :, :3] if c == 3 else colour[:, :, :3].sum(2, keepdim=True)
            linear, shift = (m.to(images.device, images.dtype) for m in (linear, colour[:, :, 3:]))
            images = torch.baddbmm(shift, linear, images.reshape(n, c, h * w)).reshape(images.shape)
        if self.imgfilter:
            images = _amplify(images, self._gains(draws, p))
        if self.noise:
            sigma = draws.sometimes(self.noise * p, draws.half_normal() * self.noise_std, 0)
            sigma = sigma.to(images.device, images.dtype)[:, None, None, None]
            images = images + sigma * _randn(images.shape, images.device, generator).to(images.dtype)
        if self.cutout:
            images = images * self._outside_of_hole(draws, p, h, w).to(images.device)
        return images

    def _gains(self, draws: _Draws, p: float) -> Tensor:
        """N×4: each band in turn by chance louder or softer, all then scaled to the expected power of before."""
        power = torch.tensor(BAND_POWER)
        gains = torch.ones(draws.n, len(power))
        for band, share in enumerate(self.imgfilter_bands):
            factor = draws.sometimes(
                self.imgfilter * share * p, (draws.normal() * self.imgfilter_std).exp2(), 1
            )
            t = torch.ones_like(gains)
            t[:, band] = factor
            gains = gains * t / (power * t.square()).sum(1, keepdim=True).sqrt()
        return gains

    def _outside_of_hole(self, draws: _Draws, p: float, h: int, w: int) -> Tensor:
        """N×1×H×W: whether a pixel is kept by cutout."""
        size = draws.sometimes(self.cutout * p, torch.full((draws.n,), self.cutout_size), 0)
        centre = draws.uniform(2)

        def distance(n: int, centre: Tensor) -> Tensor:
            return ((torch.arange(n) + 0.5) / n - centre[:, None]).abs()

        kept_x, kept_y = (distance(n, centre[:, i]) >= size[:, None] / 2 for i, n in enumerate((w, h)))
        return (kept_y[:, :, None] | kept_x[:, None, :])[:, None]

    def _geometry(self, draws: _Draws, p: float, h: int, w: int) -> Tensor | None:
        """N×3×3 from output to input pixels about the centre; None where no geometric transform is on."""
        chain: list[Tensor] = []  # inverses, in the order in which the transforms happen
        if self.xflip:
            flip = draws.sometimes(self.xflip * p, (draws.uniform() * 2).floor(), 0)
            chain.append(_scaling(1 - 2 * flip, torch.ones_like(flip)))
        if self.rotate90:
            turns = draws.sometimes(self.rotate90 * p, (draws.uniform() * 4).floor(), 0)
            chain.append(_rotation(turns * (pi / 2)))
        if self.xint:
            t = draws.sometimes(self.xint * p, (draws.uniform(2) * 2 - 1) * self.xint_max, 0)
            chain.append(_translation(-(t[:, 0] * w).round(), -(t[:, 1] * h).round()))
        if self.scale:
            s = draws.sometimes(self.scale * p, (draws.normal() * self.scale_std).exp2(), 1)
            chain.append(_scaling(1 / s, 1 / s))
        p_rotate = 1 - max(1 - self.rotate * p, 0) ** 0.5  # either rotation happens with probability rotate·p
        if self.rotate:
            theta = draws.sometimes(p_rotate, (draws.uniform() * 2 - 1) * (pi * self.rotate_max), 0)
            chain.append(_rotation(theta))
        if self.aniso:
            s = draws.sometimes(self.aniso * p, (draws.normal() * self.aniso_std).exp2(), 1)
            chain.append(_scaling(1 / s, s))
        if self.rotate and draws.q is None:  # a fixed percentile turns before the anisotropic scaling only
            theta = draws.sometimes(p_rotate, (draws.uniform() * 2 - 1) * (pi * self.rotate_max), 0)
            chain.append(_rotation(theta))
        if self.xfrac:
            t = draws.sometimes(self.xfrac * p, draws.normal(2) * self.xfrac_std, 0)
            chain.append(_translation(-t[:, 0] * w, -t[:, 1] * h))
        return _product(chain)

    def _colour(self, draws: _Draws, p: float, channels: int) -> Tensor | None:
        """N×4×4 on homogeneous colours; None where no colour transform is on."""
        n = draws.n
        chain: list[Tensor] = []
        eye = torch.eye(4)
        luma = torch.tensor([1.0, 1.0, 1.0, 0.0]) / 3**0.5
        along = luma.outer(luma)  # projects on the luma axis
        if self.brightness:
            b = draws.sometimes(self.brightness * p, draws.normal() * self.brightness_std, 0)
            chain.append(_matrix([[1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]], n))
        if self.contrast:
            s = draws.sometimes(self.contrast * p, (draws.normal() * self.contrast_std).exp2(), 1)
            chain.append(_matrix([[s, 0, 0, 0], [0, s, 0, 0], [0, 0, s, 0], [0, 0, 0, 1]], n))
        if self.lumaflip:
            flip = draws.sometimes(self.lumaflip * p, (draws.uniform() * 2).floor(), 0)
            chain.append(eye - 2 * along * flip[:, None, None])
        if self.hue and channels > 1:
            theta = draws.sometimes(self.hue * p, (draws.uniform() * 2 - 1) * (pi * self.hue_max), 0)
            x = luma[0]
            cross = torch.tensor([[0, -x, x, 0], [x, 0, -x, 0], [-x, x, 0, 0], [0, 0, 0, 0]])
            cos, sin = theta.cos()[:, None, None], theta.sin()[:, None, None]
            keep = along + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))
            chain.append(keep + cos * (eye - keep) + sin * cross)  # Rodrigues' formula
        if self.saturation and channels > 1:
            s = draws.sometimes(self.saturation * p, (draws.normal() * self.saturation_std).exp2(), 1)
            keep = along + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))
            chain.append(keep + (eye - keep) * s[:, None, None])
        return _product(chain[::-1])


def _product(chain: list[Tensor]) -> Tensor | None:
    return reduce(torch.matmul, chain) if chain else None
