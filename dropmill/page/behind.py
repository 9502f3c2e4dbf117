"""What is behind the page of one lake: its counts, pictures, work and console."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dropmill.commands import Commands
from dropmill.page.console import Console
from dropmill.page.open_lake import OpenLake
from dropmill.page.summary import Summary
from dropmill.page.thumbnails import Thumbnails
from dropmill.page.work import Work
from quality.gate import Thresholds
from quality.limits import Limits
from storage.errors import DropmillError


@dataclass(kw_only=True)
class Page:
    """Everything behind the page of one lake."""

    lake: OpenLake
    summary: Summary
    thumbnails: Thumbnails
    work: Work
    console: Console
    health: Callable[[], Mapping[str, Any]] | None = None
    commands: Commands | None = None
    token: str | None = field(default=None, repr=False)

    def warm(self) -> None:
        """Begin to count and to look, so that the first who comes need not wait as long."""

        def begin() -> None:
            # Where there is no lake yet, whoever asks will be told.
            with suppress(DropmillError):
                self.summary.now()
                self.work.quarantine(None, 1, None)
                self.work.batches(None, 1)
                for table in ("images", "annotations", "findings"):
                    self.lake.places(table)

        threading.Thread(target=begin, name="warm", daemon=True).start()


def make_page(
    lake_url: str,
    options: Mapping[str, Any] | None = None,
    *,
    bucket: str | None = None,
    bucket_options: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    cache_bytes: int = 500_000_000,
    thresholds: Thresholds | None = None,
    limits: Limits | None = None,
    health: Callable[[], Mapping[str, Any]] | None = None,
    commands: Commands | None = None,
    token: str | None = None,
) -> Page:
    """The page of the lake at ``lake_url``, which need not be there yet.

    Pictures and counts are kept in the folder ``cache``. ``commands`` is where a service hears what people
    with the ``token`` ask for.
    """
    lake = OpenLake(lake_url, options)
    folder = cache or default_cache()
    return Page(
        lake=lake,
        summary=Summary(lake, folder, thresholds, limits),
        thumbnails=Thumbnails(folder, most_bytes=cache_bytes, bucket=bucket, options=bucket_options),
        work=Work(lake),
        console=Console(lake),
        health=health,
        commands=commands,
        token=token,
    )


def default_cache() -> Path:
    """The folder for what can be made again at any time."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "dropmill"
