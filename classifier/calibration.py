"""Probabilities that mean what they say, and sets of classes that hold the true one as often as is asked for.

Every function is pure: arrays in, numbers out. Both are fitted on the validation split. The same images chose the
step whose weights were kept (one of a handful), and patients may be few, so that neither is independent of the
network in the strict sense; what coverage is realised on test images is measured, not assumed.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

from balancer.errors import InputError

BINS = 15
_NO_SPREAD = 1e-6
UNSEEN_SHARE = 0.05  # of validation images that a class without train images may be given
_LEAST, _MOST = 0.05, 20.0  # temperatures looked at
_ROUNDING = 1e-9  # relative error of a product or quotient, with room to spare


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(z / T) of logits z from their softmax, float N×K: p^(1/T), normalised."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T under which the labels (int N) are likeliest, for `scaled` probabilities, float N×K.

    Guo et al. 2017, arXiv 1706.04599, section 4.2: least negative log-likelihood. Where no image is misclassified, ever
    smaller temperatures would be ever likelier, and T is 1.
    """
    if (probabilities.argmax(axis=1) == labels).all():
        return 1.0
    index = np.arange(len(labels))

    def loss(log_t: float) -> float:
        p = scaled(probabilities, math.exp(log_t))[index, labels]
        return float(-np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean())

    found = minimize_scalar(loss, bounds=(math.log(_LEAST), math.log(_MOST)), method="bounded")
    return float(math.exp(found.x))


def unseen_rule(logits: np.ndarray, novelty: np.ndarray, present: np.ndarray) -> np.ndarray:
    """By which rule a class without train images is the answer: w, v and t, float64 3×K, 0 for those `present` (bool K).

    From the validation images, none of which is of such a class, N at least 2: `logits` of their sentences, float N×K, and how
    unlike the train images they are, float N. The class k is the answer where w (l_k − max l_j) + v ν ≥ t, j over the
    classes with images: both in units of their standard deviation, and t such that `UNSEEN_SHARE` of the validation images
    would be given to k. The price is fixed, and no image of the class is needed. That novelty should open the way to unseen
    classes is from Socher et al. 2013 (arXiv 1301.3666); the sum is ours.
    """
    rule = np.zeros((3, len(present)))
    if not present.any():
        return rule
    for k in np.flatnonzero(~present):
        margin = logits[:, k] - logits[:, present].max(axis=1)
        w, v = (1 / max(float(values.std()), _NO_SPREAD) for values in (margin, novelty))
        rule[:, k] = w, v, np.quantile(w * margin + v * novelty, 1 - UNSEEN_SHARE)
    return rule


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """ECE in [0, 1]: Σ_b n_b / N · |accuracy_b − confidence_b| over bins of equal width of the largest probability.

    Naeini et al. 2015; with 15 bins as in Guo et al. 2017. A bin holds its upper edge.
    """
    return calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def calibration_gap(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The same from the largest probabilities, float N, and whether they are those of the label, bool N."""
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def conformal_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How strange each labelled image is, float N: 1 − p_label."""
    return 1 - probabilities[np.arange(len(labels)), labels]


def images_needed(coverage: float) -> int:
    """The fewest calibration images with which a set of that coverage can be less than all classes.

    >>> images_needed(0.9), images_needed(0.95), images_needed(0.99)
    (9, 19, 99)
    """
    return math.ceil(coverage / (1 - coverage) * (1 - _ROUNDING))


def check_coverage(coverage: float) -> None:
    """Raise InputError unless a coverage is above 0 and below 1."""
    if not 0 < coverage < 1:
        raise InputError(
            f"The coverage {coverage:g} is none: it is the share of images whose set shall hold the true class, above 0 "
            "and below 1; give 0.9."
        )


def conformal_limit(scores: np.ndarray, coverage: float) -> float:
    """The score up to which a class belongs to an image's set, from the scores of n calibration images, float n.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates, arXiv 2107.07511): the ⌈(n + 1)·coverage⌉-th
    smallest score. Of new images exchangeable with those of calibration, at least that share has the true class in its
    set, over all classes together: a rare class may be covered less. Raises InputError for a coverage that is none, and
    where the calibration images are too few for it.
    """
    check_coverage(coverage)
    rank = math.ceil((len(scores) + 1) * coverage * (1 - _ROUNDING))
    if rank > len(scores):
        raise InputError(
            f"A coverage of {coverage:g} takes at least {images_needed(coverage)} validation images, and this classifier "
            f"was calibrated on {len(scores)}; ask for less, or train it on data with a larger validation split."
        )
    return float(np.sort(scores)[rank - 1])


def conformal_sets(probabilities: np.ndarray, limit: float) -> np.ndarray:
    """Which classes belong to each image's set, bool N×K: those whose score 1 − p is at most `limit`.

    A set may be empty, or hold several classes.
    """
    return 1 - probabilities <= limit
