"""Fixtures of the ingest tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.derive import Settings
from tests.ingest.mill import Mill


@pytest.fixture
def new_mill(tmp_path: Path) -> Callable[..., Mill]:
    """Makes mills, each with a bucket and a lake of its own; buckets are all called ``drops``."""
    made = 0

    def make(*, correct: bool = True, label_order: tuple[str, ...] = (), batch_objects: int = 2_000) -> Mill:
        nonlocal made
        made += 1
        folder = tmp_path / str(made) / "drops"
        folder.mkdir(parents=True)
        settings = Settings(apply_correction=correct, label_order=label_order)
        return Mill(folder, tmp_path / str(made) / "lake", settings, batch_objects)

    return make


@pytest.fixture
def mill(new_mill: Callable[..., Mill]) -> Mill:
    return new_mill()
