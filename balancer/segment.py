"""Masks and morphology of image files: what `balancer segment` writes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from balancer.data.decode import decode, to_8_bits, white_level
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_csv, write_mark
from balancer.imaging.morphology import measure
from balancer.imaging.segmentation import segment
from balancer.progress import note, track

MORPHOLOGY = "morphology.csv"
_BATCH = 64


@dataclass(frozen=True)
class Segmented:
    """What was written: `images` masks, and how many of them are empty by flag ("no cell", "no nucleus")."""

    out: Path
    images: int
    flags: dict[str, int]


def segment_files(
    paths: Sequence[Path], out: Path, um_per_pixel: float | None = None, overwrite: bool = False
) -> Segmented:
    """Segment image files of any kind and size into the folder `out`.

    Writes a mask for each image (8-bit PNG of the image's size: 255 nucleus, 128 cytoplasm, 0 elsewhere), under the
    image's name and, where the images lie in several folders, in a folder of the same name; and morphology.csv with a
    row per image: file_name (path as given), mask (path in `out`), flag (empty where a cell was found) and the
    columns of `balancer.imaging.morphology.measure`, in µm where `um_per_pixel`, the width of a pixel, is given.
    16-bit images are scaled by their own white level. A file that cannot be read is named in a note and left out.
    Raises InputError when none can be read, two images would have the same mask, or `out` exists.
    """
    paths = [Path(path) for path in paths]
    refuse_existing(out, overwrite, paths)
    names = _mask_names(paths)
    rows: list[dict[str, object]] = []
    with new_directory(out, overwrite) as folder:
        for start in track(range(0, len(paths), _BATCH), "Segmenting"):
            images, read = [], []
            for place in range(start, min(start + _BATCH, len(paths))):
                try:
                    pixels = decode(paths[place])
                except InputError as error:
                    note(f"Left out: {error}")
                    continue
                images.append(np.ascontiguousarray(to_8_bits(pixels, white_level(pixels))))
                read.append(place)
            for image, place, found in zip(images, read, segment(images), strict=True):
                target = folder / names[place]
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(found.mask).save(target)
                head: dict[str, object] = {
                    "file_name": str(paths[place]),
                    "mask": names[place],
                    "flag": found.flag,
                }
                rows.append(head | measure(image, found.mask, um_per_pixel))
        if not rows:
            raise InputError(f"None of the {len(paths)} files can be read as an image; give image files.")
        write_csv(folder / MORPHOLOGY, pd.DataFrame(rows))
        write_mark(folder, "morphology")
    flags = Counter(str(row["flag"]) for row in rows if row["flag"])
    return Segmented(out, len(rows), dict(flags))


def _mask_names(paths: Sequence[Path]) -> list[str]:
    """Where each image's mask goes: its path below the folder that all images share, as PNG."""
    absolute = [path.absolute() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    names = [path.relative_to(shared).with_suffix(".png").as_posix() for path in absolute]
    first: dict[str, Path] = {}
    for name, path in zip(names, paths, strict=True):
        if name in first:
            raise InputError(
                f"{first[name]} and {path} would have the same mask {name}; rename one or segment them apart."
            )
        first[name] = path
    return names
