"""What a generator or a classifier has seen, as its run and its synthetic sets keep it in `seen.csv`.

Every image is known by the hash of its source file; those that came with a generator's weights to start from, and those
of classifiers and their pretraining, also by a perceptual hash, which finds them in files that are not the same: at another resolution, recompressed, mirrored or turned, and
at the crops in which the images of PBC are in use. `prepare` hashes the source images, before it brings them to a scale
or normalises their stain, so that neither hides a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from balancer.data.dataset import PreparedDataset, read_table
from balancer.data.decode import make_square
from balancer.imaging.duplicates import SIDE
from balancer.imaging.perceptual_hash import find_seen, middle, perceptual_hashes

# The column of seen.csv (none, one or several hashes by spaces, of crops) and of a prepared dataset's metadata.csv.
PERCEPTUAL_HASH = "perceptual_hash"
# What the builtin generators saw of PBC are the middle 256 of 360 px: originals are looked for with that crop too.
ORIGINAL = 256 / 360
_SIDE = 128  # pixels of the squares that are hashed


def perceptual_hashes_of(pixels: np.ndarray) -> str:
    """Two perceptual hashes by a space, of the centre square of a source image (uint8 H×W×3) and of the `ORIGINAL` crop of it."""
    square = make_square(pixels, _SIDE)[None]
    return " ".join(perceptual_hashes(np.concatenate([square, middle(square, ORIGINAL)])))


@dataclass(frozen=True)
class Seen:
    """The images that a generator or a classifier has seen, by both hashes."""

    files: frozenset[str] = field(repr=False)  # source_sha256
    pictures: tuple[str, ...] = field(repr=False)  # perceptual hashes

    @classmethod
    def read(cls, path: Path) -> Seen:
        """Read a `seen.csv`; InputError when it is missing or damaged."""
        return cls.of(read_table(path, ["source_sha256"]))

    @classmethod
    def of(cls, table: pd.DataFrame) -> Seen:
        """The images of a table with the columns source_sha256 and, where it is known, perceptual_hash."""
        pictures = table.get(PERCEPTUAL_HASH, pd.Series(dtype=str)).dropna()
        return cls(frozenset(table["source_sha256"]), tuple(" ".join(pictures).split()))

    def besides(self, own: str, data: PreparedDataset) -> Seen:
        """What to look for in `data`, for what was trained on the dataset with the fingerprint `own`.

        In the same dataset that is the files alone: whether two of its files show one picture is for `prepare` to say.
        """
        return replace(self, pictures=()) if own == data.fingerprint else self

    def among(self, data: PreparedDataset, split: str) -> list[str]:
        """File names of the images of a split that are among the seen ones, as a file or as a picture."""
        table = data.tables[split]
        known = table["source_sha256"].isin(list(self.files)).to_numpy(copy=True)
        if self.pictures and not known.all():
            left = np.flatnonzero(~known)
            for hashes in _hashes(data, split, left):
                known[left] |= find_seen(hashes, self.pictures) >= 0
        return table.loc[known, "file_name"].tolist()


def seen_rows(data: PreparedDataset, split: str) -> pd.DataFrame:
    """Rows for the `seen.csv` of what is trained on a split: source_sha256, label, split and perceptual_hash.

    The last is missing where `prepare` wrote none and the images are too small for one.
    """
    table = data.tables[split]
    rows = table[["source_sha256", "label"]].assign(split=split)
    if not _hashed(table) and data.resolution < SIDE:
        return rows
    crops = _hashes(data, split, np.arange(len(table)))
    return rows.assign(**{PERCEPTUAL_HASH: [" ".join(hashes) for hashes in zip(*crops, strict=True)]})


def _hashed(table: pd.DataFrame) -> bool:
    return PERCEPTUAL_HASH in table and bool(table[PERCEPTUAL_HASH].notna().all())


def _hashes(data: PreparedDataset, split: str, rows: np.ndarray) -> Iterable[Sequence[str]]:
    """For each of the crops that are looked at, the hashes of those rows: as `prepare` wrote them, else of the pixels."""
    table = data.tables[split]
    if _hashed(table):
        return zip(*(hashes.split() for hashes in table[PERCEPTUAL_HASH].iloc[rows]), strict=True)
    images = data.images(split)[rows]  # of a dataset that was prepared before there was that column
    return (perceptual_hashes(crop) for crop in (images, middle(images, ORIGINAL)))
