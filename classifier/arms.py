"""The arms of a comparison: each is one way to treat the imbalance, and nothing else differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from balancer.data import ImageStore, PreparedDataset, SyntheticSet
from classifier.config import TrainingConfig


@dataclass(frozen=True)
class Arm:
    """What an arm does: how its trainings weigh, draw, mix and vary images, and those added to the train split."""

    summary: str
    loss: str = "cross-entropy"
    sampling: str = "natural"
    mixing: str = "none"
    augmentation: str | None = None  # None: that of every arm
    adds: Literal["nothing", "synthetic", "heldout"] = "nothing"

    def config(self, base: TrainingConfig, seed: int) -> TrainingConfig:
        """`base` with what is this arm's own: steps and schedule are those of every arm."""
        own = replace(base, loss=self.loss, sampling=self.sampling, mixing=self.mixing, seed=seed)
        return own if self.augmentation is None else replace(own, augmentation=self.augmentation)

    def rows(self, data: PreparedDataset, synthetic: Sequence[SyntheticSet]) -> pd.DataFrame:
        """The metadata of the images to train on, in the order of `train_split`."""
        tables = [data.tables["train"]]
        if self.adds == "synthetic":
            tables += [images.table for images in synthetic]
        if self.adds == "heldout":
            tables.append(data.tables["heldout"][usable_heldout(data)])
        return pd.concat([table.astype(object) for table in tables], ignore_index=True)

    def train_split(
        self, data: PreparedDataset, synthetic: Sequence[SyntheticSet]
    ) -> tuple[ImageStore, np.ndarray]:
        """The images to train on, and their class indices, int64."""
        paths, masks, labels = data.paths("train"), data.mask_paths("train"), [data.labels("train")]
        if self.adds == "synthetic":
            for images in synthetic:
                paths += images.paths()
                masks += [None] * len(images.table)
                labels.append(
                    np.array([data.class_index(label) for label in images.table["label"]], dtype=np.int64)
                )
        if self.adds == "heldout":
            usable = np.flatnonzero(usable_heldout(data))
            held, held_masks = data.paths("heldout"), data.mask_paths("heldout")
            paths += [held[i] for i in usable]
            masks += [held_masks[i] for i in usable]
            labels.append(data.labels("heldout")[usable])
        return ImageStore(paths, data.resolution, masks), np.concatenate(labels)


def usable_heldout(data: PreparedDataset) -> np.ndarray:
    """Which held-out images may be trained on, bool: those whose group has no image in validation or test."""
    judged = set(data.tables["validation"]["group"]) | set(data.tables["test"]["group"])
    return ~data.tables["heldout"]["group"].isin(judged).to_numpy(dtype=bool)


CHEAP = {
    "unbalanced": Arm("Nothing is done about the imbalance."),
    "class-weights": Arm("The loss weighs a class by the inverse of its frequency.", loss="class-weights"),
    "effective-number": Arm(
        "The loss weighs a class by the inverse of its effective number of images.", loss="effective-number"
    ),
    "balanced-sampling": Arm("Every class is drawn equally often.", sampling="balanced"),
    "square-root-sampling": Arm(
        "A class is drawn by the square root of its frequency.", sampling="square-root"
    ),
    "focal": Arm("The focal loss attends to images that are hard to recognise.", loss="focal"),
    "balanced-softmax": Arm("The loss allows for the frequencies of the classes.", loss="balanced-softmax"),
    "logit-adjustment": Arm(
        "After the training the frequencies of the classes are taken off the logits.", loss="logit-adjustment"
    ),
    "ldam": Arm("Rare classes get a larger margin, and late in the training more weight.", loss="ldam"),
    "mixup": Arm("Images are blended with partners of every class equally often.", mixing="mixup"),
    "cutmix": Arm("Parts of images are replaced by partners of every class equally often.", mixing="cutmix"),
    "trivial-augment": Arm(
        "Images are varied by TrivialAugment, every class drawn equally often.",
        sampling="balanced",
        augmentation="trivial-augment",
    ),
}
DEFAULT_CHEAP = ("unbalanced", "class-weights", "balanced-sampling")
GAN = "gan"
FULL_DATA = "full-data"
ARMS = (*CHEAP, GAN, FULL_DATA)


def gan(best: str) -> Arm:
    """The cheap arm that was best on validation, plus the synthetic images."""
    return replace(CHEAP[best], summary=f"Like {best}, with the synthetic images added.", adds="synthetic")


def full_data(best: str) -> Arm:
    """The same cheap arm, plus the images that were held out: what collecting them would have brought."""
    return replace(CHEAP[best], summary=f"Like {best}, with the held-out images added.", adds="heldout")
