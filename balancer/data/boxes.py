"""Boxes of cells in fields: COCO's JSON, YOLO's txt files, Pascal VOC's XML files.

Boxes come out in pixels of their field as `Box` has them, whatever the file counts in.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from balancer.data.decode import decode, image_size
from balancer.data.sources import IMAGE_SUFFIXES, MASKS
from balancer.data.wording import lines, number, some
from balancer.errors import InputError
from balancer.imaging.crop import Box

# What of a COCO image's own fields its crops inherit.
INHERITED = ("patient_id", "slide_id", "um_per_pixel")
_CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "data.yml")


@dataclass(frozen=True)
class BoxedField:
    """A field and the boxes that a file gives for it."""

    path: Path
    boxes: list[tuple[str, Box]]  # label, box
    stated_size: tuple[int, int] | None  # width and height by the file; None where it is silent
    inherited: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Boxes:
    """All boxes of a source."""

    format: str  # COCO | YOLO | VOC
    fields: list[BoxedField]
    notes: list[str]


def read_boxes(root: Path) -> Boxes | None:
    """Read the boxes that lie in a folder, in whichever of the three formats; None where there are none.

    COCO: a .json with images, annotations and categories, anywhere in the folder; crowds are left out. VOC: .xml files
    with an <annotation>; corners count from 1 and are included, as in the VOC devkit. YOLO: a .txt beside each image,
    or under labels/ where the image is under images/, with lines `class x y width height` in shares of the field, and
    classes.txt, obj.names or data.yaml with the names of the classes. Images are found by the path that the file
    names, from its own folder or from `root`, or by their name where only one has it. Raises InputError, with the
    file, for one that is malformed, names an unknown class or image, or where two formats lie side by side.
    """
    files = _Files(root)
    found = [
        boxes
        for boxes in (_read_coco(files), _read_voc(files), _read_yolo(files))
        if boxes is not None and boxes.fields
    ]
    if len(found) > 1:
        raise InputError(
            f"{root} holds boxes in the formats {' and '.join(boxes.format for boxes in found)}; keep one of them."
        )
    known: set[Path] = set()
    for boxes in found:
        for one in boxes.fields:
            if one.path in known:
                raise InputError(f"{one.path} is given boxes twice, in one file or in two; keep one of them.")
            known.add(one.path)
    return found[0] if found else None


class _Files:
    """The files under a folder, and its images by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.all: list[Path] = []
        for at, folders, names in os.walk(root):
            folders[:] = sorted(d for d in folders if not d.startswith((".", "__MACOSX")) and d != MASKS)
            self.all += [Path(at) / name for name in sorted(names) if not name.startswith(".")]
        self.by_name: dict[str, list[Path]] = {}
        self.by_stem: dict[Path, Path] = {}
        for path in self.images:
            self.by_name.setdefault(path.name, []).append(path)
            self.by_stem.setdefault(path.with_suffix(""), path)

    @property
    def images(self) -> list[Path]:
        return [path for path in self.all if path.suffix.lower() in IMAGE_SUFFIXES]

    def ending(self, suffix: str) -> Iterator[Path]:
        return (path for path in self.all if path.suffix.lower() == suffix)

    def image(self, named: str, by: Path) -> Path | None:
        """The image that a file names, None where there is none; InputError where the name fits several."""
        relative = Path(named.replace("\\", "/"))
        for folder in (by.parent, self.root):
            if not relative.is_absolute() and (folder / relative).is_file():
                return folder / relative
        fitting = self.by_name.get(relative.name, [])
        if len(fitting) > 1:
            raise InputError(
                f"{by} names the image {named}, which fits {number(len(fitting), 'file', 'files')} "
                f"({some([str(path.relative_to(self.root)) for path in fitting])}); name it by its path."
            )
        return fitting[0] if fitting else None


def _missing(notes: list[str], missing: Sequence[str]) -> None:
    if missing:
        are = number(len(missing), "image is", "images are")
        notes.append(f"{are} named by the box files and missing; left out: {some(missing)}.")


def _numbers(values: Any) -> list[float] | None:
    """Four numbers as floats, None for anything else."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == 4 else None


# ---------------------------------------------------------------------------------------------------------- COCO


def _read_coco(files: _Files) -> Boxes | None:
    fields: list[BoxedField] = []
    notes: list[str] = []
    missing: list[str] = []
    crowds = 0
    for path in files.ending(".json"):
        try:
            document = json.loads(path.read_text("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON ({error}); repair it or take it away.") from None
        if not isinstance(document, dict) or not {"images", "annotations"} & set(document):
            continue  # a JSON of something else
        images, annotations, categories = (
            _records(path, document, name) for name in ("images", "annotations", "categories")
        )
        labels = {one.get("id"): str(one.get("name", "")).strip() for one in categories}
        boxes: dict[Any, list[tuple[str, Box]]] = {one.get("id"): [] for one in images}
        if len(boxes) < len(images):
            raise InputError(f"{path} is no COCO file: two of its images have the same id.")
        for position, one in enumerate(annotations):
            name = f"{path}: annotation {one.get('id', position)}"
            if one.get("image_id") not in boxes:
                raise InputError(
                    f"{name} is of the image {one.get('image_id')}, which the file does not know."
                )
            if one.get("category_id") not in labels:
                raise InputError(
                    f"{name} has the class id {one.get('category_id')}, which is not among the categories "
                    f"({some([f'{key} {label}' for key, label in labels.items()], 20) or 'none'})."
                )
            box = _numbers(one.get("bbox"))
            if box is None:
                raise InputError(f"{name} has no bbox of four numbers (x, y, width, height).")
            if one.get("iscrowd"):
                crowds += 1
                continue
            boxes[one["image_id"]].append((labels[one["category_id"]], Box(*box)))
        for one in images:
            if not isinstance(one.get("file_name"), str):
                raise InputError(f"{path}: the image {one.get('id')} has no file_name.")
            image = files.image(one["file_name"], path)
            if image is None:
                missing.append(one["file_name"])
                continue
            inherited = {key: str(one[key]) for key in INHERITED if one.get(key) is not None}
            size = _size(one.get("width"), one.get("height"))
            fields.append(BoxedField(image, boxes[one.get("id")], size, inherited))
    if crowds:
        notes.append(f"{number(crowds, 'crowd box was', 'crowd boxes were')} left out.")
    _missing(notes, missing)
    return _of_known("COCO", fields, notes, missing)


def _of_known(
    format: str, fields: list[BoxedField], notes: list[str], missing: Sequence[str]
) -> Boxes | None:
    """InputError where files give boxes of no image that is there."""
    if missing and not fields:
        none = number(len(missing), "image is", "images are")
        raise InputError(
            f"The box files name no image that exists ({none} missing: {some(missing)}); put the images beside them."
        )
    return Boxes(format, fields, notes)


def _records(path: Path, document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    records = document.get(name)
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise InputError(f"{path} is no COCO file: it has no list of {name}.")
    if any(
        isinstance(value, dict | list) for one in records for value in (one.get("id"), one.get("image_id"))
    ):
        raise InputError(f"{path} is no COCO file: an id in its {name} is no number or text.")
    return records


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height, None where a file gives none or 0, as some writers do."""
    try:
        size = int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


# ----------------------------------------------------------------------------------------------------------- VOC


def _read_voc(files: _Files) -> Boxes | None:
    fields: list[BoxedField] = []
    notes: list[str] = []
    missing: list[str] = []
    for path in files.ending(".xml"):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise InputError(f"{path} is not valid XML ({error}); repair it or take it away.") from None
        if root.tag != "annotation":
            continue  # an XML of something else
        boxes = []
        for position, thing in enumerate(root.iter("object"), start=1):
            label = (thing.findtext("name") or "").strip()
            corners = _numbers(
                [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            )
            if not label or corners is None:
                raise InputError(
                    f"{path}: object {position} lacks {'a bndbox of four numbers' if label else 'a name'}."
                )
            # Corners are pixels, counted from 1, the last one included; some writers count from 0.
            left, top = (max(corner - 1, min(corner, 0.0)) for corner in corners[:2])
            boxes.append((label, Box(left, top, corners[2] - left, corners[3] - top)))
        named = (root.findtext("filename") or "").strip()
        image = (files.image(named, path) if named else None) or _beside(files, path)
        if image is None:
            missing.append(named or path.name)
            continue
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
        fields.append(BoxedField(image, boxes, size))
    _missing(notes, missing)
    return _of_known("VOC", fields, notes, missing)


def _beside(files: _Files, path: Path) -> Path | None:
    """The image with the name of an annotation, some of which name a file that was renamed since."""
    fitting = [image for image in files.images if image.stem == path.stem]
    return fitting[0] if len(fitting) == 1 else None


# ---------------------------------------------------------------------------------------------------------- YOLO


def _read_yolo(files: _Files) -> Boxes | None:
    pairs: list[tuple[Path, Path]] = []
    missing: list[str] = []
    for path in files.ending(".txt"):
        if path.name in _CLASS_FILES:
            continue
        parts = path.relative_to(files.root).with_suffix("").parts
        # labels/ stands for images/ at any depth, the last one counting (as train/labels, labels/train)
        under = [i for i, part in enumerate(parts[:-1]) if part == "labels"]
        mirrored = parts
        if under:
            mirrored = (*parts[: under[-1]], "images", *parts[under[-1] + 1 :])
        image = files.by_stem.get(path.with_suffix("")) or files.by_stem.get(files.root.joinpath(*mirrored))
        if image is not None:
            pairs.append((path, image))
        elif under:
            missing.append(path.relative_to(files.root).as_posix())
    if not pairs and not missing:
        return None
    notes: list[str] = []
    _missing(notes, missing)
    if not pairs:
        return _of_known("YOLO", [], notes, missing)
    names = _class_names(files)
    fields, unreadable = [], []
    for path, image in pairs:
        try:
            size = image_size(image) or decode(image).shape[1::-1]
        except InputError as error:
            unreadable.append(str(error))
            continue
        fields.append(BoxedField(image, _yolo_boxes(path, size, names), None))
    if unreadable:
        are = number(len(unreadable), "field is", "fields are")
        notes.append(f"{are} left out, being unreadable:{lines(unreadable)}")
    return Boxes("YOLO", fields, notes)


def _class_names(files: _Files) -> dict[int, str]:
    """Names by class id, of the class file that lies nearest to the root."""
    known = [path for path in files.all if path.name in _CLASS_FILES]
    if not known:
        raise InputError(
            f"{files.root} has YOLO's txt files but no names of the classes; add a classes.txt, a name a line."
        )
    path = min(known, key=lambda one: (len(one.parts), _CLASS_FILES.index(one.name)))
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix in {".yaml", ".yml"}:
            document = yaml.safe_load(text)
            names = document["names"]
            items = names.items() if isinstance(names, dict) else enumerate(names)
            return {int(key): str(name).strip() for key, name in items}
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as names of classes ({error}).") from None
    return {key: name.strip() for key, name in enumerate(text.splitlines()) if name.strip()}


def _yolo_boxes(path: Path, size: tuple[int, ...], names: dict[int, str]) -> list[tuple[str, Box]]:
    """The boxes of a field of this width and height."""
    boxes = []
    try:
        rows = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}).") from None
    for position, line in enumerate(rows, start=1):
        words = line.split()
        if not words:
            continue
        numbers = _numbers(words[1:])
        if numbers is None or not words[0].isdigit():
            raise InputError(
                f"{path}, line {position}: '{line.strip()[:60]}' is no box; five numbers were expected: class, x, y, "
                "width and height, in shares of the field."
            )
        if int(words[0]) not in names:
            raise InputError(
                f"{path}, line {position}: there is no class {words[0]}; known: "
                f"{some([f'{key} {name}' for key, name in names.items()], 20)}."
            )
        # a share far above 1 is a box in pixels; one slightly above sticks out, and is clipped
        if any(math.isfinite(value) and abs(value) > 2 for value in numbers):
            raise InputError(
                f"{path}, line {position}: {max(numbers):g} is no share of the field; YOLO's boxes are in shares from 0 to 1."
            )
        x, y, width, height = (value * side for value, side in zip(numbers, (*size, *size), strict=True))
        boxes.append((names[int(words[0])], Box(x - width / 2, y - height / 2, width, height)))
    return boxes
