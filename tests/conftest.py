"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real image sets; the test is skipped where they are absent."""
    folder = Path(os.environ.get("HEMABALANCE_REAL_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder} (set HEMABALANCE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference numbers; the test is skipped where they are absent."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}")
    return folder
