from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from balancer.errors import InputError
from classifier.answers import Answers


def test_processes_that_share_a_cache_get_the_same_captions(tmp_path: Path) -> None:
    with Answers(tmp_path / "cache") as first, Answers(tmp_path / "cache") as second:
        assert first.add("k", "m", "one") == "one"
        assert second.add("k", "m", "two") == "one" and second["k"] == "one"
        assert second.add("l", "m", "three") == "three" and first.add("l", "m", "four") == "three"
    with Answers(tmp_path / "cache") as later:
        assert later["k"] == "one" and later["l"] == "three"
    assert len((tmp_path / "cache").read_bytes().splitlines()) == 2


FILLING = """
import sys
from pathlib import Path
from classifier.answers import Answers
with Answers(Path(sys.argv[1])) as answers:
    sys.stdin.readline()
    print([answers.add(f"k{i}", sys.argv[2], f"{sys.argv[2]}{i}") for i in range(100)])
"""


def test_processes_that_write_a_cache_at_once_agree(tmp_path: Path) -> None:
    piped: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", FILLING, tmp_path / "cache", by], **piped) for by in "abc"
    ]
    for process in started:  # all have opened it, or soon will have
        process.stdin.write("\n")  # type: ignore[union-attr]
    found = [process.communicate()[0] for process in started]
    assert found[0] == found[1] == found[2] and "k" not in found[0] and len(found[0]) > 400
    rows = [json.loads(line) for line in (tmp_path / "cache").read_bytes().splitlines()]
    assert [row["key"] for row in rows] == [f"k{i}" for i in range(100)]


def test_a_line_that_another_process_left_cut_short_swallows_no_other(tmp_path: Path) -> None:
    with Answers(tmp_path / "cache") as answers:
        answers.add("k1", "m", "one")
        with (tmp_path / "cache").open("ab") as other:
            other.write(b'{"key": "k2", "model": "m", "ans')
        answers.add("k3", "m", "three")
        answers.add("k4", "m", "four")
    with Answers(tmp_path / "cache") as answers:
        assert [f"k{i}" in answers for i in range(1, 5)] == [True, False, True, True]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(InputError, match="cache cannot be written"), Answers(tmp_path / "cache") as answers:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, most))
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for i in range(20):
                answers.add(f"k{i}", "m", "x" * 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            signal.signal(signal.SIGXFSZ, before)
    with Answers(tmp_path / "cache") as answers:
        assert "k0" in answers and "k19" not in answers


def test_of_two_answers_in_a_file_the_first_holds(tmp_path: Path) -> None:
    rows = [{"key": "k", "model": "m", "answer": answer} for answer in ("one", "two")]
    deep = "[" * 200_000
    (tmp_path / "cache").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + deep)
    with Answers(tmp_path / "cache") as answers:
        assert answers["k"] == "one"
