"""Answers by key in a file that only grows."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from balancer.errors import InputError


class Answers:
    """Answers by key, kept in a file of JSON lines that only grows, and that several processes may share.

    What stands in it first holds; a line that a kill cut short counts as none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._cut = False  # whether the file ends within a line
        self._among_processes = FileLock(path.with_name(f"{path.name}.lock"))

    def __enter__(self) -> Answers:
        with self._told():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file: io.FileIO = self._path.open(
                "a+b", buffering=0
            )  # nothing is left to write when it is closed
        self._file.seek(0)
        with self._told(), self._among_processes:
            lines = self._take_in()
            start = b'{"key": "'  # of a line, or of what a kill left of the first
            if not self._known and any(line[: len(start)] != start[: len(line)] for line in lines):
                self._file.close()
                raise InputError(
                    f"{self._path} is no cache of captions and is left as it is; choose another folder with HEMABALANCE_CACHE."
                )
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> str:
        return self._known[key]

    def add(self, key: str, model: str, answer: str) -> str:
        """Keep an answer, on disk first, and return the one that holds: another process may have been first."""
        with self._lock, self._told():
            if key not in self._known:
                with self._among_processes:
                    self._take_in()
                    if key not in self._known:
                        line = json.dumps({"key": key, "model": model, "answer": answer})
                        # A line that a kill cut short is ended first.
                        self._write((b"\n" if self._cut else b"") + line.encode() + b"\n")
                        self._known[key], self._cut = answer, False
            return self._known[key]

    def _take_in(self) -> list[bytes]:
        """Read on from where the file was left: its lines."""
        lines = self._file.read().split(b"\n")
        self._cut = bool(lines[-1]) or (self._cut and len(lines) == 1)
        for line in lines:
            try:
                row = json.loads(line)
                self._known.setdefault(row["key"], str(row["answer"]))
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
        return lines

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"The cache {self._path} cannot be written ({error.strerror}); choose another folder with HEMABALANCE_CACHE."
            ) from None
