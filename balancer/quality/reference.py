"""Which real images a class is judged against, and their features: unseen by the generator first, never test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd

from balancer.data import PreparedDataset
from balancer.data.seen import Seen
from balancer.quality.features import FeatureExtractor

HELD_OUT = ("heldout", "validation")  # splits that no generator is trained on, unless it came trained

Rules = Mapping[str, Mapping[str, Any]]


class RealImages(Protocol):
    """What the gate asks of a set of real images; a `PreparedDataset` is one."""

    @property
    def root(self) -> Path: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def resolution(self) -> int: ...
    def class_index(self, label: str) -> int: ...
    def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]: ...


@dataclass(frozen=True)
class Images:
    """Real images of one class, row by row."""

    pixels: np.ndarray  # uint8 N×R×R×3
    names: np.ndarray  # split/file_name
    groups: np.ndarray  # patient, slide, field or near-duplicate cluster, as text

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: np.ndarray | slice) -> Self:
        return replace(self, **{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    def drawn(self, most: int, seed: int) -> Self:
        """At most `most` of the images, drawn by seed, in their order."""
        return self[drawn(len(self), most, seed)]


@dataclass(frozen=True)
class Embedded(Images):
    """Images and their features."""

    features: np.ndarray  # float32 N×d


@dataclass(frozen=True)
class Reference:
    """The real images that candidates of one class are compared with, and why these.

    `chosen` are those that the verdict rests on. `fitting` are for the limits of checks image by image: other images
    than `chosen` where there are enough, else the same. None of `trained_on` is among either where `held_out`.
    """

    label: str
    chosen: Images
    fitting: Images
    trained_on: Images
    held_out: bool  # the generator was trained on none of `chosen` and `fitting`
    note: str

    @property
    def images(self) -> np.ndarray:
        """The images that the verdict rests on, uint8 N×R×R×3."""
        return self.chosen.pixels


@dataclass(frozen=True)
class RealClass:
    """Real images of one class as the gate uses them, embedded; the parts are those of a `Reference`."""

    label: str
    n_real: int  # all but test images
    reference: Embedded
    fitting: Embedded
    trained_on: Embedded  # at most the rules' number, drawn by seed
    train: Images  # all that the generator may have been trained on
    pool: (
        Embedded  # the reference first, then others up to the rules' number: what real-vs-real is drawn from
    )
    held_out: bool
    note: str


def choose_reference(
    dataset: RealImages,
    label: str,
    rules: Rules,
    seed: int = 0,
    seen: Collection[str] = (),
) -> Reference:
    """Held-out and validation images where there are at least `fewest_held_out`, else these and the train images.

    `seen` names images (split/file_name) outside train that the generator was trained on all the same: they count as
    train images. Test images are never used. Where both parts have at least `fewest_held_out`, the rules' share of the
    images, by group, is set aside for fitting the checks image by image, so that the verdict rests on images they were
    not fitted on. The note says where train images take part, since comparing with them rewards copying.
    """
    fewest = rules["sizes"]["fewest_held_out"]
    unseen = _images(dataset, label, HELD_OUT)
    train = _images(dataset, label, ("train",))
    known = np.isin(unseen.names, list(seen))
    train, unseen = together([train, unseen[known]]), unseen[~known]
    if len(unseen) < fewest:
        every = together([unseen, train])
        note = (
            f"Compared with all {len(every)} real images, of which the generator may have been trained on {len(train)}: "
            f"that rewards copying, but fewer than {fewest} others are there."
        )
        return Reference(label, every, every, train, False, note)
    first, second = parted(
        unseen.groups, max(fewest, int(rules["sizes"]["fitting_share"] * len(unseen))), seed
    )
    if len(second) < fewest:
        note = (
            f"Compared with {len(unseen)} held-out and validation images that the generator did not train on; the "
            "checks image by image are fitted on the same ones, since they are too few to be divided."
        )
        return Reference(label, unseen, unseen, train, True, note)
    note = (
        f"Compared with {len(second)} held-out and validation images that neither the generator was trained on nor the "
        f"checks image by image were fitted on; these had {len(first)} others."
    )
    return Reference(label, unseen[second], unseen[first], train, True, note)


def real_classes(
    dataset: RealImages,
    judged: Collection[str],
    extractor: FeatureExtractor,
    rules: Rules,
    seed: int,
    seen: Collection[str] = (),
) -> dict[str, RealClass]:
    """The real images of all classes that have any, embedded once: more of the judged classes than of the others."""
    sizes = rules["sizes"]
    classes = {}
    for label in dataset.classes:
        chosen = choose_reference(dataset, label, rules, seed, seen)
        if len(chosen.chosen) + len(chosen.trained_on):
            if label in judged:
                classes[label] = _embedded(chosen, extractor, sizes["most_real"], sizes["most_train"], seed)
            else:
                most = sizes["most_of_other_class"]
                classes[label] = _embedded(chosen, extractor, most, most, seed)
    return classes


def seen_outside_train(seen: Seen, dataset: PreparedDataset) -> list[str]:
    """Names (split/file_name) of held-out and validation images that a generator was trained on all the same."""
    return [f"{split}/{name}" for split in HELD_OUT for name in seen.among(dataset, split)]


def parted(groups: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of two parts of the rows, drawn by seed: of about `size` rows (or a few more), and of the others.

    No group is in both.
    """
    names, which, count = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    before = count[order].cumsum() - count[order]
    inside = np.isin(which, order[before < size])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def drawn(total: int, most: int, seed: int) -> np.ndarray:
    """Sorted indices of at most `most` out of `total`, drawn by seed."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False))


def _images(dataset: RealImages, label: str, splits: Sequence[str]) -> Images:
    pixels, table = dataset.images_of(label, splits)
    names = [f"{split}/{name}" for split, name in zip(table["split"], table["file_name"], strict=True)]
    groups = table.get("group", names)
    return Images(pixels, np.array(names, dtype=object), np.array(groups, dtype=object))


def together(parts: Iterable[Images]) -> Images:
    """The images of all parts, each once."""
    parts = list(parts)
    joined = Images(
        *(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Images))
    )
    return joined[np.sort(np.unique(joined.names.astype(str), return_index=True)[1])]


def _embedded(
    chosen: Reference, extractor: FeatureExtractor, most_real: int, most_train: int, seed: int
) -> RealClass:
    reference = chosen.chosen.drawn(most_real, seed)
    fitting = chosen.fitting.drawn(most_real, seed)
    trained_on = chosen.trained_on.drawn(most_train, seed)
    every = together([reference, fitting, trained_on])
    features = extractor(every.pixels)
    row = {name: i for i, name in enumerate(every.names)}

    def embedded(part: Images) -> Embedded:
        rows = [row[name] for name in part.names]
        return Embedded(part.pixels, part.names, part.groups, features[rows])

    note = chosen.note
    if len(reference) < len(chosen.chosen):
        note += f" {len(reference)} of them, drawn by seed, are scored."
    everything = together([chosen.chosen, chosen.fitting, chosen.trained_on])
    return RealClass(
        label=chosen.label,
        n_real=len(everything),
        reference=embedded(reference),
        fitting=embedded(fitting),
        trained_on=embedded(trained_on),
        train=chosen.trained_on,
        pool=embedded(every[: max(most_real, len(reference))]),
        held_out=chosen.held_out,
        note=note,
    )
