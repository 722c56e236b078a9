"""Image by image: is this one a cell of its class, or does it have a defect that real images of the class do not have?

`measures` has what each image shows. `fit` learns from real images of each class how far each of these measures goes; `check`
names the defect of an image that goes further than real ones do.

Atypical cells are real, so that the limit holds for all measures together: of real images that were not fitted on, `RATE`
are rejected on average, whatever for. Every measure is put on one scale, its *surprise*: how rare a real image with as much
of it is, as −log10 of the share of the class's images. Beyond the class's 90th percentile this share follows a generalised
Pareto tail, its place and width being the class's, its shape that of all classes together. An image is as surprising as its
most surprising measure, and the class's limit is the surprise that `RATE` of real images exceed: the ⌈(n+1)(1−RATE)⌉-th
smallest of n (split conformal prediction; Vovk et al., "Algorithmic learning in a random world", 2005), each of them judged
by tails of the other four fifths (cross-fitting). A measure by which real images of a class differ wildly rejects little
there, and so does every measure where real images are odd in many ways.

A class's medians are its own. Its percentiles are filled up by the other classes of `ENOUGH` images: the 90th as if they
were 12 images more, the 97th as if they were 100 more. So is its limit, by their surprises as if they were 400 more: what
2.5 % of 50 images exceed is the oddest of them, which says little. Tails take train images too, which are real; limits are
those of images that no generator was trained on, unless the classes of `ENOUGH` images have fewer than `ENOUGH` such ones. A
class of fewer than `ENOUGH` images has the limit of all classes together, each cut down to as few images and judged by the
rest of them, so that it allows for what so few images leave unknown. Below `FEWEST` images, or where there is nothing to
borrow from, nothing is checked. The notes say which.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from balancer.errors import unknown_name
from balancer.quality.measures import COLOURS

RATE = 0.025  # of real images that may be rejected, by all measures together
ENOUGH = (
    50  # real images of a class from which it has a limit of its own: the rank of 1 − RATE of them exists
)
FEWEST = 10  # real images below which a class's own median is not known well enough to check anything
_FOLDS = 5
_DRAWS = 5  # of a large class cut down to a small one's size
_NEIGHBOURS = 3
_PRIOR_SPREAD, _PRIOR_WIDTH = 12, 100  # images that the other classes count for in a class's tails,
_PRIOR_LIMIT = 400  # and in its limit, at most
_START, _AGAIN = (
    0.9,
    0.97,
)  # quantiles between which the tail's width is measured: what lies beyond may be odd

Array = np.ndarray


class _Measure(NamedTuple):
    """What is looked at: the defect that it shows, the sign that turns it such that more is worse, and how it is told.

    `grain` is the least width of a tail, below which differences mean nothing. `told` is filled with the image's value and
    with the one that 99 of 100 real images of the class keep to.
    """

    defect: str
    sign: int
    grain: float
    told: str


_MEASURES = {
    "nuclear_density": _Measure(
        "no nucleus", -1, 0.01, "no nucleus: density {value:.2f} in red light, of {real} at least {usual:.2f}"
    ),
    "nuclear_area": _Measure(
        "two nuclei",
        1,
        0.005,
        "two nuclei or one too large: {value:.0%} of the image, in {real} up to {usual:.0%}",
    ),
    "second_body": _Measure(
        "two nuclei", 1, 0.004, "two nuclei, where {real} show one with up to {lobes:.0f} lobes"
    ),
    "fourth_lobe": _Measure(
        "foreign lobes", 1, 0.02, "{own_lobes:.0f} nuclear lobes, where {real} show up to {lobes:.0f}"
    ),
    "seventh_lobe": _Measure(
        "foreign lobes", 1, 0.004, "{own_lobes:.0f} nuclear lobes, where {real} show up to {lobes:.0f}"
    ),
    "membrane_gap": _Measure(
        "open membrane",
        -1,
        0.01,
        "nuclear membrane open: over a quarter of its length {value:.0%} as sharp as elsewhere, in {real} at least {usual:.0%}",
    ),
    "membrane": _Measure(
        "missing membrane",
        -1,
        0.05,
        "nuclear membrane missing: sharpness {value:.2f} per µm, of {real} at least {usual:.2f}",
    ),
    "chromatin": _Measure(
        "smooth chromatin",
        -1,
        0.05,
        "chromatin too smooth: detail {value:.1f} (logarithm), in {real} at least {usual:.1f}",
    ),
    "granularity": _Measure(
        "foreign granules",
        1,
        0.005,
        "dark granules that the class does not have: {value:.2f} above the cytoplasm's density, in {real} up to {usual:.2f}",
    ),
    "smoothness": _Measure(
        "granules erased",
        -1,
        0.005,
        "granules missing: the cytoplasm's density varies by {value:.2f}, in {real} at least by {usual:.2f}",
    ),
    "off_centre": _Measure(
        "cut off",
        1,
        0.005,
        "cell cut off or not in the middle: off by {value:.0%} of the image, {real} by up to {usual:.0%}",
    ),
    "nucleus_on_edge": _Measure(
        "cut off",
        1,
        0.01,
        "cell cut off: its nucleus takes {value:.0%} of the image's edge, in {real} up to {usual:.0%}",
    ),
    "nuclear_length": _Measure(
        "second cell",
        1,
        0.01,
        "second cell: nuclei that hang together over {value:.0%} of the image's width, in {real} up to {usual:.0%}",
    ),
    "other_nuclei": _Measure(
        "second cell",
        1,
        0.002,
        "second cell: another nucleus takes {value:.1%} of the image, in {real} up to {usual:.1%}",
    ),
    "seam": _Measure(
        "seam",
        1,
        0.1,
        "a straight seam: a step of {value:.1f} grey levels along a line, in {real} up to {usual:.1f}",
    ),
    "checkerboard": _Measure(
        "checkerboard",
        1,
        0.05,
        "a checkerboard pattern: it stands out by {value:.1f} (logarithm of power), in {real} by up to {usual:.1f}",
    ),
    "sharpness": _Measure(
        "blur",
        -1,
        0.05,
        "out of focus: fine detail {value:.1f} (logarithm of power), in {real} at least {usual:.1f}",
    ),
    "noise": _Measure("noise", 1, 0.1, "noise: {value:.1f} grey levels, in {real} up to {usual:.1f}"),
    "stain": _Measure(
        "stain off",
        1,
        0.05,
        "stain off: colours of background, nucleus and cytoplasm are {value:.1f} standard deviations from any real image's, "
        "those of {real} up to {usual:.1f}",
    ),
}
DEFECTS = tuple(dict.fromkeys(measure.defect for measure in _MEASURES.values()))
_SIGNS = np.array([measure.sign for measure in _MEASURES.values()])
_GRAINS = np.array([measure.grain for measure in _MEASURES.values()])
_COLOUR_GRAIN = 0.01  # optical density: two grey levels in 255


# What real images show


class _Tail(NamedTuple):
    """Where images of a class begin to be rare, for each measure turned such that more is worse: three floats each."""

    middle: Array
    spread: Array  # from the middle to the 90th percentile
    width: Array  # from there to the 97th


@dataclass(frozen=True, eq=False)
class _Class:
    """Real images of a class: their median colour, the tails of their measures, and what is usual."""

    colour: Array
    tail: _Tail
    usual: dict[str, float]  # what 99 of 100 keep to, in the measure's own unit and direction; and lobes


@dataclass(frozen=True, eq=False)
class _Common:
    """What all classes of a set share.

    whitening: 9×9, by which colours have unit covariance within classes. colours: those of all real images less their
    class's, whitened, N×9. Beyond the 90th percentile an excess, in widths, is taken as generalised-Pareto distributed
    (Pickands 1975), `scale` and `shape` being float M each.
    """

    whitening: Array
    colours: Array
    scale: Array
    shape: Array


@dataclass(frozen=True, eq=False)
class Limits:
    """What `fit` learned: per class the greatest surprise that passes, None where nothing is checked, and how, as a note."""

    classes: dict[str, _Class]
    common: _Common
    limits: dict[str, float | None]
    notes: dict[str, str]


def fit(measured: Mapping[str, pd.DataFrame], trained_on: Mapping[str, pd.DataFrame] | None = None) -> Limits:
    """Learn what real images of each class show, from `measures` of images that no generator was trained on.

    `trained_on`: of others, on which one may have been trained. They say what is usual in a class, but not which limit it
    has. Take all classes of a set at once: they borrow from each other, see the module's head.
    """
    more = trained_on or {}
    every = {
        label: pd.concat([table, more[label]], ignore_index=True) if label in more else table
        for label, table in measured.items()
    }
    tables = {label: table for label, table in every.items() if len(table) >= FEWEST}
    few = sum(len(measured[label]) for label, table in tables.items() if len(table) >= ENOUGH) < ENOUGH
    unseen = {label: len(tables[label] if few else measured[label]) for label in tables}
    whitening = _whitening(tables.values())
    centres = {label: _centre(table) for label, table in tables.items()}
    apart = {
        label: (_filled(table, centres[label]) - centres[label]) @ whitening
        for label, table in tables.items()
    }
    colours = np.concatenate([*apart.values(), np.zeros((0, len(COLOURS)))])
    values = {
        label: _values(table, _distances(apart[label], colours, itself=True))
        for label, table in tables.items()
    }
    lent = {label: _others(values, label) for label in values}
    mixed = {label: _borrowing(_tail(rows), len(rows), lent[label]) for label, rows in values.items()}
    common = _Common(whitening, colours, *_shapes([_excess(values[label], mixed[label]) for label in values]))
    surprise = {
        label: _crossfitted(rows, lent[label], common)[: unseen[label]]
        for label, rows in values.items()
        if len(rows) >= ENOUGH
    }

    limits: dict[str, float | None] = dict.fromkeys(measured)
    notes = {}
    for label, table in every.items():
        n = len(table)
        others = [name for name in values if name != label]
        unchecked = f"Single images of {label} are not checked for defects: "
        if n < FEWEST:
            notes[label] = f"{unchecked}{n} real images, where {FEWEST} are needed to know the class by."
            continue
        own, lending = np.empty(0), [rows for name, rows in surprise.items() if name != label]
        notes[label] = f"Limits for single images of {label} from {n} real images"
        if n >= ENOUGH:
            own = surprise[label]
            if len(measured[label]) < n:
                notes[label] += f", {len(measured[label])} of which no generator was trained on"
        else:
            lending = list(_as_few(n, values, unseen, lent, common))
            notes[label] += (
                f" and, since {ENOUGH} are needed, from how real images of {', '.join(others)} scatter"
            )
        notes[label] += "."
        if len(own) + sum(map(len, lending)) < ENOUGH:
            notes[label] = (
                f"{unchecked}{n} real images cannot show how odd one in {1 / RATE:.0f} is, and other classes have too few to "
                "borrow from."
            )
            continue
        limits[label] = _limit(own, np.concatenate([np.empty(0), *lending]))
    return Limits(
        {
            label: _Class(centres[label], mixed[label], _usual(tables[label], values[label]))
            for label in tables
        },
        common,
        limits,
        notes,
    )


def surprises(measured: pd.DataFrame, label: str, limits: Limits) -> pd.DataFrame:
    """How rare real images of the class are that show as much of each defect, as −log10 of their share; 0 for 1 in 10.

    A row for each of `measured`, a column for each of `DEFECTS`. An image whose largest one is above
    `limits.limits[label]` is rejected. All are 0 for a class of too few real images. Raises InputError for a class that was
    not fitted.
    """
    known = _known(label, limits)
    if known is None:
        return pd.DataFrame(0.0, index=measured.index, columns=list(DEFECTS))
    every = _surprises(_values(measured, _stain(measured, known, limits.common)), known.tail, limits.common)
    names = np.array([measure.defect for measure in _MEASURES.values()])
    return pd.DataFrame(
        {defect: every[:, names == defect].max(1) for defect in DEFECTS}, index=measured.index
    )


def check(measured: pd.DataFrame, label: str, limits: Limits) -> list[str | None]:
    """The defect of each image in words, or None: it shows more of something than real images of its class do.

    `measured`: what `measures` gives. All are None for a class that was fitted but has no limit, see its note. Raises
    InputError for a class that was not fitted.
    """
    known, limit = _known(label, limits), limits.limits[label]
    if known is None or limit is None:
        return [None] * len(measured)
    stain = _stain(measured, known, limits.common)
    every = _surprises(_values(measured, stain), known.tail, limits.common)
    seen = measured.assign(stain=stain)
    names = list(_MEASURES)
    return [
        _told(names[row.argmax()], seen.iloc[i], label, known.usual) if row.max() > limit else None
        for i, row in enumerate(every)
    ]


def _known(label: str, limits: Limits) -> _Class | None:
    if label not in limits.limits:
        raise unknown_name("class", label, limits.limits)
    return limits.classes.get(label)


def _told(name: str, seen: pd.Series, label: str, usual: Mapping[str, float]) -> str:
    return _MEASURES[name].told.format(
        value=seen[name],
        usual=usual[name],
        own_lobes=seen["lobes"],
        lobes=usual["lobes"],
        real=f"real {label} images",
    )


def _limit(own: Array, lent: Array) -> float:
    """What a share `RATE` of new images surprise by more than, from n like them: the ⌈(n+1)(1−RATE)⌉-th smallest.

    Those of other classes count for `_PRIOR_LIMIT` images at most, each for its part of one.
    """
    weight = np.repeat([1.0, min(1.0, _PRIOR_LIMIT / max(len(lent), 1))], [len(own), len(lent)])
    seen = np.concatenate([own, lent])
    order = np.argsort(seen, kind="stable")
    below = weight[order].cumsum()
    rank = np.searchsorted(below, (below[-1] + 1) * (1 - RATE) - 1e-9)  # of sums of parts that are not exact
    return float(seen[order][min(rank, len(seen) - 1)])


def _others(values: Mapping[str, Array], label: str) -> list[_Tail]:
    """Tails of the other classes that lend: those of `ENOUGH` images, or all where there are none."""
    others = {name: rows for name, rows in values.items() if name != label}
    lending = [rows for rows in others.values() if len(rows) >= ENOUGH]
    return [_tail(rows) for rows in lending or others.values()]


def _crossfitted(values: Array, others: Sequence[_Tail], common: _Common) -> Array:
    """The largest surprise of each image of a class, by what four fifths of it, without the image, and the others show."""
    fold = np.random.default_rng(0).permutation(len(values)) % _FOLDS
    parts = []
    for k in range(_FOLDS):
        tail = _borrowing(_tail(values[fold != k]), int((fold != k).sum()), others)
        parts.append(_surprises(values[fold == k], tail, common).max(1))
    return np.concatenate(parts)


def _as_few(
    n: int,
    values: Mapping[str, Array],
    unseen: Mapping[str, int],
    lent: Mapping[str, Sequence[_Tail]],
    common: _Common,
) -> Iterator[Array]:
    """The largest surprises of each class's unseen images where n of it are known, those of larger classes cut down to n."""
    rng = np.random.default_rng(0)
    for label, rows in values.items():
        if len(rows) < n + FEWEST:
            yield _crossfitted(rows, lent[label], common)[: unseen[label]]
            continue
        for _ in range(_DRAWS):
            order = rng.permutation(len(rows))
            known, judged = order[:n], order[n:]
            tail = _borrowing(_tail(rows[known]), n, lent[label])
            yield _surprises(rows[judged[judged < unseen[label]][:n]], tail, common).max(1)


def _values(table: pd.DataFrame, stain: Array) -> Array:
    """The measures turned such that more is worse, float N×M."""
    return table.assign(stain=stain)[list(_MEASURES)].to_numpy(dtype=float) * _SIGNS


def _tail(values: Array) -> _Tail:
    """Tails of a class by its own images; NaN for what hardly any of them has to be measured, which decides nothing then."""
    values = np.where(np.isfinite(values).sum(0) < min(FEWEST, len(values)), np.nan, values)
    middle, start, again = _quantiles(values, [0.5, _START, _AGAIN])
    return _Tail(middle, np.maximum(start - middle, _GRAINS), np.maximum(again - start, _GRAINS))


def _quantiles(values: Array, shares: Sequence[float]) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a value stay NaN
        return np.nanquantile(values, shares, axis=0)


def _usual(table: pd.DataFrame, values: Array) -> dict[str, float]:
    lobes = float(_quantiles(table[["lobes"]].to_numpy(), [0.95])[0, 0])
    return dict(zip(_MEASURES, _quantiles(values, [0.99])[0] * _SIGNS, strict=True)) | {"lobes": lobes}


def _borrowing(own: _Tail, n: int, others: Sequence[_Tail]) -> _Tail:
    """Tails from n images, filled up by those of other classes: their median spread, and median width for a spread.

    Other classes count for as many images as `_PRIOR_SPREAD` and `_PRIOR_WIDTH` say: a width hangs on a tenth of the images.
    """
    if not others:
        return own
    spread, ratio = (
        _quantiles(np.array(rows), [0.5])[0]
        for rows in (
            [tail.spread for tail in (own, *others)],
            [tail.width / tail.spread for tail in (own, *others)],
        )
    )
    share = n / (n + _PRIOR_SPREAD)
    spread = share * own.spread + (1 - share) * spread
    share = n / (n + _PRIOR_WIDTH)
    return _Tail(own.middle, spread, share * own.width + (1 - share) * ratio * spread)


def _excess(values: Array, tail: _Tail) -> Array:
    """How far each measure is beyond the class's 90th percentile, in widths of its tail, float N×M."""
    return (values - (tail.middle + tail.spread)) / tail.width


def _surprises(values: Array, tail: _Tail, common: _Common) -> Array:
    """Surprise of each image by each measure, float N×M; 0 below the 90th percentile and where it is not defined."""
    excess = np.nan_to_num(_excess(values, tail), nan=0.0)
    rarity = np.log1p(common.shape * np.maximum(excess, 0) / common.scale) / common.shape
    return np.where(excess > 0, rarity / np.log(10) - np.log10(1 - _START), 0.0)


def _shapes(excess: Sequence[Array]) -> tuple[Array, Array]:
    """Scale and shape of the tails by probability-weighted moments (Hosking and Wallis 1987), all classes together.

    Shapes are kept between 0.01, next to an exponential tail, and 0.9, where the moments end.
    """
    scale, shape = np.ones(len(_MEASURES)), np.full(len(_MEASURES), 0.01)
    for i, column in enumerate(np.concatenate([*excess, np.zeros((0, len(_MEASURES)))]).T):
        beyond = np.sort(column[column > 0])
        if len(beyond) >= FEWEST:
            mean = beyond.mean()
            weighted = (beyond * (1 - (np.arange(len(beyond)) + 0.65) / len(beyond))).mean()
            shape[i] = np.clip(2 - mean / (mean - 2 * weighted), 0.01, 0.9)
            scale[i] = mean * (1 - shape[i])
    return scale, shape


# Colours


def _centre(table: pd.DataFrame) -> Array:
    """Median colours of a class, optical densities, float 9; 0 for what none of its images has."""
    return np.nan_to_num(_quantiles(table[COLOURS].to_numpy(), [0.5])[0])


def _filled(table: pd.DataFrame, centre: Array) -> Array:
    """Colours N×9, the class's where an image has none."""
    colours = table[COLOURS].to_numpy()
    return np.where(np.isfinite(colours), colours, centre)


def _whitening(tables: Iterable[pd.DataFrame]) -> Array:
    """A matrix by which colours have unit covariance within classes, 9×9: from the mean of the classes' covariances."""
    covariances = [np.cov(_filled(table, _centre(table)), rowvar=False) for table in tables]
    mean = np.mean(covariances, 0) if covariances else 0.0
    return np.linalg.cholesky(np.linalg.inv(mean + _COLOUR_GRAIN**2 * np.eye(len(COLOURS))))


def _stain(table: pd.DataFrame, known: _Class, common: _Common) -> Array:
    return _distances((_filled(table, known.colour) - known.colour) @ common.whitening, common.colours)


def _distances(colours: Array, real: Array, itself: bool = False) -> Array:
    """Distance of each row to its third nearest among `real`, not counting itself where it is one of them."""
    if not len(colours):
        return np.zeros(0)
    rank = min(_NEIGHBOURS + itself, len(real))
    return np.asarray(cKDTree(real).query(colours, [rank])[0][:, 0])
