"""From fields with many cells to crops with one: a source of single cells that `prepare` reads."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data.boxes import BoxedField, read_boxes
from balancer.data.decode import decode, stated_source, to_8_bits, white_level
from balancer.data.sources import IMAGE_SUFFIXES, TABLES, check_label, read_folder, read_listing
from balancer.data.wording import lines, number, some
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_csv, write_mark
from balancer.imaging.cells import find_cells
from balancer.imaging.crop import Box, crop
from balancer.progress import note, stage, track

UNLABELLED = "unlabelled"  # cells of fields that nothing gives a label to
_TOLERANCE = 0.5  # pixels by which a box may leave its field without a word: rounding


@dataclass(frozen=True)
class Crops:
    """What `crop_fields` made and what it noticed on the way."""

    root: Path
    found_by: str  # COCO | YOLO | VOC | segmentation
    fields: int  # that gave crops
    counts: dict[str, int]  # label → crops
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {**asdict(self), "root": str(self.root)}


def crop_fields(source: Path, out: Path, overwrite: bool = False) -> Crops:
    """Cut the cells out of the fields in the folder `source`, and write them to `out` as class folders.

    The cells are those of the boxes that lie in `source` (`read_boxes`); without any, those that segmentation finds, with
    the label of their field's class folder or metadata. A crop is the square around its box (`square_around`), at the
    field's own scale, as `out/<label>/<field>-<n>.png`. `metadata.csv` gives each crop what `source/metadata.csv` says of its
    field (patient_id, slide_id, um_per_pixel …), `field` (the field's path in `source`), `field_id` (the same, where the
    metadata give no other), by which `prepare` keeps the crops of a field together, and its box in pixels of the
    field. Boxes are clipped to the field; those that lie outside of it or have no area are left out, and so are fields
    that are missing, unreadable, or of another size than the box file says: all are named in the notes. Deep fields
    (16 bits) share one scaling. Raises InputError as `read_boxes` does, for a synthetic image, and when no cell is left;
    then nothing is written.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise InputError(
            f"{source} is no folder; give a folder with fields, and their boxes if there are any."
        )
    if out.absolute().resolve().is_relative_to(source.absolute().resolve()):
        raise InputError(f"{out} lies inside the source {source}; choose an output outside of it.")
    refuse_existing(out, overwrite, [source])
    stage("Reading the fields")
    boxed = read_boxes(source)
    fields, rows, notes = _fields(source, boxed.fields if boxed else None)
    notes = (boxed.notes if boxed else []) + notes
    found_by = boxed.format if boxed else "segmentation"
    cutter = _Cutter(source, boxed is None)
    with new_directory(out, overwrite) as aside:
        deep: dict[int, float] = {}
        crops: list[dict[str, Any]] = []
        for position, one in enumerate(track(fields, "Cutting out cells")):
            if boxed is None or one.boxes:
                result = cutter.cut(aside, one, rows[position])
                if isinstance(result, float):
                    deep[position] = result
                else:
                    crops += result
        for position in deep:
            result = cutter.cut(aside, fields[position], rows[position], max(deep.values()))
            assert not isinstance(result, float)
            crops += result
        if deep:
            are = number(len(deep), "field is", "fields are")
            notes.append(f"{are} deeper than 8 bits; all were scaled alike, {max(deep.values()):g} to white.")
        notes += cutter.notes()
        if not crops:
            why = lines(notes) if notes else " The box files hold no boxes."
            raise InputError(f"{source}: no cell is left to crop.{why}")
        table = pd.DataFrame(crops)
        write_csv(aside / "metadata.csv", table.loc[:, table.notna().any()])
        write_mark(aside, "crops")
    for sentence in notes:
        note(sentence)
    counts = {str(label): int(n) for label, n in sorted(Counter(table["label"]).items())}
    return Crops(out, found_by, int(table["field"].nunique()), counts, notes)


def _fields(
    source: Path, boxed: list[BoxedField] | None
) -> tuple[list[BoxedField], list[dict[str, Any]], list[str]]:
    """The fields, for each what its crops inherit, and notes; fields without boxes have one, of their label, to come."""
    table = next((source / name for name in TABLES if (source / name).is_file()), None)
    if boxed is not None:
        listed, notes = read_listing(table, "") if table else (pd.DataFrame({"path": []}), [])
        known = {
            path.resolve(): row for path, row in zip(listed["path"], listed.to_dict("records"), strict=True)
        }
        return boxed, [{**known.get(one.path.resolve(), {}), **one.inherited} for one in boxed], notes
    listed, notes = read_folder(source)
    if listed.empty:
        loose = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        listed = pd.DataFrame({"path": loose, "label": UNLABELLED})
        notes = []
    if listed.empty:
        raise InputError(f"{source} holds no images.")
    listed["label"] = listed["label"].fillna(UNLABELLED)
    fields = [BoxedField(path, [], None) for path in listed["path"]]
    return fields, [{str(k): v for k, v in row.items()} for row in listed.to_dict("records")], notes


class _Cutter:
    """Cuts the cells out of one field after another, and keeps count of what was left out."""

    def __init__(self, source: Path, segment: bool) -> None:
        self.source = source
        self.segment = segment
        self.taken: set[str] = set()
        self.unreadable: list[str] = []
        self.resized: list[str] = []
        self.empty: list[str] = []
        self.outside: list[str] = []
        self.impossible: list[str] = []
        self.clipped: list[str] = []

    def cut(
        self, folder: Path, one: BoxedField, row: dict[str, Any], white: float | None = None
    ) -> list[dict[str, Any]] | float:
        """Write the crops of a field and return their rows; of a deep one its white level, where `white` is not given."""
        file = self._name(one.path)
        stated = stated_source(one.path)
        if stated == "synthetic" or row.get("source") == "synthetic":
            raise InputError(f"{one.path} is a synthetic image, as it says itself; leave it out.")
        try:
            pixels = decode(one.path)
        except InputError as error:
            self.unreadable.append(str(error))
            return []
        height, width = pixels.shape[:2]
        if one.stated_size is not None and one.stated_size != (width, height):
            stated_width, stated_height = one.stated_size
            self.resized.append(
                f"{file} is {width}×{height}, its boxes are of {stated_width}×{stated_height} pixels"
            )
            return []
        if pixels.dtype != np.uint8:
            if white is None:
                return white_level(pixels)
            pixels = to_8_bits(pixels, white)
        boxes = [(row["label"], box) for box in find_cells(pixels)] if self.segment else one.boxes
        if not boxes:
            self.empty.append(file)
        text = PngInfo()
        if stated == "rendered" or row.get("source") == "rendered":
            text.add_text("source", "rendered")
        inherited = {k: v for k, v in row.items() if k not in {"path", "mask", "label", "source_file"}}
        stem = re.sub(r"[^\w.+ -]", "_", Path(file).with_suffix("").as_posix())[-90:].strip(". ")
        crops = []
        for position, (label, box) in enumerate(boxes, start=1):
            inside = self._within(box, width, height, f"{file}: box {position} ({label})")
            if inside is None:
                continue
            check_label(label)
            name = self._free(f"{label}/{stem}-{position}")
            (folder / label).mkdir(exist_ok=True)
            Image.fromarray(crop(pixels, inside)).save(folder / name, pnginfo=text)
            field_id = inherited.get("field_id")
            given = field_id is not None and not (isinstance(field_id, float) and math.isnan(field_id))
            crops.append(
                {"file_name": name, "label": label}
                | inherited
                | {"field": file, "field_id": field_id if given else file}
                | {side: round(value, 2) for side, value in asdict(inside).items()}
            )
        return crops

    def _name(self, path: Path) -> str:
        """A field's path in the source; COCO may name images outside of it."""
        inside = path.is_relative_to(self.source)
        return (path.relative_to(self.source) if inside else path).as_posix()

    def _within(self, box: Box, width: int, height: int, name: str) -> Box | None:
        if not box.possible:
            self.impossible.append(f"{name} is {box.width:g}×{box.height:g} at {box.left:g}, {box.top:g}")
            return None
        inside = box.clipped(width, height)
        size = f"{box.left:g}, {box.top:g}, {box.width:g}×{box.height:g} in a field of {width}×{height}"
        if inside is None:
            self.outside.append(f"{name} lies at {size}")
        elif max(box.width - inside.width, box.height - inside.height) > _TOLERANCE:
            self.clipped.append(f"{name} lies at {size}")
        return inside

    def _free(self, stem: str) -> str:
        name, again = f"{stem}.png", 2
        while name.casefold() in self.taken:
            name, again = f"{stem}-{again}.png", again + 1
        self.taken.add(name.casefold())
        return name

    def notes(self) -> list[str]:
        """A sentence for each kind of thing that was left out or changed, with the first names."""
        kinds = (
            (self.unreadable, "field was left out, being unreadable", "fields were left out, being unreadable"),
            (self.resized, "field was left out, being of another size than its box file says", "fields were left out, being of another size than their box file says"),
            (self.impossible, "box was left out, having no area or no place", "boxes were left out, having no area or no place"),
            (self.outside, "box was left out, lying outside its field", "boxes were left out, lying outside their field"),
            (self.clipped, "box sticks out of its field and was clipped", "boxes stick out of their field and were clipped"),
        )  # fmt: skip
        notes = [f"{number(len(named), one, many)}:{lines(named)}" for named, one, many in kinds if named]
        if self.empty:
            notes.append(
                f"In {number(len(self.empty), 'field', 'fields')} no cell was found: {some(self.empty)}."
            )
        return notes
