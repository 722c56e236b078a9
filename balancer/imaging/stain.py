"""Stain: local contrast, normalisation of colours to a reference, and their variation for training.

Images are uint8 H×W×3 RGB in [0, 255]. Optical density is −log10(I / I₀): I the light that a stain lets through, I₀
what falls on it (Beer and Lambert). Values of 0 count as 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from skimage.exposure import equalize_adapthist

from balancer.errors import InputError, unknown_name

# Colours of a lightness that CLAHE moved may lie outside of RGB; they are clipped.
warnings.filterwarnings("ignore", "Conversion from CIE-LAB", UserWarning)

Reference = dict[str, list[Any]]  # JSON values, each a statistic of `_STATISTICS`

# Reinhard et al. 2001, equations 2 and 4 to 6: RGB → cone responses LMS, and the logarithms of these → l, α, β.
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag(1 / np.sqrt([3, 6, 2])) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])
_FROM_LMS, _FROM_LAB = np.linalg.inv(_LMS), np.linalg.inv(_LAB)

# Macenko et al. 2009: β, the optical density below which a pixel is clear, and α, the percentiles that stand for the extremes.
_CLEAR = 0.15
_ALPHA = 1.0
_STRENGTH_PERCENTILE = 99.0
_BRIGHT = 0.9  # quantile of brightness from which pixels are taken for background
_FEWEST = 20  # stained pixels, below which percentiles of them mean nothing
_APART = np.radians(2)  # stains that are nearer to each other cannot be told apart

# Tellez et al. 2019 ("light"): how far a stain's amount is stretched and shifted at most.
HED_LIGHT = 0.05


def _density(pixels: np.ndarray, light: np.ndarray | float = 255.0) -> np.ndarray:
    """Optical density, float64, of the same shape; of `light` per channel."""
    return np.log10(light) - _LOG[pixels]


_LOG = np.log10(np.maximum(np.arange(256), 1))


def _from_density(density: np.ndarray, light: np.ndarray | float = 255.0) -> np.ndarray:
    return _to_uint8(light * 10.0**-density)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def clahe(image: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of CIELAB lightness; hues stay.

    Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994, as scikit-image has it: 8×8
    tiles, clip limit 0.01, lightness stretched to the full range first. An image of one lightness stays as it is.
    """
    lab = rgb2lab(image)
    lightness = lab[..., 0] / 100
    if np.ptp(lightness) < 1e-3:  # less than a grey level: nothing to stretch
        return image.copy()
    lab[..., 0] = 100 * equalize_adapthist(lightness.clip(0, 1))
    return _to_uint8(255 * lab2rgb(lab))


def _reinhard_space(image: np.ndarray) -> np.ndarray:
    lms = np.maximum(image / 255, 1 / 255) @ _LMS.T
    return np.log10(lms) @ _LAB.T


def _reinhard_statistics(image: np.ndarray) -> dict[str, np.ndarray]:
    values = _reinhard_space(image).reshape(-1, 3)
    return {"mean": values.mean(0), "std": values.std(0)}


def reinhard(image: np.ndarray, reference: Mapping[str, Any]) -> np.ndarray:
    """Give an image the mean and the standard deviation of the reference in l, α and β.

    Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001, equations
    10 and 11. Of a channel without variation the mean alone is set. `reference`: `mean` and `std`, three numbers each.
    """
    values = _reinhard_space(image)
    own = _reinhard_statistics(image)
    mean, std = np.asarray(reference["mean"]), np.asarray(reference["std"])
    # A channel whose spread is that of rounding alone would be blown up to noise.
    stretch = np.where(own["std"] > 1e-3, std / np.maximum(own["std"], 1e-3), 1.0)
    lms = 10.0 ** (((values - own["mean"]) * stretch + mean) @ _FROM_LAB.T)
    return _to_uint8(255 * (lms @ _FROM_LMS.T))


def _macenko_statistics(image: np.ndarray) -> dict[str, np.ndarray]:
    """`light` 3, of the background; `stains` 2×3, unit vectors of optical density, the bluer one first; `strengths`
    2, near the largest amounts. Raises InputError where fewer than two stains can be seen.
    """
    pixels = image.reshape(-1, 3)
    brightness = pixels.sum(1)
    light = np.maximum(np.median(pixels[brightness >= np.quantile(brightness, _BRIGHT)], axis=0), 1)
    density = np.maximum(
        _density(pixels, light), 0
    )  # what is brighter than the background, as a halo, is clear
    stained = density[np.linalg.norm(density, axis=1) >= _CLEAR]
    if len(stained) < _FEWEST:
        raise InputError(
            f"only {len(stained)} of its pixels are stained, where Macenko's method needs {_FEWEST}"
        )
    # The plane of the two stains: the two largest singular directions, the first one pointing to more stain.
    plane = np.linalg.svd(stained.T @ stained)[0][:, :2]
    plane[:, 0] *= np.sign(plane[:, 0].sum()) or 1
    angle = np.arctan2(stained @ plane[:, 1], stained @ plane[:, 0])
    extremes = np.percentile(angle, [_ALPHA, 100 - _ALPHA])
    stains = np.maximum([plane @ [np.cos(a), np.sin(a)] for a in extremes], 0)  # no stain makes light
    stains /= np.maximum(np.linalg.norm(stains, axis=1, keepdims=True), 1e-9)
    if not stains.any(1).all() or stains[0] @ stains[1] > np.cos(_APART):
        raise InputError("it has one stain only, where Macenko's method needs two")
    stains = stains[np.argsort(stains[:, 2])]  # azure lets blue through, eosin and haemoglobin do not
    strengths = np.percentile(_amounts(density, stains), _STRENGTH_PERCENTILE, axis=0)
    return {"light": light, "stains": stains, "strengths": strengths}


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """How much of each stain pixels hold, by least squares: …×2 of …×3."""
    return density @ np.linalg.pinv(stains)


def macenko(image: np.ndarray, reference: Mapping[str, Any]) -> np.ndarray:
    """Take an image's two stains apart, and put them together again in the hues and strengths of the reference.

    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009: the extreme
    directions (1st and 99th percentile) in the plane of the two largest singular vectors of the optical densities
    that are not clear; the 99th percentile of a stain's amount is its strength. Unlike there, the incident light is
    that of the image's background (the median of the brightest tenth), since cameras on smears seldom leave it white;
    and what the two stains do not explain is kept. `reference`: `light` (3), `stains` (2×3 unit vectors) and `strengths` (2).
    Raises InputError with half a sentence for an image in which two stains cannot be seen: one colour, one pixel,
    nothing but background.
    """
    own = _macenko_statistics(image)
    light, stains, strengths = (np.asarray(reference[key]) for key in ("light", "stains", "strengths"))
    density = _density(image, own["light"])
    amounts = _amounts(density, own["stains"])
    rest = density - amounts @ own["stains"]
    return _from_density(amounts * (strengths / np.maximum(own["strengths"], 1e-3)) @ stains + rest, light)


_STATISTICS: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "reinhard": _reinhard_statistics,
    "macenko": _macenko_statistics,
}
_NORMALISE = {"reinhard": reinhard, "macenko": macenko}
STAINS = ("clahe", "reinhard", "macenko")


def reference_of(name: str, images: Iterable[np.ndarray]) -> Reference:
    """What `normalise` brings images to: the median, over images, of each statistic; empty for clahe, which needs none.

    The median, since a few odd images then count for nothing. Images in which the stains cannot be seen are passed
    over; raises InputError when no image is left, and for an unknown name.
    """
    if name not in STAINS:
        raise unknown_name("stain normalisation", name, STAINS)
    if name not in _STATISTICS:
        return {}
    found = []
    for image in images:
        try:
            found.append(_STATISTICS[name](image))
        except InputError:
            continue
    if not found:
        raise InputError(
            f"In no train image can the stains be seen that {name} normalises; leave {name} out."
        )
    medians = {key: np.median([one[key] for one in found], axis=0) for key in found[0]}
    if "stains" in medians:
        medians["stains"] /= np.linalg.norm(medians["stains"], axis=1, keepdims=True)
    return {key: value.round(6).tolist() for key, value in medians.items()}


def normalise(name: str, image: np.ndarray, reference: Mapping[str, Any]) -> np.ndarray:
    """Apply clahe, reinhard or macenko to one image, uint8 H×W×3; same shape and dtype.

    `reference` is what `reference_of` gives. Raises InputError for an unknown name, and as `macenko` does.
    """
    if name not in STAINS:
        raise unknown_name("stain normalisation", name, STAINS)
    return clahe(image) if name == "clahe" else _NORMALISE[name](image, reference)


def vary(images: np.ndarray, stretch: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Vary the amounts of haematoxylin, eosin and residue: uint8 N×H×W×3 → the same.

    Tellez et al., "Quantifying the effects of data augmentation and stain color normalization in convolutional neural
    networks for computational pathology", Medical Image Analysis 58, 2019: each amount c becomes c·`stretch` + `shift`
    (float N×3 each; 1 and 0 change nothing), c in optical density along the three stains of Ruifrok and Johnston 2001.
    These span all colours, so that it serves Romanowsky stains too.
    """
    # c = d·A with d the density and A the inverse of the stains' matrix S: d' = d·(A·diag(stretch)·S) + shift·S.
    mixed = ((hed_from_rgb * stretch[:, None, :]) @ rgb_from_hed).astype(np.float32)
    offset = (shift @ rgb_from_hed)[:, None, :].astype(np.float32)
    density = _DENSITY[images].reshape(len(images), -1, 3)
    return _from_density(density @ mixed + offset).reshape(images.shape)


_DENSITY = _density(np.arange(256)).astype(np.float32)
