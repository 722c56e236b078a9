"""Copies of train images, image by image: the same picture in pixels, the same cell, or far too near in features.

Pixels and features are looked at in all flips and quarter turns, since cells have no up; the same cell is found wherever it
lies, however turned and up to 1.6 times as large. In features the measure is the distance to the nearest
train image over the mean distance to those next to it (Carlini et al. 2023, arXiv 2301.13188): an image in a crowd is
near to many, a copy to one. How small it may be is learned from real images.

The held-out images that a verdict rests on are sought among the candidates too, in pixels: where a generator had them after
all, the same images would lie on both sides, and every distance would be too small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from balancer.imaging.duplicates import apply_transform, find_copies
from balancer.imaging.same_cell import Look, look, pictures, same_cell_in
from balancer.quality.features import FeatureExtractor
from balancer.quality.neighbours import distances
from balancer.quality.reference import Embedded, Images, RealClass, Rules, parted, together

NEIGHBOURS = 10  # train images beyond the nearest, to which its distance is compared
TURNS = range(1, 8)  # the flips and quarter turns but for the identity


@dataclass(frozen=True)
class Copies:
    """What was found about each of N images."""

    nearest: np.ndarray  # object N, the name of the real image that it copies, or None
    similarity: np.ndarray  # float N in [-1, 1], correlation in pixels with the train image most like it
    relative_distance: np.ndarray  # float N in [0, 1], in features; NaN where there are too few train images
    reasons: list[str | None]  # N sentences, None for an image that is no copy

    @property
    def count(self) -> int:
        """How many of the images are copies."""
        return sum(reason is not None for reason in self.reasons)

    def table(self) -> pd.DataFrame:
        """The scores, a row for each image."""
        return pd.DataFrame(
            {
                "nearest_train": pd.Series(self.nearest, dtype=object),
                "similarity": np.asarray(self.similarity, dtype=np.float64),
                "relative_distance": self.relative_distance,
            }
        )


def none_sought(n: int) -> Copies:
    """Of n images, nothing."""
    return Copies(np.full(n, None, dtype=object), np.full(n, np.nan), np.full(n, np.nan), [None] * n)


class Likeness(NamedTuple):
    """What each of N images is like among the train images, in pixels; no limit has been learned for it."""

    copied: np.ndarray  # int64 N, the train image that it is a near-copy of, or -1
    similarity: np.ndarray  # float N in [-1, 1], correlation with the train image most like it
    cell: np.ndarray  # int64 N, the train image that shows the same cell, or -1; sought where `copied` is -1


@dataclass(frozen=True)
class Detector:
    """Finds copies of the images that a generator was trained on, `train`; features of `embedded`, some of them.

    `cells` are those of `train`, as `seeking` has them.

    Copies of `compared`, real images that it was not to have seen, are found in pixels alone.

    An image whose correlation in pixels reaches `turned_from` is looked at in all flips and turns in features, other
    ones as they are. An image of a relative distance below `nearest_allowed` is a copy. The defaults find no copies in
    features: for where too few images are there to learn from.
    """

    train: Images
    embedded: Embedded
    cells: Look
    turned_from: float = 1.0
    nearest_allowed: float = 0.0
    compared: Images | None = None

    def find(self, pixels: np.ndarray, features: np.ndarray, extractor: FeatureExtractor) -> Copies:
        """Seek images (uint8 N×R×R×3, with their features N×d) among the train images."""
        return self.decide(pixels, features, extractor, self.seek(pixels))

    def seek(self, pixels: np.ndarray) -> Likeness:
        """What images (uint8 N×R×R×3) are like in pixels, which no limit has a part in: most of the work."""
        index, similarity = find_copies(pixels, self.train.pixels)
        cell = np.full(len(pixels), -1)
        unknown = np.flatnonzero(index < 0)
        cell[unknown] = same_cell_in(look(pictures(pixels[unknown])), self.cells)
        return Likeness(index, similarity, cell)

    def decide(
        self, pixels: np.ndarray, features: np.ndarray, extractor: FeatureExtractor, likeness: Likeness
    ) -> Copies:
        """What `find` returns, of images whose likeness is known."""
        index, similarity, cell = likeness
        which, relative = self._in_features(pixels, features, index, similarity, extractor)
        nearest = np.full(len(pixels), None, dtype=object)
        reasons: list[str | None] = [None] * len(pixels)
        for i in range(len(pixels)):
            if index[i] >= 0:
                nearest[i] = self.train.names[index[i]]
                reasons[i] = f"near-copy of train image {nearest[i]} (correlation {similarity[i]:.2f})"
            elif cell[i] >= 0:
                nearest[i] = self.train.names[cell[i]]
                reasons[i] = (
                    f"same cell as in train image {nearest[i]}, whose picture is turned, moved or scaled"
                )
            elif relative[i] < self.nearest_allowed:
                nearest[i] = self.embedded.names[which[i]]
                reasons[i] = (
                    f"too near to train image {nearest[i]}: at {relative[i]:.2f} of its distance to the train images next "
                    f"to it, where real images of the class are at {self.nearest_allowed:.2f} or more"
                )
        left = np.flatnonzero([reason is None for reason in reasons])
        if self.compared is not None and len(left):
            shown, correlation = find_copies(pixels[left], self.compared.pixels)
            for k in np.flatnonzero(shown >= 0):
                nearest[left[k]] = name = self.compared.names[shown[k]]
                reasons[left[k]] = f"near-copy of held-out image {name} (correlation {correlation[k]:.2f})"
        return Copies(nearest, similarity, relative, reasons)

    def _in_features(
        self,
        pixels: np.ndarray,
        features: np.ndarray,
        index: np.ndarray,
        similarity: np.ndarray,
        extractor: FeatureExtractor,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of `embedded` (int64 N) and the relative distance (float64 N)."""
        if len(self.embedded) <= NEIGHBOURS or not len(pixels):
            return np.full(len(pixels), -1), np.full(len(pixels), np.nan)
        which, relative = relative_distances(self.embedded.features, features)
        # The pixels have seen all turns already: features need to only where they found a likeness.
        alike = np.flatnonzero((similarity >= self.turned_from) & (index < 0))
        if len(alike):
            turned = np.stack([apply_transform(pixels[i], turn) for i in alike for turn in TURNS])
            found, distance = relative_distances(self.embedded.features, extractor(turned))
            distance = distance.reshape(-1, len(TURNS))
            best = np.arange(len(alike)), distance.argmin(axis=1)
            nearer = distance[best] < relative[alike]
            which[alike] = np.where(nearer, found.reshape(distance.shape)[best], which[alike])
            relative[alike] = np.minimum(distance[best], relative[alike])
        return which, relative


def seeking(train: Images, embedded: Embedded) -> Detector:
    """A detector of copies of `train` that knows no limits yet."""
    return Detector(train, embedded, look(pictures(train.pixels)))


def fit(real: RealClass, extractor: FeatureExtractor, rules: Rules, seed: int) -> tuple[Detector, Copies]:
    """A detector for the images that `real` was trained on, and what it finds among real images that it was not.

    Its limits are those that the rules' share of real images keeps to, with the rules' confidence: normal tolerance
    limits of the correlation (Fisher's z) and of the logarithm of the relative distance among the images for fitting.
    Where none were held out, two halves of the train images, by group, are sought in one another.
    """
    if real.held_out:
        whole = seeking(real.train, real.trained_on)
        fitted_on, judged_on = [(whole, real.fitting)], [(whole, real.reference)]
    else:
        a, b = (
            real.trained_on[rows] for rows in parted(real.trained_on.groups, len(real.trained_on) // 2, seed)
        )
        fitted_on = judged_on = [(seeking(a, a), b), (seeking(b, b), a)]
        whole = seeking(real.train, real.trained_on)
    likenesses = [one.seek(part.pixels) for one, part in fitted_on]
    found = _joined(
        [
            one.decide(part.pixels, part.features, extractor, likeness)
            for (one, part), likeness in zip(fitted_on, likenesses, strict=True)
        ]
    )
    correlation = found.similarity[[reason is None for reason in found.reasons]].clip(-0.999, 0.999)
    relative = found.relative_distance[found.relative_distance > 0]
    turned_from = float(np.tanh(_highest(np.arctanh(correlation), rules["copies"])))
    nearest_allowed = float(np.exp(-_highest(-np.log(relative), rules["copies"])))
    learned = [
        (replace(one, turned_from=turned_from, nearest_allowed=nearest_allowed), part)
        for one, part in judged_on
    ]
    if real.held_out:
        likenesses = [one.seek(part.pixels) for one, part in judged_on]
    among_real = _joined(
        [
            one.decide(part.pixels, part.features, extractor, likeness)
            for (one, part), likeness in zip(learned, likenesses, strict=True)
        ]
    )
    compared = together([real.reference, real.fitting]) if real.held_out else None
    return replace(
        whole, turned_from=turned_from, nearest_allowed=nearest_allowed, compared=compared
    ), among_real


def relative_distances(train: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of y (N×d) the nearest row of train (M×d, M > NEIGHBOURS): int64 N, and float64 N in [0, 1]: its
    distance over the mean distance to the NEIGHBOURS next to it."""
    to_train = distances(train, y)
    near = np.sort(np.partition(to_train, NEIGHBOURS, axis=0)[: NEIGHBOURS + 1], axis=0)
    return to_train.argmin(axis=0), near[0] / near[1:].mean(axis=0).clip(np.finfo(float).tiny)


def _highest(values: np.ndarray, rule: Mapping[str, Any]) -> float:
    """The value that the rule's share of a normal population stays below, with its confidence; infinite from too few.

    A one-sided normal tolerance limit: mean + k·sd, k by the noncentral t distribution (Hahn and Meeker 1991,
    Statistical Intervals, section 4.6).
    """
    n = len(values)
    if n < rule["fewest_to_fit"]:
        return np.inf
    k = stats.nct.ppf(rule["confidence"], n - 1, stats.norm.ppf(rule["real_share"]) * np.sqrt(n)) / np.sqrt(n)
    return float(values.mean() + k * values.std(ddof=1))


def _joined(parts: Sequence[Copies]) -> Copies:
    return Copies(
        np.concatenate([part.nearest for part in parts]),
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.relative_distance for part in parts]),
        [reason for part in parts for reason in part.reasons],
    )
