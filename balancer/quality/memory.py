"""Judgements kept on disk: the same images, features, rules and code give the same judgement, which is not made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import balancer
from balancer.errors import InputError
from balancer.files import read_json, write_json
from balancer.progress import note
from balancer.quality.features import CODE_VERSION, LIBRARIES, cache_folder

_LIBRARIES = ("numpy", "pandas", "scikit-image", "scikit-learn", "scipy", *LIBRARIES)
T = TypeVar("T")


def remembered(key: str, make: Callable[[], T], write: Callable[[T], Any], read: Callable[[Any], T]) -> T:
    """What `make` returns, from disk where it was made before under this key (hexadecimal).

    It is kept as the JSON value that `write` makes of it and `read` understands. What cannot be read, kept, or is no
    JSON, as numbers that are not finite, costs time, never a result.
    """
    path = cache_folder().parent / "judgements" / f"{key}.json"
    if path.is_file():
        try:
            return read(read_json(path))
        except (InputError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            note(f"{path} cannot be read; the judgement is made again.")
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, write(made))
    except (OSError, ValueError) as error:
        note(f"The judgement cannot be kept in {path.parent} ({error}); it is made again next time.")
    return made


def key_of(*parts: Any) -> str:
    """SHA-256 (hexadecimal) of arrays, by their type, shape and values, and of JSON values, in their order."""
    state = hashlib.sha256()
    for part in parts:
        if hasattr(part, "tobytes") and part.dtype != object:
            state.update(f"{part.dtype}{part.shape}".encode())
            state.update(part.tobytes())
        else:
            values = part.tolist() if hasattr(part, "tolist") else part
            state.update(json.dumps(values, sort_keys=True).encode() + b"\0")
    return state.hexdigest()


@cache
def code_version() -> str:
    """SHA-256 (hexadecimal) of the code and the versions of the libraries that a judgement depends on."""
    package = Path(balancer.__file__).parent
    sources = [*package.glob("quality/*.py"), *package.glob("imaging/*.py"), package / "quality/rules.toml"]
    libraries = (f"{name} {version(name)}" for name in _LIBRARIES)
    state = hashlib.sha256(" ".join([str(CODE_VERSION), *libraries]).encode())
    for source in sorted(sources):
        state.update(source.read_bytes())
    return state.hexdigest()
