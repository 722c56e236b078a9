from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from balancer.errors import InputError
from balancer.files import (
    being_written,
    claimed,
    kind_of,
    new_directory,
    read_json,
    refuse_existing,
    write_csv,
    write_json,
    write_mark,
    write_with,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_directory_appears_whole(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a" / "out") as aside:
        (aside / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert names(tmp_path / "a") == ["out"] and names(tmp_path / "a" / "out") == ["x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_directory_vanishes_on_any_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_directory(tmp_path / "out") as aside:
        (aside / "x").write_text("1")
        raise error
    assert names(tmp_path) == []


def test_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as aside:
        (aside / "old").touch()
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert names(tmp_path / "out") == ["old"]
    with new_directory(tmp_path / "out", overwrite=True) as aside:
        (aside / "new").touch()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["new"]


def test_existing_output_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", overwrite=False)
    with pytest.raises(InputError, match="--overwrite"):
        refuse_existing(tmp_path / "full", overwrite=False)
    with pytest.raises(InputError, match="no output of hemabalance"):
        refuse_existing(tmp_path / "full", overwrite=True)
    write_mark(tmp_path / "full", "crops")
    refuse_existing(tmp_path / "full", overwrite=True)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("dataset.json", "prepared"),
        ("dataset.json", "synthetic"),
        ("config.json", "generator"),
        ("config.json", "classifier"),
        ("config.json", "labels"),
    ],
)
def test_an_output_is_known_by_what_its_description_says(tmp_path: Path, file: str, kind: str) -> None:
    write_json(tmp_path / file, {"format": 1, "kind": kind})
    assert kind_of(tmp_path) == kind
    refuse_existing(tmp_path, overwrite=True)


def test_a_comparison_is_known_by_its_report(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", {"format": 1, "study": {}})
    assert kind_of(tmp_path) == "comparison"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metadata.csv", "file_name,label\n"),
        ("morphology.csv", "file_name,mask\n"),
        ("labels.csv", "file_name,label\n"),
        ("config.json", '{"kind": "generator"}'),
        ("config.json", '{"format": 1, "kind": "mine"}'),
        ("config.json", "no JSON"),
        ("dataset.json", "[1]"),
        ("report.json", '{"study": 3}'),
    ],
)
def test_a_folder_of_the_user_is_never_replaced(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").touch()
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match="is no output of hemabalance and is not replaced"):
        refuse_existing(tmp_path, overwrite=True)


def test_an_output_never_replaces_what_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    write_mark(tmp_path / "data", "rendered")
    for place in (tmp_path / "data", tmp_path / "data" / "images"):
        with pytest.raises(InputError, match="is read here"):
            refuse_existing(tmp_path / "data", overwrite=True, inputs=[place])
    refuse_existing(tmp_path / "data", overwrite=True, inputs=[tmp_path / "data-2"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that nobody can write to")
def test_a_place_where_nothing_can_be_written_is_told() -> None:
    with pytest.raises(InputError, match="Nothing can be written in /proc"), new_directory(Path("/proc/out")):
        pass


def test_left_overs_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".hemabalance-aside-out-12345678").mkdir()
    (tmp_path / ".hemabalance-aside-out-64-12345678").mkdir()
    with new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == [".hemabalance-aside-out-64-12345678", "out"]


def test_an_output_moved_away_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".hemabalance-aside-out-old" / "x").mkdir(parents=True)
    with pytest.raises(InputError, match="exists already"), new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path / "out") == ["x"]


def test_half_a_file_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": [1, None]})

    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise OSError

    with pytest.raises(OSError):
        write_with(path, fail)
    assert read_json(path) == {"ä": [1, None]} and names(tmp_path) == ["a.json"]
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert read_json(path) == {"ä": [1, None]}


def test_json_that_is_missing_or_broken_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "long.json").write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match=r"long\.json is not valid JSON"):
        read_json(tmp_path / "long.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_csv_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": ["x,y", 'q"'], "b": [1, 2]})
    write_csv(tmp_path / "t.csv", table)
    assert pd.read_csv(tmp_path / "t.csv").equals(table)


def test_where_no_folder_can_lie_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="would lie inside a file"), new_directory(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match="leads nowhere"), new_directory(tmp_path / "link"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_everybody_may_read_what_a_writer_made_for_itself_alone(tmp_path: Path) -> None:
    def write(aside: Path) -> None:
        aside.unlink()
        aside.touch(mode=0o600)

    write_with(tmp_path / "weights", write)
    (tmp_path / "other").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


@contextmanager
def another_process_writes(path: Path) -> Iterator[None]:
    code = f"""
from pathlib import Path
from balancer.files import claimed
with claimed(Path({str(path)!r})):
    print(flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.communicate(b"\n")


def test_one_process_writes_an_output(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    with another_process_writes(out):
        assert being_written(out) and not being_written(tmp_path / "other")
        with pytest.raises(InputError, match=f"Another process is writing {out} now"), new_directory(out):
            pytest.fail("two write")
    assert names(tmp_path) == []
    assert not being_written(out)
    with claimed(out), new_directory(out) as aside:  # who has claimed it may
        (aside / "x").touch()
    assert names(out.parent) == ["out"]
