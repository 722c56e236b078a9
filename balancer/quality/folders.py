"""Judge one folder of images against another: prepared datasets, synthetic sets or plain class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from balancer.data import ImageStore, PreparedDataset
from balancer.data.seen import Seen
from balancer.errors import InputError, unknown_name
from balancer.progress import note
from balancer.quality.features import FeatureExtractor
from balancer.quality.gate import Judgement, judge_candidates
from balancer.quality.reference import seen_outside_train

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ClassFolders:
    """A folder with a folder of images per class, all images square and of one size.

    Nothing is known about what a generator trained on, so all images count as train images.
    """

    root: Path
    classes: tuple[str, ...]
    resolution: int

    @classmethod
    def load(cls, root: Path) -> ClassFolders:
        """Open a folder; raise InputError when it has no class folders or no image in them."""
        if not root.is_dir():
            raise InputError(f"{root} is no folder; give a prepared dataset or a folder of class folders.")
        classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
        first = next((path for label in classes for path in _image_paths(root / label)), None)
        if first is None:
            raise InputError(f"{root} has no folders with images in them; one folder per class is needed.")
        try:
            with Image.open(first) as image:
                width = image.width
        except (OSError, SyntaxError) as error:
            raise InputError(
                f"{first} cannot be read as an image ({error}); remove it or make it again."
            ) from None
        return cls(root, classes, width)

    def class_index(self, label: str) -> int:
        """The index of a class; InputError with the known ones and the nearest when it does not exist."""
        if label not in self.classes:
            raise unknown_name("class", label, self.classes)
        return self.classes.index(label)

    def paths(self, label: str) -> list[Path]:
        """The image files of a class, in their order."""
        return _image_paths(self.root / label)

    def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
        """The images of a class, uint8 N×R×R×3, and a table of their names; all of them are of split `train`."""
        paths = self.paths(label) if "train" in splits else []
        names = [str(path.relative_to(self.root)) for path in paths]
        return ImageStore(paths, self.resolution)[:], pd.DataFrame({"file_name": names, "split": "train"})


def open_real(root: Path) -> PreparedDataset | ClassFolders:
    """The real images at `root`: a prepared dataset or a folder of class folders; InputError when it is neither."""
    prepared = (root / "dataset.json").is_file()
    return PreparedDataset.load(root) if prepared else ClassFolders.load(root)


@dataclass(frozen=True)
class FolderJudgement:
    """What the gate found in a folder: its judgements by class, against what, and a row for each image judged.

    `candidates` has the columns `label`, `path`, `reason` (None where it was not rejected by itself) and those of
    `Judgement.scores`.
    """

    real: PreparedDataset | ClassFolders
    judgements: dict[str, Judgement]
    candidates: pd.DataFrame = field(repr=False)


def judge_folders(real: Path, synthetic: Path, extractor: FeatureExtractor, seed: int = 0) -> FolderJudgement:
    """Judge every class folder of `synthetic` against the same class of `real`.

    Either is a prepared dataset, a synthetic set (of both, `train/` is judged) or a folder of class folders. Classes
    that are in `real` alone, or have no image in `synthetic`, are passed over with a note. Raises InputError when a
    class is unknown to `real`, when sizes differ, and for an image that cannot be read.
    """
    real, synthetic = Path(real), Path(synthetic)
    reference = open_real(real)
    in_set = (synthetic / "dataset.json").is_file()
    if in_set and not _image_paths(synthetic / "train"):
        raise InputError(
            f"{synthetic / 'train'} holds no images: none of this set passed the gate (its gate.json says why), so "
            "there is nothing to judge."
        )
    images = ClassFolders.load(synthetic / "train" if in_set else synthetic)
    if images.resolution != reference.resolution:
        raise InputError(
            f"The images in {synthetic} are {images.resolution} px wide and those in {real} {reference.resolution} px; "
            "prepare both at one resolution."
        )
    paths = {label: found for label in images.classes if (found := images.paths(label))}
    for label in paths:
        if label not in reference.classes:
            raise InputError(
                f"{images.root / label} has images, and {real} has no class '{label}' to judge them against "
                f"({unknown_name('class', label, reference.classes)})"
            )
    alone = sorted({*reference.classes, *images.classes} - paths.keys())
    if alone:
        note(f"No synthetic images of {', '.join(alone)} in {synthetic}; not judged.")
    candidates = {label: images.images_of(label, ("train",))[0] for label in paths}
    known = synthetic / "seen.csv"  # of a synthetic set: what its generator was trained on
    seen: list[str] = []
    if isinstance(reference, PreparedDataset) and known.is_file():
        seen = seen_outside_train(Seen.read(known), reference)
    elif isinstance(reference, PreparedDataset):
        note(
            f"Nothing tells which images the generator of {synthetic} was trained on (no seen.csv): those of {real} outside train "
            "are taken for unseen."
        )
    judgements = judge_candidates(reference, candidates, extractor, seed, seen)
    tables = [
        pd.DataFrame({"label": label, "path": paths[label], "reason": judged.rejected}, dtype=object).join(
            judged.scores.reset_index(drop=True)
        )
        for label, judged in judgements.items()
    ]
    return FolderJudgement(reference, judgements, pd.concat(tables, ignore_index=True))


def _image_paths(folder: Path) -> list[Path]:
    """Image files at any depth, but for hidden ones, which file browsers and notebooks leave; InputError for odd names."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    ]
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise InputError(f"The name of {shown} is no text in UTF-8; rename the file.") from None
    return sorted(found)
