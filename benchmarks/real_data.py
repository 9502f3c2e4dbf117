"""Where the real data sets lie that some benchmarks multiply."""

from __future__ import annotations

import os
from pathlib import Path


def real_data(name: str) -> Path:
    """The folder of a set below ``DROPMILL_TEST_DATA`` (else ``../shared/data``); FileNotFoundError."""
    root = Path(os.environ.get("DROPMILL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / name).is_dir():
        raise FileNotFoundError(f"no real data: {root / name} (set DROPMILL_TEST_DATA)")
    return root / name
