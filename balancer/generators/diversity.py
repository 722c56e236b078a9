"""Whether training still goes well: a class whose images are no longer varied, a discriminator that overfits.

A conditional generator collapses on its smallest class first.

The feature is the image averaged down to 16×16 pixels of three channels. A collapsed class shows one picture again
and again, which any feature that tells pictures apart shows; this one needs no network, so that every class is
looked at in every tick. Averaging drops fine noise, which a collapsed generator can still add, and keeps place, shape
and colour of cell and nucleus. It says nothing of quality: unlike pictures may all be poor ones.

m pictures that are shown equally often are about 1 − 1/m as varied as the real images, so that the measure finds the
loss of nearly all modes and no finer one; for that there is the gate. On PBC at 64 px a single picture with noise of
12 grey levels measured 0.1 and two such pictures 0.57 (0.37 and 0.7 without the averaging); StyleGAN2-ADA from
scratch was at 0.4 to 0.8 after 20 kimg; 24 real images are at 1 ± 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist

SIDE = 16  # pixels of the feature
COLLAPSED = (
    0.3  # a class less varied than this share of its real images, at two ticks in a row, has collapsed
)
WARM_UP = 20.0  # kimg that a class has for rising above it at first
NEARLY_BEST = 0.9
# Mean sign of the discriminator's outputs on real images at which it tells all of them, at two ticks in a row: of 41 runs on 8 to 60
# images of a class, the two that reached it had lost their images (KID above 0.4), none of the others had.
OVERFITTED = 0.99
FIRST_KIMG = 1.0  # before, discriminators begin by telling few images apart, and the mean is of few


def spread(images: np.ndarray) -> float | None:
    """Mean Euclidean distance between two of the images (uint8 N×R×R×3), averaged down to 16×16, in grey levels.

    A root mean square over pixels and channels; None when there are fewer than two images.
    """
    if len(images) < 2:
        return None
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    features = F.adaptive_avg_pool2d(x, min(SIDE, images.shape[1])).flatten(1).numpy()
    return float(pdist(features).mean() / np.sqrt(features.shape[1]))


def diversity(generated: np.ndarray, real: float | None) -> float | None:
    """Spread of generated images over that of real ones: 1 is as varied as real; None where that has no meaning."""
    made = spread(generated)
    return round(made / real, 4) if made is not None and real else None


def collapsed(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The classes that have collapsed at the last of the metrics' `lines`, and their diversity there.

    These are below COLLAPSED there and at the line before, and were above it before that or have been trained for
    WARM_UP kimg.
    """
    if len(lines) < 2:
        return {}
    found = {}
    for label, value in lines[-1]["diversity"].items():
        past = [line["diversity"].get(label) for line in lines[:-1]]
        risen = lines[-2]["kimg"] >= WARM_UP or any(v is not None and v >= COLLAPSED for v in past)
        if risen and all(v is not None and v < COLLAPSED for v in (value, past[-1])):
            found[label] = value
    return found


def troubles(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is wrong at the last of the metrics' `lines`: in a few words, and as a sentence."""
    found = {
        f"{label} collapsed": f"The images of class {label} have collapsed: they are {value:.0%} as varied as real ones."
        for label, value in collapsed(lines).items()
    }
    if len(lines) > 1 and all(map(overfitted, lines[-2:])):
        found["the discriminator overfitted"] = (
            f"The discriminator knows the train images by heart (mean sign {lines[-1]['real_sign']:.2f} on them), so that "
            "the generator learns nothing more from it; train shorter, on more classes, or with another --augment."
        )
    return found


def overfitted(line: Mapping[str, Any]) -> bool:
    """Whether the discriminator tells all real images from generated ones at a line of the metrics, and not at first."""
    return line["kimg"] >= FIRST_KIMG and line["real_sign"] >= OVERFITTED


def is_best(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last of the `lines` has the best checkpoint so far.

    A line is worth the diversity of its least varied class, at most 1, and nothing where the discriminator has
    overfitted. The best is the last one that is worth nine tenths of the highest: of ticks that are about equally
    varied the later is better trained.
    """
    worth = [
        0.0 if overfitted(line) else min([1.0, *(v for v in line["diversity"].values() if v is not None)])
        for line in lines
    ]
    return worth[-1] >= NEARLY_BEST * max(worth)
