"""Which real images a class is judged against, and their features: held out before seen, never test."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from balancer.quality import copies
from balancer.quality.features import FeatureExtractor

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
class Reference:
    """The real images that candidates of one class are compared with, and why these."""

    label: str
    images: np.ndarray  # uint8 N×R×R×3
    held_out: bool  # none of them is a train image
    note: str


@dataclass(frozen=True)
class RealClass:
    """Real images of one class as the gate uses them; features are float32 N×d."""

    label: str
    n_real: int  # all but test images
    features: np.ndarray  # of the reference, then of train images up to the rules' number
    n_reference: int  # rows of `features` that are the reference
    train_images: np.ndarray  # uint8 M×R×R×3
    train_names: tuple[str, ...]  # relative to the dataset's folder
    real_copies: copies.Copies | None  # held-out real images among the train images; None without any
    note: str

    @property
    def reference(self) -> np.ndarray:
        return self.features[: self.n_reference]


def choose_reference(dataset: RealImages, label: str, fewest_held_out: int = 15) -> Reference:
    """Held-out and validation images where there are at least `fewest_held_out`, else these and the train images.

    Test images are never used. Comparing with train images rewards copying, which the note says.
    """
    images, _ = dataset.images_of(label, ("heldout", "validation"))
    if len(images) >= fewest_held_out:
        note = (
            f"Compared with {len(images)} held-out and validation images that the generator did not train on."
        )
        return Reference(label, images, True, note)
    train, _ = dataset.images_of(label, ("train",))
    note = (
        f"Compared with {len(images)} held-out and validation and {len(train)} train images, since fewer than "
        f"{fewest_held_out} were held out: comparing with train images rewards copying."
    )
    return Reference(label, np.concatenate([images, train]), False, note)


def real_classes(
    dataset: RealImages, judged: Collection[str], extractor: FeatureExtractor, rules: Rules, seed: int
) -> dict[str, RealClass]:
    """The real images of all classes that have any, embedded once: more of the judged classes than of the others."""
    classes = {}
    for label in dataset.classes:
        if label in judged:
            real = _judged_class(dataset, label, extractor, rules, seed)
        else:
            real = _other_class(dataset, label, extractor, rules, seed)
        if real is not None:
            classes[label] = real
    return classes


def _judged_class(
    dataset: RealImages, label: str, extractor: FeatureExtractor, rules: Rules, seed: int
) -> RealClass | None:
    sizes = rules["sizes"]
    reference = choose_reference(dataset, label, sizes["fewest_held_out"])
    if not len(reference.images):
        return None
    train, table = dataset.images_of(label, ("train",))
    held = reference.images if reference.held_out else reference.images[: len(reference.images) - len(train)]
    chosen = draw(reference.images, sizes["most_real"], seed)
    note = reference.note
    if len(chosen) < len(reference.images):
        note += f" {len(chosen)} of them, drawn by seed, are scored."
    more = draw(train, sizes["most_real"] - len(chosen), seed) if reference.held_out else train[:0]
    return RealClass(
        label=label,
        n_real=len(held) + len(train),
        features=extractor(np.concatenate([chosen, more])),
        n_reference=len(chosen),
        train_images=train,
        train_names=tuple(f"train/{name}" for name in table["file_name"]),
        real_copies=copies.find(held, train) if len(held) else None,
        note=note,
    )


def _other_class(
    dataset: RealImages, label: str, extractor: FeatureExtractor, rules: Rules, seed: int
) -> RealClass | None:
    images, _ = dataset.images_of(label, ("heldout", "validation", "train"))
    if not len(images):
        return None
    chosen = draw(images, rules["sizes"]["most_of_other_class"], seed)
    return RealClass(label, len(images), extractor(chosen), len(chosen), images[:0], (), None, "")


def draw(images: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` of the images, drawn by seed, in their order."""
    return images[drawn(len(images), most, seed)]


def drawn(total: int, most: int, seed: int) -> np.ndarray:
    """Sorted indices of at most `most` out of `total`, drawn by seed."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
