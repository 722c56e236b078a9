"""Judge one folder of images against another: prepared datasets, synthetic sets or plain class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from balancer.data import ImageStore, PreparedDataset
from balancer.errors import InputError, unknown_name
from balancer.progress import note
from balancer.quality.features import FeatureExtractor
from balancer.quality.gate import Judgement, judge_candidates

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

    def images_of(self, label: str, splits: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
        """The images of a class, uint8 N×R×R×3, and a table of their names; all of them are of split `train`."""
        paths = _image_paths(self.root / label) if "train" in splits else []
        names = [f"{label}/{path.relative_to(self.root / label)}" for path in paths]
        return ImageStore(paths, self.resolution)[:], pd.DataFrame({"file_name": names, "split": "train"})


def judge_folders(
    real: Path, synthetic: Path, extractor: FeatureExtractor, seed: int = 0
) -> dict[str, Judgement]:
    """Judge every class folder of `synthetic` against the same class of `real`.

    Either is a prepared dataset, a synthetic set (of both, `train/` is judged) or a folder of class folders. Empty
    folders of `synthetic` are passed over with a note. Raises InputError when a class is unknown, or sizes differ.
    """
    real, synthetic = Path(real), Path(synthetic)
    prepared = (real / "dataset.json").is_file()
    reference = PreparedDataset.load(real) if prepared else ClassFolders.load(real)
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
    found = {label: images.images_of(label, ("train",))[0] for label in images.classes}
    candidates = {label: pixels for label, pixels in found.items() if len(pixels)}
    alone = sorted({*reference.classes, *images.classes} - candidates.keys())
    if alone:
        note(f"No synthetic images of {', '.join(alone)} in {synthetic}; not judged.")
    return judge_candidates(reference, candidates, extractor, seed)


def _image_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
