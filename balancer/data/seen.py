"""What a generator has seen, as its run and its synthetic sets keep it in `seen.csv`.

Every image is known by the hash of its source file; those that came with weights to start from also by a perceptual
hash, which finds them in files that are not the same: at another resolution, recompressed, mirrored or turned, and
at the crops in which the images of PBC are in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from balancer.data.dataset import PreparedDataset, read_table
from balancer.imaging.perceptual_hash import find_seen, middle, perceptual_hashes

PERCEPTUAL_HASH = "perceptual_hash"  # the column of seen.csv: none, one or several by spaces, of crops
# What the builtin generators saw of PBC are the middle 256 of 360 px: originals are looked for with that crop too.
ORIGINAL = 256 / 360


@dataclass(frozen=True)
class Seen:
    """The images that a generator has seen, by both hashes."""

    files: frozenset[str] = field(repr=False)  # source_sha256
    pictures: tuple[str, ...] = field(repr=False)  # perceptual hashes

    @classmethod
    def read(cls, path: Path) -> Seen:
        """Read a `seen.csv`; InputError when it is missing or damaged."""
        table = read_table(path, ["source_sha256"])
        pictures = table.get(PERCEPTUAL_HASH, pd.Series(dtype=str)).dropna()
        return cls(frozenset(table["source_sha256"]), tuple(" ".join(pictures).split()))

    def among(self, data: PreparedDataset, split: str) -> list[str]:
        """File names of the images of a split that are among the seen ones, as a file or as a picture."""
        table = data.tables[split]
        known = table["source_sha256"].isin(list(self.files)).to_numpy(copy=True)
        if self.pictures:
            left = np.flatnonzero(~known)
            images = data.images(split)[left]
            for crop in (images, middle(images, ORIGINAL)):
                known[left] |= find_seen(perceptual_hashes(crop), self.pictures) >= 0
        return table.loc[known, "file_name"].tolist()
