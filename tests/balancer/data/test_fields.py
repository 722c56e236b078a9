from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data.dataset import SPLITS, PreparedDataset
from balancer.data.fields import crop_fields
from balancer.data.prepare import prepare
from balancer.errors import InputError
from cli import balancer


def scene(seed: int, width: int = 90, height: int = 70) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (14, 18, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def source(root: Path, boxes: dict[str, list[tuple[str, list[float]]]]) -> Path:
    """Fields with COCO boxes: {file: [(label, x, y, width, height)]}."""
    root.mkdir(parents=True, exist_ok=True)
    labels = sorted({label for of_field in boxes.values() for label, _ in of_field})
    annotations = []
    for i, (name, of_field) in enumerate(boxes.items()):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(scene(i)).save(root / name)
        annotations += [
            {"image_id": i, "category_id": labels.index(label), "bbox": box} for label, box in of_field
        ]
    document = {
        "images": [{"id": i, "file_name": name, "width": 90, "height": 70} for i, name in enumerate(boxes)],
        "annotations": annotations,
        "categories": [{"id": i, "name": label} for i, label in enumerate(labels)],
    }
    (root / "boxes.json").write_text(json.dumps(document))
    return root


def test_crops_are_the_pixels_of_their_boxes_and_inherit_from_their_field(tmp_path: Path) -> None:
    root = source(
        tmp_path / "in",
        {"s1/f1.png": [("blast", [10, 20, 16, 16]), ("lymphocyte", [40, 20, 12, 20])], "s1/f2.png": []},
    )
    (root / "metadata.csv").write_text(
        "file_name,patient_id,slide_id,um_per_pixel,centre\ns1/f1.png,P1,S9,0.12,Ghent\ns1/f2.png,P1,S9,0.12,\n"
    )
    crops = crop_fields(root, tmp_path / "out")
    assert crops.counts == {"blast": 1, "lymphocyte": 1} and crops.found_by == "COCO" and crops.fields == 1
    table = pd.read_csv(tmp_path / "out/metadata.csv").set_index("label")
    assert (table["patient_id"] == "P1").all() and (table["slide_id"] == "S9").all()
    assert (table["um_per_pixel"] == 0.12).all() and (table["centre"] == "Ghent").all()
    assert (table["field"] == "s1/f1.png").all() and (table["field_id"] == "s1/f1.png").all()
    assert table.loc["blast", ["left", "top", "width", "height"]].tolist() == [10, 20, 16, 16]
    written = np.asarray(Image.open(tmp_path / "out" / table.loc["blast", "file_name"]))
    np.testing.assert_array_equal(written, scene(0)[20:36, 10:26])
    assert Image.open(tmp_path / "out" / table.loc["lymphocyte", "file_name"]).size == (20, 20)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        ".hemabalance.json",
        "blast",
        "lymphocyte",
        "metadata.csv",
    }


def test_prepare_keeps_the_crops_of_a_field_and_of_a_patient_together(tmp_path: Path) -> None:
    fields = {
        f"f{i}.png": [(label, [10.0 + 20 * k, 20.0, 16.0, 16.0]) for k, label in enumerate(("a", "b", "a"))]
        for i in range(24)
    }
    root = source(tmp_path / "in", fields)
    rows = [f"f{i}.png,{'' if i % 2 else f'P{i // 4}'}" for i in range(24)]
    (root / "metadata.csv").write_text("file_name,patient_id\n" + "\n".join(rows) + "\n")
    crop_fields(root, tmp_path / "crops")
    summary = prepare(tmp_path / "crops", tmp_path / "data", resolution=16)
    assert any("patient_id or field_id form a group" in sentence for sentence in summary.notes)
    data = PreparedDataset.load(tmp_path / "data")
    table = pd.concat([data.tables[s].assign(split=s) for s in SPLITS])
    assert len(table) == 72
    assert (table.groupby("field_id")["split"].nunique() == 1).all()
    known = table[table["patient_id"] != "unknown"].dropna(subset="patient_id")
    assert (known.groupby("patient_id")["split"].nunique() == 1).all()


def test_boxes_that_stick_out_are_clipped_and_others_left_out_with_a_sentence(tmp_path: Path) -> None:
    boxes: list[tuple[str, list[float]]] = [
        ("a", [-8, 10, 20, 20]),
        ("b", [200, 10, 20, 20]),
        ("c", [10, 10, 0, 20]),
        ("d", [10, 10, float("nan"), 20]),
        ("e", [80.2, 60.2, 10, 10]),  # sticks out by rounding alone
    ]
    crops = crop_fields(source(tmp_path / "in", {"f.png": boxes}), tmp_path / "out")
    assert crops.counts == {"a": 1, "e": 1}
    table = pd.read_csv(tmp_path / "out/metadata.csv").set_index("label")
    assert table.loc["a", ["left", "width"]].tolist() == [0, 12]
    notes = "\n".join(crops.notes)
    assert "1 box was left out, lying outside its field:\n  f.png: box 2 (b) lies at 200, 10, 20×20" in notes
    assert "2 boxes were left out, having no area or no place:\n  f.png: box 3 (c) is 0×20 at 10, 10" in notes
    assert "1 box sticks out of its field and was clipped:\n  f.png: box 1 (a)" in notes


def test_fields_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    box: list[tuple[str, list[float]]] = [("a", [10, 10, 20, 20])]
    root = source(tmp_path / "in", {"good.png": box, "resized.png": box, "broken.png": box, "gone.png": box})
    Image.fromarray(scene(0, 45, 35)).save(root / "resized.png")
    (root / "broken.png").write_bytes((root / "broken.png").read_bytes()[:200])
    (root / "gone.png").unlink()
    crops = crop_fields(root, tmp_path / "out")
    assert crops.counts == {"a": 1}
    notes = "\n".join(crops.notes)
    assert "gone.png" in notes and "broken.png" in notes
    assert "resized.png is 45×35, its boxes are of 90×70 pixels" in notes
    for name in ("good.png", "resized.png", "broken.png"):
        (root / name).unlink()
    with pytest.raises(InputError, match="put the images beside them"):
        crop_fields(root, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_deep_fields_share_one_scaling(tmp_path: Path) -> None:
    box: list[tuple[str, list[float]]] = [("a", [10, 10, 20, 20])]
    root = source(tmp_path / "in", {"f0.png": box, "f1.png": box})
    for name, value in (("f0.png", 40000), ("f1.png", 20000)):
        Image.fromarray(np.full((70, 90), value, dtype=np.uint16)).save(root / name)
    crops = crop_fields(root, tmp_path / "out")
    assert any("2 fields are deeper than 8 bits" in sentence for sentence in crops.notes)
    values = {p.stem: int(np.asarray(Image.open(p))[0, 0, 0]) for p in (tmp_path / "out/a").iterdir()}
    assert values == {"f0-1": 255, "f1-1": 128}


def test_names_do_not_collide_and_cannot_leave_the_folder(tmp_path: Path) -> None:
    box: list[tuple[str, list[float]]] = [("a", [10, 10, 20, 20])]
    root = source(tmp_path / "in", {"x/f.png": box, "x_f.png": box})
    assert crop_fields(root, tmp_path / "out").counts == {"a": 2}
    assert len(list((tmp_path / "out/a").iterdir())) == 2
    with pytest.raises(InputError, match="cannot be a folder's name"):
        crop_fields(source(tmp_path / "bad", {"f.png": [("../../evil", [10, 10, 20, 20])]}), tmp_path / "o2")
    assert not (tmp_path / "o2").exists()


def test_synthetic_fields_are_refused_and_rendered_ones_stay_marked(tmp_path: Path) -> None:
    root = source(tmp_path / "in", {"f.png": [("a", [10, 10, 20, 20])]})
    for kind in ("rendered", "synthetic"):
        text = PngInfo()
        text.add_text("source", kind)
        Image.fromarray(scene(0)).save(root / "f.png", pnginfo=text)
        if kind == "synthetic":
            with pytest.raises(InputError, match="synthetic image"):
                crop_fields(root, tmp_path / kind)
        else:
            crop_fields(root, tmp_path / kind)
            with Image.open(tmp_path / kind / "a/f-1.png") as image:
                assert image.text["source"] == "rendered"  # type: ignore[attr-defined]


def test_where_it_may_not_read_or_write(tmp_path: Path) -> None:
    root = source(tmp_path / "in", {"f.png": [("a", [10, 10, 20, 20])]})
    with pytest.raises(InputError, match="is no folder"):
        crop_fields(root / "f.png", tmp_path / "out")
    with pytest.raises(InputError, match="lies inside the source"):
        crop_fields(root, root / "out")
    crop_fields(root, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        crop_fields(root, tmp_path / "out")
    crop_fields(root, tmp_path / "out", overwrite=True)


def blood(centres: list[tuple[int, int]], seed: int = 0, size: int = 160) -> np.ndarray:
    """White cells at these centres (x, y) among red ones, by Beer and Lambert's law."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    density = np.zeros((size, size, 3))
    for cx, cy in [(20, 80), (80, 20), (140, 80), (80, 140)]:
        density += (np.hypot(y - cy, x - cx) < 9)[..., None] * np.array([0.05, 0.13, 0.12])
    for cx, cy in centres:
        density += (np.hypot(y - cy, x - cx) < 15)[..., None] * np.array([0.12, 0.10, 0.03])
        density += (np.hypot(y - cy, x - cx) < 10)[..., None] * np.array([0.35, 0.65, 0.15])
    light = np.array([245, 240, 235]) + rng.normal(0, 2, (size, size, 3))
    return np.rint((light * 10**-density).clip(0, 255)).astype(np.uint8)


def test_without_boxes_cells_are_found_by_segmentation_and_take_their_field_s_label(tmp_path: Path) -> None:
    for label, centres in (("blast", [(40, 40), (118, 44)]), ("benign", [(80, 80)]), ("none", [])):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.fromarray(blood(centres)).save(tmp_path / "in" / label / "f.png")
    crops = crop_fields(tmp_path / "in", tmp_path / "out")
    assert crops.found_by == "segmentation" and crops.counts == {"benign": 1, "blast": 2}
    assert any("In 1 field no cell was found: none/f.png" in sentence for sentence in crops.notes)
    table = pd.read_csv(tmp_path / "out/metadata.csv")
    assert table.groupby("label")["field_id"].unique().map(list).to_dict() == {
        "benign": ["benign/f.png"],
        "blast": ["blast/f.png"],
    }
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.fromarray(blood([(80, 80)])).save(loose / "f.png")
    assert crop_fields(loose, tmp_path / "out2").counts == {"unlabelled": 1}
    Image.fromarray(np.full((50, 60, 3), 220, dtype=np.uint8)).save(loose / "f.png")
    with pytest.raises(InputError, match="no cell is left to crop"):
        crop_fields(loose, tmp_path / "out3")


def test_sentences_for_one_for_none_and_for_no_name(tmp_path: Path) -> None:
    box: list[tuple[str, list[float]]] = [("a", [10, 10, 20, 20])]
    arguments = ["crop", str(source(tmp_path / "one", {"f.png": box})), "--out", str(tmp_path / "out")]
    assert "(1 cell of 1 field, found by" in CliRunner().invoke(balancer, arguments).stdout
    with pytest.raises(InputError, match="no cell is left to crop. The box files hold no boxes."):
        crop_fields(source(tmp_path / "none", {"f.png": []}), tmp_path / "no")
    nameless: list[tuple[str, list[float]]] = [("", [10, 10, 20, 20])]
    with pytest.raises(InputError, match="a label without a name"):
        crop_fields(source(tmp_path / "nameless", {"f.png": nameless}), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_default_output_is_named_after_the_source_even_where_that_is_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box: list[tuple[str, list[float]]] = [("a", [10, 10, 20, 20])]
    (source(tmp_path / "in", {"f.png": box}) / "sub").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    result = CliRunner().invoke(balancer, ["crop", "../in/sub/.."])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "work/runs/crops-in-1/metadata.csv").is_file()
