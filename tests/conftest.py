"""What several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; where it is absent, the tests that need it are skipped."""
    folder = Path(os.environ.get("DROPMILL_TEST_DATA") or _PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set DROPMILL_TEST_DATA)")
    return folder
