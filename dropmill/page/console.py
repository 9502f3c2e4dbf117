"""The SQL console: one reading query at a time for each of a few people, within small bounds."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import polars as pl

from dropmill.page.answers import Column, Found, TableDoc, Tables
from dropmill.page.gallery import chosen_by
from dropmill.page.open_lake import OpenLake
from storage.errors import QueryBoundError, QueryError, StoreError
from storage.rows import Rows, in_python
from storage.schemas import ABOUT
from storage.views import VIEWS

_AT_ONCE = 2
_WAIT_S = 10.0
_TIMEOUT_S = 30.0
_MEMORY = "1GB"
_MOST_CSV_ROWS = 1_000_000
_MOST_CHOSEN = 1_000_000
_MOST_KEPT = 8
_WHOLE = 2**53
# They cannot stand in brackets, and answer little.
_TOLD = ("explain", "describe", "show", "summarize")


class BusyError(StoreError):
    """Too many queries run; later there may be room."""


class Console:
    """Queries of people over one lake."""

    def __init__(self, lake: OpenLake) -> None:
        self._lake = lake
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._chosen: OrderedDict[tuple[Any, ...], pl.DataFrame] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, query: str, max_rows: int) -> Found:
        """Run a query; rows beyond ``max_rows`` are cut off. Raises QueryError, BusyError."""
        began = time.monotonic()
        arrow = self._run(query, max_rows + 1).arrow()
        rows = arrow.slice(0, max_rows)
        columns = [Column(name=field.name, type=str(field.type)) for field in arrow.schema]
        with in_python():
            values = [[_plain(value) for value in column.to_pylist()] for column in rows.columns]
        return Found(
            columns=columns,
            rows=[list(row) for row in zip(*values, strict=True)],
            more=arrow.num_rows > max_rows,
            seconds=round(time.monotonic() - began, 3),
        )

    def csv(self, query: str) -> str:
        """The answer as CSV, whole. Raises QueryError above a million rows."""
        with self._one_of_few():
            return self._lake.lake.sql(
                query, max_rows=_MOST_CSV_ROWS, memory_limit=_MEMORY, timeout_s=_TIMEOUT_S
            ).csv()

    def chosen(self, query: str) -> pl.DataFrame:
        """The samples that a query names, in order; asked once for each version of the tables."""
        versions = tuple(sorted(self._lake.versions().items()))
        key = (hashlib.sha256(query.encode()).digest(), versions)
        with self._lock:
            if key in self._chosen:
                self._chosen.move_to_end(key)
                return self._chosen[key]
        with self._one_of_few():
            rows = self._lake.lake.sql(
                query, max_rows=_MOST_CHOSEN, memory_limit=_MEMORY, timeout_s=_TIMEOUT_S
            )
        chosen = chosen_by(rows.polars())
        with self._lock:
            self._chosen[key] = chosen
            while len(self._chosen) > _MOST_KEPT:
                self._chosen.popitem(last=False)
        return chosen

    def tables(self) -> Tables:
        """Tables and views with their columns."""
        rows = self._lake.lake.sql(
            """SELECT table_name AS name, column_name AS col, lower(data_type) AS type
               FROM information_schema.columns WHERE table_schema = 'main'
               ORDER BY table_name, ordinal_position"""
        ).to_pylist()
        about = {**ABOUT, **{name: view.about for name, view in VIEWS.items()}}
        columns: dict[str, list[Column]] = {}
        for row in rows:
            columns.setdefault(row["name"], []).append(Column(name=row["col"], type=row["type"]))
        return Tables(
            tables=[
                TableDoc(name=name, about=about[name], columns=columns[name])
                for name in about
                if name in columns
            ]
        )

    def _run(self, query: str, most: int) -> Rows:
        with self._one_of_few():
            told = query.lstrip(" \t\r\n(").lower().startswith(_TOLD)
            bare = query.rstrip().removesuffix(";")
            try:
                return self._lake.lake.sql(
                    query if told else f"SELECT * FROM (\n{bare}\n) LIMIT {most}",
                    max_rows=10 * _MOST_CSV_ROWS if not told else most,
                    memory_limit=_MEMORY,
                    timeout_s=_TIMEOUT_S,
                )
            except QueryBoundError:
                raise
            except QueryError:
                # What is wrong is said of the query as it was asked, not as it stands in brackets.
                self._lake.lake.sql(query, max_rows=most, memory_limit=_MEMORY, timeout_s=_TIMEOUT_S)
                raise

    @contextmanager
    def _one_of_few(self) -> Iterator[None]:
        if not self._room.acquire(timeout=_WAIT_S):
            raise BusyError(f"{_AT_ONCE} queries run already; try again when one has ended")
        try:
            yield
        finally:
            self._room.release()


def _plain(value: Any) -> Any:
    """A value as JSON has it, and as a browser reads it without loss."""
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _WHOLE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
