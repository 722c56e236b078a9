"""Masks and morphology of image files: what `balancer segment` writes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed, parallel_config
from PIL import Image

from balancer.data.decode import decode, image_size, to_8_bits, white_level
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_csv, write_mark
from balancer.imaging.morphology import measure
from balancer.imaging.scale import check_scale
from balancer.imaging.segmentation import segment
from balancer.progress import note, track

MORPHOLOGY = "morphology.csv"
_BATCH, _BATCH_PIXELS = 16, 2**24  # images that a process holds at a time, and what they measure together
_WORTH_PROCESSES = 256  # images: below, processes start more slowly than one of them works

Row = dict[str, object]


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
    Many images are spread over the processors that this process may use. Raises InputError when none can be read,
    two images would have the same mask, `out` exists, or the scale is none.
    """
    check_scale("--um-per-pixel", um_per_pixel)
    paths = [Path(path) for path in paths]
    refuse_existing(out, overwrite, paths)
    names = _mask_names(paths)
    rows: list[Row] = []
    with new_directory(out, overwrite) as folder:
        batches = list(_batches(list(zip(paths, names, strict=True))))
        count = cpu_count() if len(paths) >= _WORTH_PROCESSES else 1
        # They end when nobody gives them work, so that none outlives for long a command that was killed.
        with parallel_config("loky", n_jobs=count, idle_worker_timeout=20):
            processes = Parallel(return_as="generator")
        results = processes(delayed(_segment_batch)(batch, folder, um_per_pixel) for batch in batches)
        for done, unreadable in track(results, "Segmenting", len(batches)):
            rows += done
            for reason in unreadable:
                note(f"Left out: {reason}")
        if not rows:
            none = "The file cannot" if len(paths) == 1 else f"None of the {len(paths)} files can"
            raise InputError(f"{none} be read as an image; give image files.")
        write_csv(folder / MORPHOLOGY, pd.DataFrame(rows))
        write_mark(folder, "morphology")
    flags = Counter(str(row["flag"]) for row in rows if row["flag"])
    return Segmented(out, len(rows), dict(flags))


def _batches(files: Sequence[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    """The files in order, as many at a time as fit in memory together."""
    batch: list[tuple[Path, str]] = []
    pixels = 0
    for path, name in files:
        width, height = image_size(path) or (0, 0)
        if batch and (len(batch) == _BATCH or pixels + width * height > _BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append((path, name))
        pixels += width * height
    yield batch


def _segment_batch(
    files: Sequence[tuple[Path, str]], folder: Path, um_per_pixel: float | None
) -> tuple[list[Row], list[str]]:
    """Write the masks of images, each under its name in `folder`: rows of morphology.csv, and what cannot be read."""
    images, read, unreadable = [], [], []
    for path, name in files:
        try:
            pixels = decode(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        images.append(np.ascontiguousarray(to_8_bits(pixels, white_level(pixels))))
        read.append((path, name))
    rows = []
    for image, (path, name), found in zip(images, read, segment(images), strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(found.mask).save(target)
        head: Row = {"file_name": str(path), "mask": name, "flag": found.flag}
        rows.append(head | measure(image, found.mask, um_per_pixel))
    return rows, unreadable


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
