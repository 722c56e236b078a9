from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.data import catalogue
from balancer.data.catalogue import (
    data_of,
    expand_paths,
    find_runs,
    new_output,
    newest_classifier,
    newest_generator,
)
from balancer.data.prepare import prepare
from balancer.errors import InputError
from balancer.files import write_json


def run(
    root: Path, name: str, age: int, classes: list[str], data: str = "x", kind: str = "generator"
) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    config = {"kind": kind, "classes": classes, "data": {"path": data, "fingerprint": data}}
    write_json(folder / "config.json", config)
    os.utime(folder / "config.json", (10**9 - age, 10**9 - age))
    return folder


def test_runs_are_found_newest_first(tmp_path: Path) -> None:
    old = run(tmp_path, "demo/gan", 50, ["a", "b"])
    new = run(tmp_path, "z", 10, ["a"])
    judge = run(tmp_path, "c", 1, ["a", "b"], kind="classifier")
    run(tmp_path, ".hemabalance-aside-q", 0, ["a"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{")
    assert [r.path for r in find_runs(tmp_path, "generator")] == [new, old]
    assert [r.path for r in find_runs(tmp_path)] == [judge, new, old]
    assert newest_generator(["a"], tmp_path) == new
    assert newest_generator(["a", "b"], tmp_path) == old
    assert newest_classifier(tmp_path) == judge


def test_no_run_or_no_such_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="balancer train"):
        newest_generator(["a"], tmp_path / "runs")
    run(tmp_path, "one", 0, ["CLL", "AML"])
    run(tmp_path, "two", 0, ["ALL"])
    with pytest.raises(InputError, match="Did you mean 'CLL'"):
        newest_generator(["cll"], tmp_path)
    with pytest.raises(InputError, match="knows all of CLL, ALL"):
        newest_generator(["CLL", "ALL"], tmp_path)


def test_runs_of_different_data_are_listed(tmp_path: Path) -> None:
    run(tmp_path, "one", 1, ["a"], data="pbc")
    run(tmp_path, "two", 2, ["a"], data="smear")
    with pytest.raises(InputError, match=r"one \(data: pbc\).*two \(data: smear\).*--run"):
        newest_generator(["a"], tmp_path)


def test_data_of_a_run(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "s" / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng([i, ord(label)]).integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"s/{label}/{i}.png")
    made = prepare(tmp_path / "s", tmp_path / "data")
    folder = run(tmp_path, "run", 0, ["a"], data=str(tmp_path / "data"))
    with pytest.raises(InputError, match="another fingerprint"):
        data_of(folder)
    data = {"path": str(tmp_path / "data"), "fingerprint": made.fingerprint}
    write_json(folder / "config.json", {"kind": "generator", "data": data})
    assert data_of(folder).fingerprint == made.fingerprint
    write_json(folder / "config.json", {"kind": "generator", "data": {**data, "path": "gone"}})
    with pytest.raises(InputError, match="no longer at gone"):
        data_of(folder)
    unknown = {"path": "unknown", "fingerprint": None}
    write_json(folder / "config.json", {"kind": "generator", "data": unknown, "imported": {}})
    with pytest.raises(InputError, match="imported weights, which have no data; train them .* --init"):
        data_of(folder)


def test_new_output(tmp_path: Path) -> None:
    assert new_output("syn", tmp_path) == tmp_path / "syn-1"
    (tmp_path / "syn-1").mkdir()
    assert new_output("syn", tmp_path) == tmp_path / "syn-2"


def test_an_output_that_another_process_writes_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "being_written", lambda path: path.name == "syn-1")
    assert new_output("syn", tmp_path) == tmp_path / "syn-2"


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(InputError, match="A path is empty"):
        expand_paths([""])


def test_paths_are_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/deep/2.JPG", "a/masks/3.png", "a/notes.txt", "b/4.tif", "b/odd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = {"a/1.png", "a/deep/2.JPG"}
    assert {p.relative_to(tmp_path).as_posix() for p in expand_paths([tmp_path / "a"])} == expected
    assert expand_paths([tmp_path / "b/odd", str(tmp_path / "*/*.png"), tmp_path / "a/1.png"]) == [
        tmp_path / "b/odd",
        tmp_path / "a/1.png",
    ]
    for nothing in ("none.png", "none/*.png", "a/*.txt"):
        with pytest.raises(InputError, match="names no image"):
            expand_paths([tmp_path / nothing])


def test_links_that_lead_nowhere_are_for_the_reader_to_name(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    for name in ("2.png", "3.txt"):
        (tmp_path / name).symlink_to(tmp_path / "gone.png")
    assert expand_paths([tmp_path]) == [tmp_path / "1.png", tmp_path / "2.png"]


def test_of_named_data_only_the_runs_on_it_count(tmp_path: Path) -> None:
    run(tmp_path, "one", 1, ["a"], data="pbc")
    two = run(tmp_path, "two", 2, ["a"], data="smear")
    assert newest_generator(["a"], tmp_path, fingerprint="smear") == two
    with pytest.raises(InputError, match="balancer train"):
        newest_generator(["a"], tmp_path, fingerprint="other")


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "classifier", "data": None, "classes": None},
        {"kind": "classifier", "data": 5},
        {"kind": "classifier", "data": {"path": 5}},
        {"kind": "classifier", "data": {"path": "x", "fingerprint": ["y"]}},
        {"kind": "classifier", "classes": [["a"]]},
        {"kind": "classifier", "classes": "ab"},
        {"kind": ["classifier"]},
        {"data": 5},
        [],
        None,
    ],
)
def test_a_config_that_describes_no_run_stands_in_no_way(config: object, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write_json(tmp_path / "x" / "config.json", config)
    good = run(tmp_path, "run", 0, ["a"], kind="classifier")
    assert [one.path for one in find_runs(tmp_path)] == [good]
    assert newest_classifier(tmp_path) == good
    with pytest.raises(InputError, match=r"x/config\.json does not describe a run.*give --data"):
        data_of(tmp_path / "x")
