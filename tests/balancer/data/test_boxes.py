from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from balancer.data.boxes import Boxes, read_boxes
from balancer.errors import InputError
from balancer.imaging.crop import Box


def field(path: Path, width: int = 100, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
    return path


def coco(**changes: Any) -> dict[str, Any]:
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80, "patient_id": "P1"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40]}],
        "categories": [{"id": 3, "name": "blast"}],
    }
    return document | changes


VOC = """<annotation><filename>a.png</filename><size><width>100</width><height>80</height></size>
<object><name>blast</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>
</annotation>"""


def write(root: Path, format: str) -> None:
    """The same box of the same field in each format."""
    if format == "COCO":
        (root / "boxes.json").write_text(json.dumps(coco()))
    elif format == "VOC":
        (root / "a.xml").write_text(VOC)
    else:
        (root / "a.txt").write_text("0 0.25 0.5 0.3 0.5\n")
        (root / "classes.txt").write_text("blast\n")


def read(root: Path) -> Boxes:
    boxes = read_boxes(root)
    assert boxes is not None
    return boxes


@pytest.mark.parametrize("format", ["COCO", "VOC", "YOLO"])
def test_the_three_formats_mean_the_same_box(tmp_path: Path, format: str) -> None:
    path = field(tmp_path / "a.png")
    write(tmp_path, format)
    boxes = read(tmp_path)
    assert boxes.format == format and boxes.notes == []
    assert [one.path for one in boxes.fields] == [path]
    ((label, box),) = boxes.fields[0].boxes
    assert label == "blast"
    assert (box.left, box.top, box.width, box.height) == pytest.approx((10, 20, 30, 40))
    assert boxes.fields[0].stated_size == (None if format == "YOLO" else (100, 80))
    assert boxes.fields[0].inherited == ({"patient_id": "P1"} if format == "COCO" else {})


def test_a_folder_without_boxes(tmp_path: Path) -> None:
    field(tmp_path / "blast/a.png")
    (tmp_path / "readme.txt").write_text("not a box file")
    (tmp_path / "settings.json").write_text("[1]")
    (tmp_path / "other.xml").write_text("<html/>")
    assert read_boxes(tmp_path) is None


@pytest.mark.parametrize(
    ("images", "labels", "classes", "text"),
    [
        ("images/train", "labels/train", "data.yaml", "names: [wbc, blast]"),
        ("train/images", "train/labels", "data.yaml", "names:\n  0: wbc\n  1: blast\n"),
        ("obj_data", "obj_data", "obj.names", "wbc\nblast\n"),
        (".", ".", "classes.txt", "wbc\n\nunused\n"),
    ],
)
def test_layouts_of_yolo(tmp_path: Path, images: str, labels: str, classes: str, text: str) -> None:
    path = field(tmp_path / images / "f1.jpg")
    (tmp_path / labels).mkdir(parents=True, exist_ok=True)
    (tmp_path / labels / "f1.txt").write_text("0 0.5 0.5 0.2 0.2\n\n")
    (tmp_path / classes).write_text(text)
    (one,) = read(tmp_path).fields
    assert one.path.samefile(path) and one.boxes[0][0] == "wbc"


def test_voc_and_coco_find_images_elsewhere(tmp_path: Path) -> None:
    field(tmp_path / "JPEGImages/a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(VOC)
    assert read(tmp_path).fields[0].path == tmp_path / "JPEGImages/a.png"
    (tmp_path / "Annotations/a.xml").write_text(VOC.replace("a.png", "renamed since.tif"))
    assert read(tmp_path).fields[0].path == tmp_path / "JPEGImages/a.png"
    (tmp_path / "Annotations/a.xml").unlink()
    (tmp_path / "Annotations/instances.json").write_text(json.dumps(coco()))
    assert read(tmp_path).fields[0].path == tmp_path / "JPEGImages/a.png"
    field(tmp_path / "second/a.png")
    with pytest.raises(InputError, match="fits 2 files"):
        read_boxes(tmp_path)


def test_voc_corners_count_from_one_and_are_included(tmp_path: Path) -> None:
    field(tmp_path / "a.png")
    whole = VOC.replace(">11<", ">1<").replace(">21<", ">1<").replace(">40<", ">100<").replace(">60<", ">80<")
    (tmp_path / "a.xml").write_text(whole)
    assert read(tmp_path).fields[0].boxes[0][1] == Box(0, 0, 100, 80)
    (tmp_path / "a.xml").write_text(whole.replace("<xmin>1<", "<xmin>0<"))
    assert read(tmp_path).fields[0].boxes[0][1] == Box(0, 0, 100, 80)


def test_crowds_and_missing_images_are_named(tmp_path: Path) -> None:
    field(tmp_path / "a.png")
    document = coco()
    document["images"].append({"id": 8, "file_name": "gone.png"})
    document["annotations"].append(
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    )
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    boxes = read(tmp_path)
    assert len(boxes.fields) == 1 and len(boxes.fields[0].boxes) == 1
    assert "1 crowd box was left out" in boxes.notes[0] and "gone.png" in boxes.notes[1]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("boxes.json", '{"images": [', "not valid JSON"),
        ("boxes.json", json.dumps(coco(categories=[])), "class id 3, which is not among the categories"),
        ("boxes.json", json.dumps(coco(images=[])), "image 7, which the file does not know"),
        ("boxes.json", json.dumps({"images": []}), "no list of annotations"),
        ("boxes.json", json.dumps(coco(images=[{"id": 7}])), "has no file_name"),
        ("boxes.json", json.dumps(coco(images=[{"id": [7]}])), "is no number or text"),
        ("boxes.json", json.dumps(coco(images=[{"id": 7, "file_name": "no.png"}])), "put the images beside"),
        ("boxes.json", json.dumps(coco(annotations=[{"image_id": 7, "category_id": 3, "bbox": [1, 2]}])), "four numbers"),
        ("boxes.json", json.dumps(coco(annotations=[{"image_id": 7, "category_id": 3}])), "four numbers"),
        ("a.xml", "<annotation><object>", "not valid XML"),
        ("a.xml", "<annotation><object><name>b</name></object></annotation>", "lacks a bndbox"),
        ("a.xml", VOC.replace("<name>blast</name>", ""), "lacks a name"),
        ("a.xml", VOC.replace(">11<", ">eleven<"), "lacks a bndbox"),
        ("a.txt", "0 0.5 0.5 0.2\n", "line 1: '0 0.5 0.5 0.2' is no box"),
        ("a.txt", "0 0.5 0.5 0.2 0.2\n5 0.5 0.5 0.2 0.2\n", "line 2: there is no class 5; known: 0 blast"),
        ("a.txt", "0 50 40 20 20\n", "no share of the field"),
        ("a.txt", "blast 0.5 0.5 0.2 0.2\n", "is no box"),
        ("a.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2\n", "is no box"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_with_its_file(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    field(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("blast\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence) as error:
        read_boxes(tmp_path)
    if "beside" not in sentence:
        assert name in str(error.value)


def test_yolo_without_names_or_with_broken_names(tmp_path: Path) -> None:
    field(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match="no names of the classes"):
        read_boxes(tmp_path)
    for text in ("names: [", "nc: 3", "names: 3"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(InputError, match="cannot be read as names"):
            read_boxes(tmp_path)


def test_two_formats_or_two_files_for_one_field_are_refused(tmp_path: Path) -> None:
    field(tmp_path / "a.png")
    (tmp_path / "one.json").write_text(json.dumps(coco()))
    (tmp_path / "two.json").write_text(json.dumps(coco()))
    with pytest.raises(InputError, match="given boxes twice"):
        read_boxes(tmp_path)
    (tmp_path / "two.json").unlink()
    image = coco()["images"][0]
    for images, sentence in (
        ([image, image], "two of its images have the same id"),
        ([image, image | {"id": 8}], "given boxes twice"),
    ):
        (tmp_path / "one.json").write_text(json.dumps(coco(images=images)))
        with pytest.raises(InputError, match=sentence):
            read_boxes(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps(coco()))
    (tmp_path / "a.xml").write_text(VOC)
    with pytest.raises(InputError, match="formats COCO and VOC"):
        read_boxes(tmp_path)
