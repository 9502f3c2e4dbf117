"""Dropmill: drop images and labels into a bucket; get tables, checked boxes, trained detectors and engines.

>>> import dropmill
>>> lake = dropmill.open("lake")                                            # doctest: +SKIP
>>> lake.sql("SELECT category, boxes FROM class_balance").polars()          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.lake import Lake

__version__ = "0.1.0"

__all__ = ["open"]


def open(url: str | Path, options: Mapping[str, Any] | None = None) -> Lake:  # noqa: A001
    """Open the lake at ``url`` (a path, or any fsspec URL with that file system's ``options``) for reading.

    Raises LakeError where there is none. ``lake.sql("SELECT ...")`` gives an Arrow table, its
    ``.polars()`` a polars frame; ``versions={"labels": 3}`` or ``at="2026-01-31T12:00:00Z"`` read the past.
    """
    from storage.lake import Lake

    return Lake.open(url, options)
