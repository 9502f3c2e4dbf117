"""A lake as the page sees it: the newest version of every table, looked up at most once in a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from deltalake import DeltaTable

from storage.errors import LakeError
from storage.files import TableFiles
from storage.lake import Lake, Snapshot
from storage.schemas import TABLES

_FRESH_S = 1.0
_HELD_BYTES = 200_000_000


@dataclass(frozen=True)
class Place:
    """Where one file of a table lies in the order of its rows; bounds are (dataset, stem), or less."""

    path: str
    low: tuple[str, str]
    high: tuple[str, str]
    """``LAST`` where the log has no bound."""


LAST = ("\U0010ffff", "\U0010ffff")


class OpenLake:
    """Handles on a lake's tables that follow its commits; may be shared by threads."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self._options = options
        self._lake: Lake | None = None
        self._lock = threading.RLock()
        self._looked = -_FRESH_S
        self._handles: dict[str, DeltaTable] = {}
        self._files: dict[str, TableFiles] = {}
        self._places: dict[str, list[Place]] = {}
        self._held = _Held(_HELD_BYTES)

    @property
    def lake(self) -> Lake:
        """The lake. Raises LakeError while there is none."""
        with self._lock:
            if self._lake is None:
                self._lake = Lake.open(self.url, self._options)
            return self._lake

    def versions(self, *, look: bool = False) -> Snapshot:
        """The newest version of every table, as it was a second ago or later, or now (``look``)."""
        lake = self.lake
        with self._lock:
            if look or time.monotonic() - self._looked >= _FRESH_S:
                for name in TABLES:
                    self._follow(lake, name)
                self._looked = time.monotonic()
            return {name: handle.version() for name, handle in self._handles.items()}

    def files(self, name: str) -> TableFiles:
        """The files of the newest version of a table; the handle is not to be moved on."""
        version = self.versions().get(name)
        if version is None:
            raise LakeError(f"{self.url}: table {name} is missing; is this a lake?", url=self.url)
        with self._lock:
            held = self._files.get(name)
            if held is None or held.table.version() != version:
                held = self.lake.files(name, version)
                self._places[name] = _places(held)
                self._files[name] = held
            return held

    def places(self, name: str) -> tuple[TableFiles, list[Place]]:
        """The files of a table, and the same with their bounds, in the order of their rows."""
        with self._lock:
            return self.files(name), self._places[name]

    def rows(self, files: TableFiles, path: str, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of one file; files never change, so those that were read last are still held."""
        key = (files.name, path, tuple(columns))
        frame = self._held.get(key)
        if frame is None:
            read = pl.from_arrow(files.rows_of([path], columns=columns))
            assert isinstance(read, pl.DataFrame)
            frame = read
            self._held.put(key, frame)
        return frame

    def _follow(self, lake: Lake, name: str) -> None:
        """Bring a handle up to date; a table that an older lake has not is left out."""
        try:
            if name in self._handles:
                self._handles[name].update_incremental()
            else:
                self._handles[name] = lake.table(name)
        except LakeError:
            return


class _Held:
    """Frames that were read last, within a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._frames: OrderedDict[tuple[object, ...], pl.DataFrame] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> pl.DataFrame | None:
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
            return frame

    def put(self, key: tuple[object, ...], frame: pl.DataFrame) -> None:
        with self._lock:
            if key in self._frames:
                return
            self._frames[key] = frame
            self._bytes += int(frame.estimated_size())
            while self._bytes > self._most and len(self._frames) > 1:
                _, dropped = self._frames.popitem(last=False)
                self._bytes -= int(dropped.estimated_size())


def _places(files: TableFiles) -> list[Place]:
    actions = files.actions
    known = actions.column_names

    def texts(name: str, otherwise: str) -> list[str]:
        found = actions[name].to_pylist() if name in known else [None] * actions.num_rows
        return [otherwise if value is None else str(value) for value in found]

    low = zip(texts("min.dataset", ""), texts("min.stem", ""), strict=True)
    high = zip(texts("max.dataset", LAST[0]), texts("max.stem", LAST[1]), strict=True)
    # A file of several data sets has its least stem in any of them.
    bounds = [
        ((a, s if a == b else ""), (b, t if a == b else LAST[1]))
        for (a, s), (b, t) in zip(low, high, strict=True)
    ]
    places = [
        Place(path, least, most)
        for path, (least, most) in zip(actions["path"].to_pylist(), bounds, strict=True)
    ]
    return sorted(places, key=lambda place: place.low)
