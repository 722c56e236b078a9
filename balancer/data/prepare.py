"""From any source to a prepared dataset: read, decode, find duplicates, split, thin, write."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from joblib import cpu_count
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices, contradictory
from balancer.data.dataset import COLUMNS, FORMAT, SPLITS, fingerprint
from balancer.data.decode import Crop, decode, image_size, make_square, stated_source, to_8_bits, white_level
from balancer.data.images import read_prepared_image
from balancer.data.seen import PERCEPTUAL_HASH, perceptual_hashes_of
from balancer.data.sources import MASKS, SPLIT_NAMES, open_source, printable
from balancer.data.splits import (
    RATIOS,
    STUDY_SPLITS,
    assign_splits,
    few_images,
    join_groups,
    long_tail_limits,
    thin,
)
from balancer.data.wording import lines, number, some
from balancer.errors import InputError, unknown_name
from balancer.files import new_directory, refuse_existing, write_csv, write_json
from balancer.imaging import stain as stains
from balancer.imaging.duplicates import describe
from balancer.imaging.same_cell import duplicate_pairs, pictures
from balancer.imaging.scale import check_scale, to_scale
from balancer.progress import note, stage, track

RESOLUTIONS = (32, 64, 128, 224)
_LEAST, _MOST = 16, 1024
_UNSORTED = "unsorted"
_GROUPED = ("patient_id", "slide_id", "field_id")  # columns that group by themselves, where a source has them
_NEARLY_ALL = 0.99  # of an image's values, within 5 of black or of white
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Summary:
    """What `prepare` made and what it noticed on the way."""

    root: Path
    classes: tuple[str, ...]
    resolution: int
    source: str  # real | rendered
    fingerprint: str
    counts: dict[str, dict[str, int]]  # split → class → images
    skipped: list[tuple[str, str]] = field(default_factory=list)  # source file, reason
    duplicates_removed: list[tuple[str, str]] = field(default_factory=list)  # removed file, the file kept
    label_conflicts: list[tuple[str, str]] = field(default_factory=list)  # the same image under two labels
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)  # kept, in one split
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {**asdict(self), "root": str(self.root), "classes": list(self.classes)}


@dataclass(frozen=True)
class _Decoded:
    """One image after decoding; its prepared PNG lies aside."""

    source_sha256: str  # of the file's bytes
    pixel_sha256: str  # of the decoded pixels at full size
    square_sha256: str  # and as prepared: images of one colour are alike there, whatever their size was
    perceptual_hash: str  # of the same, whatever the prepared image shows of them
    source_width: int
    source_height: int
    source: str  # real | rendered
    flat: bool  # a deep image that the common scaling made nearly all black or all white
    described: np.ndarray  # for near-duplicates
    shown: np.ndarray  # for the same cell elsewhere


@dataclass(frozen=True)
class _Frame:
    """How decoded pixels become a prepared image."""

    resolution: int
    crop: Crop
    to_um_per_pixel: float | None

    def square(self, pixels: np.ndarray, um_per_pixel: float, *, nearest: bool = False) -> np.ndarray:
        """uint8 H×W(×C) of a scale (any where no common one is asked for) → uint8 R×R(×C)."""
        if self.to_um_per_pixel is None:
            return make_square(pixels, self.resolution, self.crop, nearest=nearest)
        return to_scale(pixels, um_per_pixel, self.to_um_per_pixel, self.resolution, nearest=nearest)

    def um_per_pixel(self, table: pd.DataFrame) -> pd.Series:
        """Of the prepared pixels, each of which covers side/resolution of the source's."""
        if self.to_um_per_pixel is not None:
            return pd.Series(self.to_um_per_pixel, index=table.index)
        sides = table[["source_width", "source_height"]]
        side = sides.min(axis=1) if self.crop == "crop" else sides.max(axis=1)
        return table["um_per_pixel"] * side / self.resolution


def prepare(
    source: Path,
    out: Path,
    *,
    resolution: int | None = None,
    label_column: str | None = None,
    mapping: Path | None = None,
    group_by: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    long_tail: float | None = None,
    keep_splits: bool = False,
    seed: int = 0,
    ratios: Sequence[float] = RATIOS,
    crop: Crop = "crop",
    um_per_pixel: float | None = None,
    to_um_per_pixel: float | None = None,
    stain: str | None = None,
    on_bad_image: Literal["skip", "stop"] = "skip",
    licence: str | None = None,
    overwrite: bool = False,
) -> Summary:
    """Make a prepared dataset at `out` from `source` (see `open_source` for what can be read).

    Images become `resolution`×`resolution` RGB PNGs, cropped to the centre square or padded, never stretched;
    without `resolution` the largest of 32, 64, 128 and 224 px that no image falls short of. Deep images (16 bits)
    share one scaling. `um_per_pixel` is the scale of the images whose rows name none in a column of that name. With
    `to_um_per_pixel` all are brought to that scale, each by its own, and then cropped or padded to the resolution
    (`to_scale`), instead of filling it. `stain` (clahe, reinhard, macenko) normalises colours, to the statistics of the
    train images. Exact duplicates of one label are kept once. Images that share a value in a column of `group_by`
    (without it: in those of patient_id, slide_id and field_id that the source has), and near-duplicates, form a
    group, which lies in one of train, validation and test. `limits` (label to number) and `long_tail` (imbalance ratio) thin
    train, and validation in proportion; what they remove goes to heldout. With `keep_splits` the source's own splits
    stay as they are. A bad image is named and skipped, or stops the run. An image whose text chunk `source` says
    synthetic always stops it; images that say rendered make the dataset a rendered one, whatever the metadata say.
    The same seed gives the same dataset. Raises InputError; then nothing is written.
    """
    source, out = Path(source), Path(out)
    _check_options(source, out, resolution, limits or {}, long_tail, ratios)
    _check_imaging(crop, um_per_pixel, to_um_per_pixel, stain)
    refuse_existing(out, overwrite, [source if source.is_dir() else source.parent])
    stage("Reading the source")
    with open_source(source, label_column, mapping) as opened, new_directory(out, overwrite) as aside:
        notes = [printable(sentence) for sentence in opened.notes]
        _check_names(opened.table, group_by, limits or {})
        known = [c for c in _GROUPED if c in opened.table and opened.table[c].notna().any()]
        if not group_by and known:
            group_by = tuple(known)
            as_with = " ".join(f"--group-by {column}" for column in known)
            notes.append(f"Images of one {' or '.join(known)} form a group, as with {as_with}.")
        notes.extend(_about_attributes(source, opened.table))
        rows = _with_scale(source, opened.table, um_per_pixel, to_um_per_pixel, notes)
        if resolution is None:
            resolution = _choose_resolution(rows, to_um_per_pixel)
            notes.append(f"A resolution of {resolution} px was chosen from the sizes of the images.")
        frame = _Frame(resolution, crop, to_um_per_pixel)
        (aside / _UNSORTED).mkdir()
        table, described, shown, skipped, white = _decode_all(
            rows, opened.kind, aside / _UNSORTED, frame, on_bad_image, notes
        )
        classes = tuple(sorted(opened.table["label"].unique()))
        _check_classes(source, classes, table, skipped, notes)
        kind = _kind(source, table)

        near = sorted(duplicate_pairs(described, shown))
        columns = [table[column].to_numpy() for column in (*group_by, "pixel_sha256", "square_sha256")]
        table["group"] = _group_names(table, join_groups(columns, near, len(table)), group_by)
        duplicates = _exact_duplicates(table, notes)
        near = [(i, j) for i, j in near if i not in duplicates and j not in duplicates]
        conflicts = _label_conflicts(table, near, notes)
        files = table["source_file"]
        table = table.drop(index=list(duplicates))

        splits, kept = _split(table, keep_splits, ratios, seed, notes)
        table["split"] = _thin(table, splits, limits or {}, long_tail, seed, notes)
        table["file_name"] = _file_names(table)
        reference = _normalise_stain(aside / _UNSORTED, table, stain, notes) if stain else None
        masks = _write_images(aside, table, classes, frame, notes)
        if "um_per_pixel" in table:
            table["um_per_pixel"] = frame.um_per_pixel(table)
        _write_tables(aside, table, rows)
        sizes = table.groupby(["split", "label"]).size()
        counts = {s: {label: int(sizes.get((s, label), 0)) for label in classes} for s in SPLITS}
        notes.extend(few_images(counts))
        identity = fingerprint(zip(table["split"], table["label"], table["source_sha256"], strict=True))
        info = {
            "format": FORMAT,
            "kind": "prepared",
            "classes": list(classes),
            "resolution": resolution,
            "source": kind,
            "counts": counts,
            "splits": {
                "seed": seed,
                "ratios": list(ratios),
                "group_by": list(group_by),
                "kept": kept,
                "limits": dict(limits or {}),
                "long_tail": long_tail,
            },
            "crop": crop,
            "to_um_per_pixel": to_um_per_pixel,
            **({} if white is None else {"white_level": white}),
            "stain": {"name": stain, "reference": reference} if stain else None,
            "masks": masks,
            "licence": licence,
            "fingerprint": identity,
            "origin": printable(str(source.absolute())),
            "skipped": [{"source_file": file, "reason": reason} for file, reason in skipped],
            "notes": notes,
        }
        write_json(aside / "dataset.json", info)
    for sentence in notes:
        note(sentence)
    return Summary(
        root=out,
        classes=classes,
        resolution=resolution,
        source=kind,
        fingerprint=identity,
        counts=counts,
        skipped=skipped,
        duplicates_removed=[(files[i], files[j]) for i, j in duplicates.items()],
        label_conflicts=[(files[i], files[j]) for i, j in conflicts],
        near_duplicates=[(files[i], files[j]) for i, j in near],
        notes=notes,
    )


def _about_attributes(source: Path, table: pd.DataFrame) -> list[str]:
    """What to say of columns with attributes: of how many images they are known, and what will not be read as them."""
    notes = []
    for column in table.columns.difference(list(ATTRIBUTES)):
        name = re.sub(r"[\s_-]+", "_", str(column).strip().lower()).replace("color", "colour")
        if name in ATTRIBUTES and name not in table:
            notes.append(f"The column '{column}' is not read as the attribute {name}; rename it to that.")
    try:
        known = (attribute_indices(table, source) != UNKNOWN).any(axis=1)
    except InputError as error:
        return [
            *notes,
            f"{error} The column is kept as it is; `classifier train --head` and `balancer train --condition attributes` will "
            "not read it.",
        ]
    if known.any():
        without = sorted(set(table["label"]) - set(table.loc[known, "label"]))
        of_none = f", none of {' or '.join(without)}" if without else ""
        notes.append(
            f"Attributes are known of {known.sum():,} of the source's {len(table):,} images{of_none}."
        )
        if n := int(contradictory(table, source).sum()):
            notes.append(
                f"Of {number(n, 'image', 'images')} the attributes say that there are granules and that there are none: the column "
                "granularity decides."
            )
    return notes


def _check_options(
    source: Path,
    out: Path,
    resolution: int | None,
    limits: Mapping[str, int],
    long_tail: float | None,
    ratios: Sequence[float],
) -> None:
    if resolution is not None and not _LEAST <= resolution <= _MOST:
        raise InputError(f"A resolution of {resolution} is out of range; give {_LEAST} to {_MOST} pixels.")
    for label, limit in limits.items():
        if limit < 1:
            raise InputError(
                f"--limit {label}={limit} would leave no image to train on; give 1 or more, or for a class "
                "that is to be known by sentences alone a column split and --keep-splits."
            )
    if long_tail is not None and not 1 < long_tail < float("inf"):
        raise InputError(
            f"--long-tail {long_tail:g} is no imbalance ratio; give a number above 1, such as 100."
        )
    if len(ratios) != 3 or not min(ratios) > 0 or abs(sum(ratios) - 1) > 1e-6:
        raise InputError(f"The split ratios {tuple(ratios)} must be three numbers above 0 that sum to 1.")
    if source.is_dir() and out.absolute().resolve().is_relative_to(source.absolute().resolve()):
        raise InputError(f"{out} lies inside the source {source}; choose an output outside of it.")


def _check_imaging(
    crop: Crop, um_per_pixel: float | None, to_um_per_pixel: float | None, stain: str | None
) -> None:
    check_scale("--um-per-pixel", um_per_pixel)
    check_scale("--to-um-per-pixel", to_um_per_pixel)
    if crop == "pad" and to_um_per_pixel is not None:
        raise InputError(
            "--crop pad shows whole images, which --to-um-per-pixel cannot, all being of one scale and size; leave one out."
        )
    if stain is not None and stain not in stains.STAINS:
        raise unknown_name("stain normalisation", stain, stains.STAINS)


def _with_scale(
    source: Path,
    table: pd.DataFrame,
    um_per_pixel: float | None,
    to_um_per_pixel: float | None,
    notes: list[str],
) -> pd.DataFrame:
    """The rows with um_per_pixel as numbers, NaN where it is not known; without the column where nothing is."""
    stated = table["um_per_pixel"] if "um_per_pixel" in table else pd.Series(None, table.index, dtype=object)
    for file, value in zip(table["source_file"][stated.notna()], stated.dropna(), strict=True):
        check_scale(f"um_per_pixel of {file}:", value)
    scale = pd.to_numeric(stated).astype(float)
    if um_per_pixel is not None:
        if scale.notna().any():
            notes.append(f"--um-per-pixel {um_per_pixel:g} holds for images whose row names no scale.")
        scale = scale.fillna(um_per_pixel)
    unknown = table.loc[scale.isna(), "source_file"].tolist()
    if unknown and to_um_per_pixel is not None:
        raise InputError(
            f"{source}: the scale of {number(len(unknown), 'image', 'images')} is not known ({some(unknown)}); give it in "
            "a column um_per_pixel, or with --um-per-pixel."
        )
    return (
        table.drop(columns="um_per_pixel", errors="ignore")
        if scale.isna().all()
        else table.assign(um_per_pixel=scale)
    )


def _check_names(table: pd.DataFrame, group_by: Sequence[str], limits: Mapping[str, int]) -> None:
    known = [
        str(column) for column in table if column not in {"path", "mask", "label", "source_file", "split"}
    ]
    for column in group_by:
        if column not in known:
            raise unknown_name("column", column, known)
    labels = sorted(table["label"].unique())
    for label in limits:
        if label not in labels:
            raise unknown_name("class", label, labels)


def _choose_resolution(table: pd.DataFrame, to_um_per_pixel: float | None) -> int:
    """The largest usual resolution that no readable image falls short of; 32 where they are smaller still."""
    factor = table["um_per_pixel"] / to_um_per_pixel if to_um_per_pixel else pd.Series(1.0, table.index)
    sizes = _in_threads(image_size, table["path"].tolist(), "Reading sizes")
    smallest = min(
        (round(min(size) * by) for size, by in zip(sizes, factor, strict=True) if size is not None),
        default=RESOLUTIONS[0],
    )
    return max((r for r in RESOLUTIONS if r <= smallest), default=RESOLUTIONS[0])


def _in_threads(function: Callable[[T], S], items: Sequence[T], description: str) -> list[S]:
    """Map over threads with progress; decoding and resizing release the interpreter's lock."""
    pool = ThreadPoolExecutor(cpu_count())
    try:
        return list(track(pool.map(function, items), description, total=len(items)))
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_all(
    table: pd.DataFrame,
    kind: str,
    folder: Path,
    frame: _Frame,
    on_bad_image: str,
    notes: list[str],
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, list[tuple[str, str]], float | None]:
    """Decode every image and write it to `folder/<row>.png`; deep ones in a second pass, with one white level.

    `kind` (real or rendered) holds for the images that say nothing of themselves; the PNG of a rendered image says it
    in turn. Returns the rows that could be read, with the column `row` and what `_Decoded` holds; the images'
    descriptions and small pictures; the files skipped with the reasons; and the white level, None where no image is deep.
    Raises InputError for an image that says synthetic.
    """
    paths, names = table["path"].tolist(), table["source_file"].tolist()
    files = [printable(name) for name in names]
    scale = table["um_per_pixel"].tolist() if "um_per_pixel" in table else [np.nan] * len(table)

    def read(row: int, white: float | None = None) -> _Decoded | float | InputError:
        stated = stated_source(paths[row])
        if stated == "synthetic":
            raise InputError(
                f"{files[row]} is a synthetic image, as the file itself says; leave it out: synthetic images stay in "
                "their synthetic set."
            )
        try:
            if files[row] != names[row]:
                raise InputError("The file's name is not UTF-8, as a table's must be; rename it.")
            pixels = decode(paths[row])
            flat = False
            if pixels.dtype != np.uint8:
                if white is None:
                    return white_level(pixels)
                pixels = to_8_bits(pixels, white)
                flat = bool(max((pixels <= 5).mean(), (pixels >= 250).mean()) > _NEARLY_ALL)
            square = frame.square(pixels, scale[row])
        except InputError as error:
            named = error if str(paths[row]) in str(error) else InputError(f"{files[row]}: {error}")
            if on_bad_image == "stop":
                raise named from None
            return named
        origin = "rendered" if stated == "rendered" else kind
        _save(folder / f"{row}.png", square, origin)
        height, width = pixels.shape[:2]
        return _Decoded(
            source_sha256=hashlib.sha256(paths[row].read_bytes()).hexdigest(),
            pixel_sha256=hashlib.sha256(b"%d %d " % (width, height) + pixels.tobytes()).hexdigest(),
            square_sha256=hashlib.sha256(square.tobytes()).hexdigest(),
            perceptual_hash=perceptual_hashes_of(pixels),
            source_width=width,
            source_height=height,
            source=origin,
            flat=flat,
            described=describe(square[None])[0],
            shown=pictures(square[None])[0],
        )

    results = _in_threads(read, range(len(paths)), "Reading images")
    levels = {row: result for row, result in enumerate(results) if isinstance(result, float)}
    white = None
    if levels:
        brightest = max(levels, key=lambda row: levels[row])
        white = levels[brightest]
        are = number(len(levels), "image is", "images are")
        notes.append(f"{are} deeper than 8 bits; all were scaled alike, {white:g} to white.")
        second = _in_threads(lambda row: read(row, white), list(levels), "Scaling deep images")
        for row, result in zip(levels, second, strict=True):
            results[row] = result
        flat = [files[row] for row in levels if isinstance(one := results[row], _Decoded) and one.flat]
        if flat:
            became = number(len(flat), "deep image became", "deep images became")
            notes.append(
                f"{became} nearly all black or all white by the common scaling, whose white is from "
                f"{files[brightest]}; leave out the images of another scale:{lines(flat)}"
            )
    decoded = {row: result for row, result in enumerate(results) if isinstance(result, _Decoded)}
    skipped = [
        (files[row], str(result).replace(str(paths[row]), files[row]))
        for row, result in enumerate(results)
        if isinstance(result, InputError)
    ]
    if skipped:
        notes.append(f"{_images(len(skipped))} skipped:{lines([reason for _, reason in skipped])}")
    table = table.iloc[list(decoded)].reset_index(drop=True).assign(row=list(decoded))
    hashes = ("source_sha256", "pixel_sha256", "square_sha256", PERCEPTUAL_HASH)
    for name in (*hashes, "source_width", "source_height", "source"):
        table[name] = [getattr(one, name) for one in decoded.values()]
    sides = table[["source_width", "source_height"]].min(axis=1)
    if frame.to_um_per_pixel is None:
        if small := int((sides < frame.resolution).sum()):
            notes.append(f"{_images(small)} smaller than {frame.resolution} px and enlarged.")
    else:
        factor = table["um_per_pixel"] / frame.to_um_per_pixel
        if coarse := int((factor > 1).sum()):
            notes.append(
                f"{_images(coarse)} coarser than {frame.to_um_per_pixel:g} µm per pixel and enlarged."
            )
        if small := int(((sides * factor).round() < frame.resolution).sum()):
            notes.append(f"{_images(small)} padded at that scale to {frame.resolution} px.")
    side = min(16, frame.resolution)
    described = np.array([one.described for one in decoded.values()], dtype=np.float32)
    shown = np.array([one.shown for one in decoded.values()], dtype=np.uint8)
    return table, described.reshape(-1, side, side), shown, skipped, white


def _save(file: Path, pixels: np.ndarray, source: str) -> None:
    """Write a PNG, which says so in its text chunk where it is of a rendered image."""
    text = PngInfo()
    if source == "rendered":
        text.add_text("source", source)
    Image.fromarray(pixels).save(file, pnginfo=text, compress_level=1)  # 7 % larger, twice as fast


def _normalise_stain(folder: Path, table: pd.DataFrame, stain: str, notes: list[str]) -> stains.Reference:
    """Normalise the PNGs in `folder` to the statistics of those of the train split, and return these.

    An image that cannot be normalised, being of one colour, stays as it is and is named.
    """

    def read(row: int) -> np.ndarray:
        return read_prepared_image(folder / f"{row}.png")

    train = table.loc[table["split"] == "train", "row"].tolist()
    reference = stains.reference_of(stain, map(read, track(train, "Measuring the stain")))

    def write(row: Any) -> str | None:
        try:
            _save(folder / f"{row.row}.png", stains.normalise(stain, read(row.row), reference), row.source)
        except InputError as error:
            return f"{row.source_file}: {error}."
        return None

    left = [reason for reason in _in_threads(write, list(table.itertuples()), "Normalising stain") if reason]
    if left:
        notes.append(f"{_images(len(left))} not normalised by {stain} and stayed as they were:{lines(left)}")
    return reference


def _images(n: int) -> str:
    return number(n, "image was", "images were")


def _kind(source: Path, table: pd.DataFrame) -> str:
    """Whether the images are real or rendered; InputError for a mixture."""
    kinds = sorted(set(table["source"]))
    if len(kinds) > 1:
        rendered = table.loc[table["source"] == "rendered", "source_file"].tolist()
        raise InputError(
            f"{source} mixes real and rendered images (rendered, as the files say: {some(rendered)}); prepare each in "
            "a dataset of its own."
        )
    return str(kinds[0])


def _check_classes(
    source: Path,
    classes: Sequence[str],
    table: pd.DataFrame,
    skipped: Sequence[tuple[str, str]],
    notes: list[str],
) -> None:
    left = set(table["label"])
    if len(left) < 2:
        which = f"only class {min(left)}" if left else "no class"
        first = f" First: {skipped[0][1]}" if skipped else ""
        raise InputError(f"{source} has readable images of {which}, where two or more are needed.{first}")
    for label in sorted(set(classes) - left):
        notes.append(f"No image of class {label} could be read; its folders are empty.")


def _exact_duplicates(table: pd.DataFrame, notes: list[str]) -> dict[int, int]:
    """Images of one label with equal pixels: {the one to remove: the one kept}, positions in `table`."""
    position = table.index.to_series().groupby([table["pixel_sha256"], table["label"]])
    first = position.transform("min").to_numpy()
    duplicates = {i: j for i, j in enumerate(first.tolist()) if i != j}
    if duplicates:
        files = table["source_file"]
        named = some([f"{files[i]} = {files[j]}" for i, j in duplicates.items()])
        as_what = "an exact duplicate" if len(duplicates) == 1 else "exact duplicates"
        notes.append(f"{_images(len(duplicates))} left out as {as_what}, one of each kept: {named}.")
    return duplicates


def _label_conflicts(
    table: pd.DataFrame, near: Sequence[tuple[int, int]], notes: list[str]
) -> list[tuple[int, int]]:
    """Pairs of images that are the same picture, exactly or nearly, under two labels."""
    labels, files = table["label"], table["source_file"]
    one_per_label = table.drop_duplicates(["pixel_sha256", "label"])
    equal = [
        pair
        for _, rows in one_per_label.groupby("pixel_sha256")
        if len(rows) > 1
        for pair in combinations(rows.index.tolist(), 2)
    ]
    conflicts = sorted({*equal, *((i, j) for i, j in near if labels[i] != labels[j])})
    if conflicts:
        named = some([f"{files[i]} = {files[j]}" for i, j in conflicts])
        notes.append(
            f"The same picture is under two labels in {len(conflicts)} pair{'s' * (len(conflicts) > 1)}, each kept in "
            f"one split: {named}."
        )
    return conflicts


def _split(
    table: pd.DataFrame,
    keep_splits: bool,
    ratios: Sequence[float],
    seed: int,
    notes: list[str],
) -> tuple[np.ndarray, bool]:
    """The split of each row, and whether the source's own were kept."""
    own = table["split"].map(lambda name: SPLIT_NAMES.get(str(name).lower(), name), na_action="ignore")
    labels, groups = table["label"].to_numpy(), table["group"].to_numpy()
    if not keep_splits:
        if own.notna().all():
            notes.append("The source has splits of its own, which were not kept; --keep-splits keeps them.")
        splits, found = assign_splits(labels, groups, ratios, seed)
        notes.extend(found)
        return splits, False
    if own.isna().any():
        raise InputError(
            f"--keep-splits: {number(int(own.isna().sum()), 'image names', 'images name')} no split; use folders train, validation and test, or a "
            "column split."
        )
    strange = sorted(set(own) - set(SPLITS))
    if strange:
        raise unknown_name("split", strange[0], SPLITS)
    splits = own.to_numpy(dtype=object)
    if "train" not in set(splits):
        raise InputError("--keep-splits: the source has no train split.")
    missing = [split for split in STUDY_SPLITS if split not in set(splits)]
    if missing:
        train = splits == "train"
        parts = [
            r if s == "train" or s in missing else 0.0 for s, r in zip(STUDY_SPLITS, ratios, strict=True)
        ]
        splits[train], found = assign_splits(labels[train], groups[train], parts, seed)
        notes.extend(
            [
                f"The source has no {' and no '.join(missing)} split; it was taken from its train split.",
                *found,
            ]
        )
    study = splits != "heldout"
    across = pd.Series(splits[study]).groupby(groups[study]).nunique()
    if (across > 1).any():
        notes.append(
            "The source's own splits separate "
            f"{number(int((across > 1).sum()), 'group or pair', 'groups or pairs')} of duplicates; "
            "`balancer inspect` lists them."
        )
    return splits, True


def _thin(
    table: pd.DataFrame,
    splits: np.ndarray,
    limits: Mapping[str, int],
    long_tail: float | None,
    seed: int,
    notes: list[str],
) -> np.ndarray:
    labels = table["label"].to_numpy()
    counts = {str(k): int(v) for k, v in pd.Series(labels[splits == "train"]).value_counts().items()}
    wanted = dict(long_tail_limits(counts, long_tail)) if long_tail is not None else {}
    for label, limit in limits.items():
        if limit >= counts.get(label, 0):
            notes.append(f"--limit {label}={limit} removes nothing: train has {counts.get(label, 0)}.")
        wanted[label] = min(limit, wanted.get(label, limit))
    thinned = thin(labels, splits, wanted, seed)
    moved = int((thinned != splits).sum())
    if moved:
        notes.append(f"{number(moved, 'image', 'images')} of thinned classes went to heldout.")
    return thinned


def _group_names(table: pd.DataFrame, groups: np.ndarray, group_by: Sequence[str]) -> list[str]:
    """A group is named after a value of the first group column that it has, else after its first image's file."""
    names = table["source_file"].to_numpy(dtype=object)
    for column in reversed(group_by):
        known = table[column].notna().to_numpy()
        names = np.where(known, column + "=" + table[column].fillna("").astype(str).to_numpy(), names)
    by_group: dict[int, str] = {}
    for group, name in zip(groups.tolist(), names, strict=True):
        by_group.setdefault(group, str(name))
    return [by_group[group] for group in groups.tolist()]


def _file_names(table: pd.DataFrame) -> list[str]:
    """<label>/<name>.png: the source's own name, with a number where two in one class agree."""
    taken: set[str] = set()
    names = []
    for label, file in zip(table["label"], table["source_file"], strict=True):
        stem = re.sub(r"[^\w.+ -]", "_", Path(file).stem).strip(". ")[:100] or "image"
        name, number = f"{label}/{stem}.png", 2
        while name.casefold() in taken:
            name, number = f"{label}/{stem}-{number}.png", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _write_images(
    aside: Path,
    table: pd.DataFrame,
    classes: Sequence[str],
    frame: _Frame,
    notes: list[str],
) -> int:
    """Move the PNGs into their splits, write masks beside them, and return the number of masks."""
    have_masks = table["mask"].notna().any()
    for split in SPLITS:
        for label in classes:
            (aside / split / label).mkdir(parents=True)
            if have_masks:
                (aside / MASKS / split / label).mkdir(parents=True)
    unsorted = aside / _UNSORTED
    for row, split, name in zip(table["row"], table["split"], table["file_name"], strict=True):
        (unsorted / f"{row}.png").rename(aside / split / name)
    shutil.rmtree(unsorted)

    def write_mask(row: Any) -> str | None:
        try:
            mask = decode(row.mask)
        except InputError as error:
            return str(error)
        if mask.shape[:2] != (row.source_height, row.source_width) or mask.dtype != np.uint8:
            return f"{row.mask} is {mask.shape[1]}×{mask.shape[0]}, not the size of its image."
        square = frame.square(mask[..., 0], getattr(row, "um_per_pixel", np.nan), nearest=True)
        Image.fromarray(square).save(aside / MASKS / row.split / row.file_name)
        return None

    rows = list(table[table["mask"].notna()].itertuples())
    bad = [reason for reason in _in_threads(write_mask, rows, "Writing masks") if reason]
    if bad:
        notes.append(f"{number(len(bad), 'mask was', 'masks were')} left out:{lines(bad)}")
    return len(rows) - len(bad)


def _write_tables(aside: Path, table: pd.DataFrame, source: pd.DataFrame) -> None:
    """metadata.csv of each split: the contract's columns, the source file and its size, then the source's columns.

    A column of the source whose name the contract uses gets the prefix source_. Readers infer a column's type from
    each split alone, so a column is made to look the same in all of them: numbers with gaps are floats, and the gaps
    of a text column that is empty in a whole split become "unknown". Columns without any value are dropped.
    """
    contract = (*COLUMNS, PERCEPTUAL_HASH, "source_file", "source_width", "source_height")
    own = source.loc[:, source.notna().any()].drop(
        columns=["path", "mask", "label", "source_file"], errors="ignore"
    )
    own = own.drop(columns="source_sha256", errors="ignore").loc[table["row"]].set_axis(table.index)
    if "um_per_pixel" in own:
        own["um_per_pixel"] = table["um_per_pixel"]
    own.columns = [
        # `datasets` would take a column of file names for images
        f"source_{name}" if name in {*contract, "split"} else re.sub("_file_names?$", "_file", str(name))
        for name in own.columns
    ]
    own = own.loc[:, own.notna().any()]
    for column in own:
        numbers = pd.to_numeric(own[column], errors="coerce")
        if numbers.isna().equals(own[column].isna()):
            own[column] = numbers
        elif own[column].isna().groupby(table["split"]).all().any():
            own[column] = own[column].fillna("unknown")
    full = pd.concat([table[[*contract]], own], axis=1)
    for split in SPLITS:
        write_csv(aside / split / "metadata.csv", full[table["split"] == split])
