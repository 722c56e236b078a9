"""What an image shows that no cell and no stain does: seams, checkerboards, blur and noise, one number each.

All are pure functions of one image, uint8 H×W×3 (RGB), and know nothing of cells: cameras and JPEG leave such traces in
real images too, so that each is to be compared with real images of the same origin and size.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

Array = np.ndarray

_PERIODS = (
    2,
    4,
)  # pixels, of the patterns that upsampling by 2 leaves in its last and in its last but one layer
_FINE = (0.2, 0.5)  # cycles per pixel
_COARSE = (0.04, 0.1)
_MEDIAN_OF_NORMAL = 0.6745  # of the magnitude of standard normal values,
_MIDDLE_OF_NORMAL = 0.6928  # and its mean between the quartiles


def _grey(image: Array) -> Array:
    return image.mean(2, dtype=np.float64)


def seam(image: Array) -> float:
    """The largest step of grey, in levels, that half of a whole row or column of pixels shares beside the next one.

    Across each line the step that the steps before and after it do not lead one to expect, its median along the line, less
    three of that median's standard errors: what chance makes of the worst of some 250 lines. Edges of cells cross a line
    here and there, light and dark ones alike; a seam runs along it. Images of fewer than 4 pixels along a side give 0.
    Seams at other angles are not seen.
    """
    grey = _grey(image)
    if min(grey.shape) < 4:
        return 0.0
    worst = 0.0
    for plane in (grey, grey.T):
        step = np.diff(plane, axis=0)
        jump = step[1:-1] - (step[:-2] + step[2:]) / 2
        scatter = np.median(np.abs(jump)) / _MEDIAN_OF_NORMAL
        chance = 3 * np.sqrt(np.pi / 2 / jump.shape[1]) * scatter  # of the median of normal values
        worst = max(worst, float(np.abs(np.median(jump, axis=1)).max() - chance))
    return worst


def checkerboard(image: Array) -> float:
    """How far patterns of 2 or 4 pixels stand out of the spectrum, as a natural logarithm of power.

    Power of the Hann-windowed grey image at the frequencies 1/4 and 1/2 per pixel along either axis or both, each against
    the median of its surroundings (5 bins each way); the largest. Transposed convolutions leave peaks there (Odena et al.,
    "Deconvolution and checkerboard artifacts", Distill 2016; Zhang et al., arXiv 1907.06515). Images of fewer than 16
    pixels along a side give 0.
    """
    side = min(image.shape[:2]) // 4 * 4
    if side < 16:
        return 0.0
    grey = _grey(image[:side, :side])
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window * window[:, None])) ** 2 + side**2 * 1e-3
    places = {(side * i // 4, side * j // 4) for i in range(4) for j in range(3)} - {(0, 0)}
    worst = -np.inf
    for row, column in places:
        around = power.take(range(row - 5, row + 6), 0, mode="wrap").take(
            range(column - 5, column + 6), 1, mode="wrap"
        )
        peak = around[4:7, 4:7].mean()
        worst = max(worst, float(np.log(peak / np.median(around))))
    return worst


def sharpness(image: Array) -> float:
    """Fine detail beside coarse: natural logarithm of the power at 0.2 to 0.5 cycles per pixel over that at 0.04 to 0.1."""
    grey = _grey(image)
    window = np.hanning(grey.shape[0])[:, None] * np.hanning(grey.shape[1])
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1]))
    fine, coarse = (power[(frequency >= low) & (frequency < high)] for low, high in (_FINE, _COARSE))
    return float(np.log((fine.mean() + 1e-3) / (coarse.mean() + 1e-3))) if fine.size and coarse.size else 0.0


def noise(image: Array) -> float:
    """Standard deviation of white noise in grey levels, by the diagonal detail of the three channels.

    The finest diagonal Haar coefficients, of which edges fill few (Donoho and Johnstone, Biometrika 81, 1994), about their
    median, which a checkerboard moves and noise does not. Of their magnitudes the interquartile mean, since a median of
    whole numbers goes in steps.
    """
    plane = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2].astype(np.float64)
    detail = plane[::2, ::2] - plane[1::2, ::2] - plane[::2, 1::2] + plane[1::2, 1::2]
    if not detail.size:
        return 0.0
    size = np.abs(detail - np.median(detail, axis=(0, 1)))
    return float(stats.trim_mean(size, 0.25, axis=None)) / 2 / _MIDDLE_OF_NORMAL
