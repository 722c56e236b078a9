"""What may not be trained on or judged by: synthetic images in the wrong place, images seen in training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from balancer.data import PreparedDataset, SyntheticSet
from balancer.data.seen import Seen
from balancer.errors import InputError, unknown_name

_JUDGING = ("validation", "test", "heldout")


def check_synthetic(data: PreparedDataset, synthetic: Sequence[SyntheticSet]) -> None:
    """Refuse what would make a result on `data` worthless; InputError names the files.

    Refused are synthetic images in validation, test or heldout (`check_judges`), and a synthetic set that came from
    other data (by fingerprint) or from images treated otherwise (crop, scale, stain), whose generator has seen an image of validation or test (the same file, or where its
    perceptual hashes are known the same picture at any resolution), that holds an image which is not synthetic, has
    another resolution, or a class that the data does not know. So is a synthetic image that is given twice, in one
    set or in several.
    """
    check_judges(data, _JUDGING)
    for images in synthetic:
        _check_set(data, images)
    _check_repeats(synthetic)


def check_judges(data: PreparedDataset, splits: Iterable[str], seen: Seen | None = None) -> None:
    """Refuse to judge a classifier by these splits when an image is synthetic or among the `seen`.

    An image is synthetic when its row says so or the text in its PNG file does, whatever the other says. `seen`:
    the images that the classifier was trained on, of which another file of the same picture is one too. InputError has
    the number and the first names.
    """
    for split in splits:
        table = data.tables[split]
        known = seen.among(data, split) if seen else []
        if known:
            raise InputError(
                f"{len(known)} of the {len(table)} images of {data.root / split} are among those that the classifier, or what "
                f"made its synthetic images, was trained or selected on, be it in another file ({_some(known)}); judge it on images that it has not seen."
            )
        in_file = [_says_synthetic(path) for path in data.paths(split)]
        made = table.loc[
            (table["source"] == "synthetic") | pd.Series(in_file, table.index, bool), "file_name"
        ]
        if len(made):
            raise InputError(
                f"{data.root / split} holds {len(made)} synthetic images ({_some(made)}); "
                "only real or rendered images may judge a classifier: prepare the dataset without them."
            )


def _says_synthetic(path: Path) -> bool:
    """Whether the text before a PNG's pixels names it synthetic, as `synth` writes it; pixels are not read."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("source") == "synthetic"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False  # whoever reads the pixels says what is wrong with the file


def _check_set(data: PreparedDataset, images: SyntheticSet) -> None:
    if images.data_fingerprint != data.fingerprint:
        raise InputError(
            f"{images.root} was made from other data than {data.root} (their fingerprints differ): its generator may "
            "have seen the test images. Make a synthetic set from this dataset with `balancer train` and `synth`."
        )
    if differing := data.treated_otherwise(images.info["data"].get("treatment")):
        raise InputError(
            f"{images.root} was made from images that `balancer prepare` treated otherwise than those of {data.root} "
            f"({differing}): a classifier would tell synthetic images from real ones by that. Make a synthetic set from "
            "this dataset with `balancer train` and `synth`."
        )
    for split in ("test", "validation"):
        seen = images.seen.among(data, split)
        if seen:
            raise InputError(
                f"The generator behind {images.root}, or the weights that it started from, was trained on {len(seen)} "
                f"images of {data.root / split} ({_some(seen)}), be it at another resolution; prepare the data without "
                "these images, or train a generator from scratch on the train split alone."
            )
    other = images.table.loc[images.table["source"] != "synthetic", "file_name"]
    if len(other):
        raise InputError(
            f"{images.root / 'train'} holds {len(other)} images that are not synthetic by their rows "
            f"({_some(other)}); a synthetic set may hold nothing else: make it again with `balancer synth`."
        )
    if images.resolution != data.resolution:
        raise InputError(
            f"{images.root} has images of {images.resolution} px and {data.root} of {data.resolution} px; "
            "make a synthetic set at the resolution of the data."
        )
    for label in images.table["label"].unique():
        if label not in data.classes:
            raise InputError(f"{images.root}: {unknown_name('class', str(label), data.classes)}")


def _check_repeats(synthetic: Sequence[SyntheticSet]) -> None:
    """By path within a set, where a collapsed generator may make equal images; by their pixels' hash between sets."""
    known: set[str] = set()
    for images in synthetic:
        table = images.table
        twice = table["file_name"].duplicated() | table["source_sha256"].isin(list(known))
        if twice.any():
            raise InputError(
                f"{images.root} holds {twice.sum()} images that are given more than once "
                f"({_some(table.loc[twice, 'file_name'])}) and would count as often; give every synthetic set once, "
                "and make further sets with another --seed."
            )
        known.update(table["source_sha256"])


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
