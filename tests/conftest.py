"""What several test folders share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: their networks are small, and threads
# that wait for each other by spinning take minutes where other processes have work for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples each time, however long one takes: what is red is red for a reason that is in the change.
# New examples: pytest --hypothesis-profile=default
with suppress(ImportError):  # tests/gpu runs without it
    from hypothesis import settings

    settings.register_profile("steady", derandomize=True, deadline=None)
    settings.load_profile("steady")

_PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; where it is absent, the tests that need it are skipped."""
    folder = Path(os.environ.get("DROPMILL_TEST_DATA") or _PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set DROPMILL_TEST_DATA)")
    return folder
