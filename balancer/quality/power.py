"""What the gate's KID rule can decide at which sizes: real images of a class, judged as if they were synthetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balancer.errors import InputError
from balancer.progress import track
from balancer.quality import kid
from balancer.quality.features import FeatureExtractor
from balancer.quality.reference import RealImages, Rules, choose_reference, drawn

VERDICTS = ("pass", "warn", "fail", "insufficient-data")
COLUMNS = (
    "class",
    "real",
    "synthetic",
    "margin",
    "half-width",
    *VERDICTS,
    "fails from KID",
    "images of another class",
    "draws",
)
_SHARES = np.linspace(0.05, 1, 20)  # of images of another class among the synthetic ones, that are tried


@dataclass(frozen=True)
class Decidable:
    """What can be decided about one class with `real` and `synthetic` images.

    `verdicts` are shares of draws in which both sides are real images of the class. `detected` is the smallest KID that
    is failed with the probability of the rules, `detected_share` the share of images of the class `nearest` that makes
    it; both are None where not even a set of that class alone is failed so often.
    """

    label: str
    nearest: str  # the class nearest by KID, which sets the margin
    available: int  # images that were drawn from
    real: int
    synthetic: int
    own: bool  # whether `real` is what the gate would compare with today
    repeated: (
        bool  # whether images were drawn with replacement, as there are too few for two disjoint samples
    )
    margin: float  # median over the draws
    half_width: float  # of the interval, median over the draws
    verdicts: dict[str, float]
    detected: float | None
    detected_share: float | None

    @property
    def passes(self) -> float:
        """Share of the sets of real images that the rule lets through, with a warning or without."""
        return self.verdicts["pass"] + self.verdicts["warn"]

    def cells(self) -> list[str]:
        """The row of a table under `COLUMNS`."""
        digits, found = kid.decimals(self.margin), ("none", "none")
        if self.detected is not None:
            found = (f"{self.detected:.{digits}f}", f"{self.detected_share:.0%} {self.nearest}")
        return [
            self.label,
            f"{self.real} (now)" if self.own else str(self.real),
            str(self.synthetic),
            f"{self.margin:.{digits}f}",
            f"{self.half_width:.{digits}f}",
            *(f"{self.verdicts[verdict]:.0%}" for verdict in VERDICTS),
            *found,
            "with replacement" if self.repeated else "disjoint",
        ]


def gate_power(
    dataset: RealImages, extractor: FeatureExtractor, rules: Rules, seed: int = 0
) -> list[Decidable]:
    """`decidable` for every class of `dataset` with enough images, test images aside.

    Raises InputError where fewer than two classes have the fewest real images that the rules ask for.
    """
    features: dict[str, np.ndarray] = {}
    own: dict[str, int] = {}
    sizes, rule = rules["sizes"], rules["power"]
    for label in dataset.classes:
        images, _ = dataset.images_of(label, ("heldout", "validation", "train"))
        if len(images) >= sizes["fewest_real"]:
            features[label] = extractor(images[drawn(len(images), rule["most_real"], seed)])
            reference = choose_reference(dataset, label, rules, seed)
            own[label] = min(len(reference.images), sizes["most_real"])
    if len(features) < 2:
        raise InputError(
            f"{dataset.root} has {len(features)} classes with at least {sizes['fewest_real']} images without test; the "
            "margin of a class is set by its distance to another one, so at least two are needed."
        )
    return decidable(features, own, rules, seed)


def decidable(
    features: Mapping[str, np.ndarray], own: Mapping[str, int], rules: Rules, seed: int = 0
) -> list[Decidable]:
    """What can be decided about each class, from real features N×d by class; at least two classes.

    A row per class and size of the rules, with as many synthetic as real images, and one for `own`, the number of real
    images that the gate has of the class, with the most synthetic images of these sizes. Each draw takes both samples,
    computes the margin from the real one, and decides as the gate does.
    """
    pools = {label: _Pool(label, features, rules, seed) for label in features}
    most = max(rules["power"]["sizes"])
    rows = []
    for label, pool in track(pools.items(), "Power by class", len(pools)):
        cases = [(n, n, False) for n in rules["power"]["sizes"]]
        if label in own:
            cases = [case for case in cases if case[:2] != (own[label], most)]
            cases.append((own[label], most, True))
        rows += [pool.decidable(m, n, is_own) for m, n, is_own in cases]
    return rows


def power_document(rows: Sequence[Decidable], extractor: FeatureExtractor, rules: Rules) -> dict[str, Any]:
    """The rows as a dictionary of JSON values, with the features and the rules behind them."""
    return {
        "format": 1,
        "features": {"name": extractor.name, "sha256": extractor.sha256},
        "rules": {"kid": dict(rules["kid"]), "power": dict(rules["power"])},
        "rows": [vars(row) | {"verdicts": dict(row.verdicts)} for row in rows],
    }


def advice(rows: Sequence[Decidable], rules: Rules) -> list[str]:
    """A sentence for each class: from how many images on good sets are let through, and what holds today."""
    wanted = rules["power"]["probability"]
    sentences = []
    for label in dict.fromkeys(row.label for row in rows):
        of_class = [row for row in rows if row.label == label]
        enough = [row.real for row in of_class if not row.own and row.passes >= wanted]
        sentence = (
            f"{label}: perfect images are let through in at least {wanted:.0%} of draws from {min(enough)} real images on"
            if enough
            else f"{label}: at none of these sizes are perfect images let through in {wanted:.0%} of draws"
        )
        for row in of_class:
            if row.own:
                sentence += f"; with the {row.real} that the gate has and {row.synthetic} synthetic ones, in {row.passes:.0%}"
        sentences.append(sentence + ".")
    return sentences


class _Pool:
    """Kernels between the images of a class and of the others, computed once, and what draws from them give."""

    def __init__(self, label: str, features: Mapping[str, np.ndarray], rules: Rules, seed: int) -> None:
        x = features[label]
        others = {other: rows for other, rows in features.items() if other != label}
        within = _emptied(kid.kernel(x, x))
        between = {other: kid.kernel(x, rows) for other, rows in others.items()}
        own_mean = {other: _off_diagonal_mean(kid.kernel(rows, rows)) for other, rows in others.items()}
        distance = {
            other: _off_diagonal_mean(within) + own_mean[other] - 2 * float(k.mean())
            for other, k in between.items()
        }
        self.label, self.rules, self.seed = label, rules, seed
        self.nearest = min(distance, key=distance.__getitem__)
        self.distance = distance[self.nearest]
        self.size = len(x)
        cross = between[self.nearest]
        k = np.block(
            [[within, cross], [cross.T, _emptied(kid.kernel(others[self.nearest], others[self.nearest]))]]
        )
        self._k = k - k.mean()  # which changes no KID, and keeps digits
        self._squares, self._level = self._k**2, float(k.mean())
        self._to_others = np.stack([k.mean(axis=1) for k in between.values()])  # others × N
        self._of_others = np.array(list(own_mean.values()))

    def decidable(self, m: int, n: int, own: bool) -> Decidable:
        verdicts, margins, halves = self._judge(*self._draws(m, n, 0.0))
        share = self._detected(m, n)
        return Decidable(
            label=self.label,
            nearest=self.nearest,
            available=self.size,
            real=m,
            synthetic=n,
            own=own,
            repeated=self.size < m + n,
            margin=float(np.median(margins)),
            half_width=float(np.median(halves)),
            verdicts={verdict: float((verdicts == verdict).mean()) for verdict in VERDICTS},
            detected=None if share is None else share**2 * self.distance,  # KID of a mixture, exactly
            detected_share=share,
        )

    def _detected(self, m: int, n: int) -> float | None:
        """The smallest share of images of the nearest class that is failed often enough, by bisection."""
        low, high = -1, len(_SHARES)
        while high - low > 1:
            middle = (low + high) // 2
            failed = (self._judge(*self._draws(m, n, _SHARES[middle]))[0] == "fail").mean()
            low, high = (low, middle) if failed >= self.rules["power"]["probability"] else (middle, high)
        return float(_SHARES[high]) if high < len(_SHARES) else None

    def _draws(self, m: int, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the real (draws × m) and the synthetic images (draws × n), each of these of the nearest class with
        probability `share`; without replacement where the images suffice."""
        draws, nearest = self.rules["power"]["draws"], len(self._k) - self.size
        rng = np.random.default_rng([self.seed, m, n])
        i, j = np.empty((draws, m), dtype=int), np.empty((draws, n), dtype=int)
        for of_x, of_y in zip(i, j, strict=True):
            foreign = int(rng.binomial(n, share))
            of_y[:foreign] = self.size + rng.choice(nearest, foreign, replace=foreign > nearest)
            if self.size < m + n:
                of_x[:] = rng.integers(self.size, size=m)
                of_y[foreign:] = rng.integers(self.size, size=n - foreign)
            else:
                order = rng.permutation(self.size)
                of_x[:], of_y[foreign:] = order[:m], order[m : m + n - foreign]
        return i, j

    def _judge(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Verdicts, margins and half-widths of the draws of real images `i` and synthetic ones `j`."""
        rule, m = self.rules["kid"], i.shape[1]
        x, squares = self._sums(i, j)
        y, _ = self._sums(j, i)
        _, (low, high) = kid.estimate(x, y, squares, rule["confidence"])
        within = x.own.sum(axis=1) / (m * (m - 1)) + self._level
        to_others = self._to_others[:, i].mean(axis=2)  # others × draws
        margins = rule["margin"] * (within + self._of_others[:, None] - 2 * to_others).min(axis=0)
        verdicts = [
            kid.decide((of_low, of_high), margin) if margin > 0 else "insufficient-data"
            for of_low, of_high, margin in zip(low, high, margins, strict=True)
        ]
        return np.array(verdicts), margins, (high - low) / 2

    def _sums(self, i: np.ndarray, j: np.ndarray) -> tuple[kid.Sums, np.ndarray]:
        """The sums over the draws' kernels for rows `i` beside rows `j` (draws × m and × n), and those of all squares."""
        of_i, of_j = self._counts(i), self._counts(j)
        diagonal = np.diag(self._k)[i]
        own = np.take_along_axis(of_i @ self._k, i, axis=1) - diagonal
        other = np.take_along_axis(of_j @ self._k, i, axis=1)
        own_squares = np.einsum("di,di->d", of_i @ self._squares, of_i) - (diagonal**2).sum(axis=1)
        return kid.Sums(own, other, own_squares), np.einsum("di,di->d", of_i @ self._squares, of_j)

    def _counts(self, index: np.ndarray) -> np.ndarray:
        """How often each image is in each draw: float64 draws × images."""
        counts = np.zeros((len(index), len(self._k)))
        np.add.at(counts, (np.arange(len(index))[:, None], index), 1)
        return counts


def _off_diagonal_mean(k: np.ndarray) -> float:
    return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))


def _emptied(k: np.ndarray) -> np.ndarray:
    """The kernel with a diagonal that makes an image and itself no more alike than two of the class are on average.

    So that images can be drawn twice: KID keeps its expectation of 0 between such samples and the variance that it has
    between samples of different images, where the true diagonal would add to it.
    """
    k = k.copy()
    n = len(k)
    row = (k.sum(axis=1) - np.diag(k)) / (n - 1)
    np.fill_diagonal(k, 2 * row - _off_diagonal_mean(k))
    return k
