"""SQL over the lake: one SELECT, read only, at one version of each table.

The engine is DuckDB, with its access to files, network and settings shut before the query is seen.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa

from storage.errors import QueryError
from storage.schemas import TABLES

if TYPE_CHECKING:
    from storage.lake import Lake

# A view may build upon those before it.
_VIEWS = {
    "boxes": """
        SELECT a.*, xmax - xmin AS width, ymax - ymin AS height, (xmax - xmin) * (ymax - ymin) AS area,
               CASE WHEN ymax > ymin THEN (xmax - xmin) / (ymax - ymin) END AS aspect,
               CASE WHEN (xmax - xmin) * (ymax - ymin) < 1024 THEN 'small'
                    WHEN (xmax - xmin) * (ymax - ymin) < 9216 THEN 'medium' ELSE 'large' END AS size_class
        FROM annotations a""",
    "class_balance": """
        SELECT dataset, category, count(*) AS boxes, count(DISTINCT sample) AS images,
               count(*) / sum(count(*)) OVER (PARTITION BY dataset) AS share,
               max(count(*)) OVER (PARTITION BY dataset) / count(*) AS ratio_to_largest
        FROM annotations WHERE NOT ignore GROUP BY dataset, category""",
    "waiting": """
        SELECT m.dataset, m.source, m.ref, m.instances FROM mentions m
        WHERE m.kind = 'label' AND EXISTS (SELECT 1 FROM findings f WHERE f.dataset = m.dataset
              AND f.source = m.source AND f.sample = m.ref AND f.rule = 'unknown_image')""",
    "newest": """
        SELECT * FROM objects QUALIFY row_number() OVER (PARTITION BY key ORDER BY batch DESC) = 1""",
    "quarantine": """
        SELECT dataset, key, version, error, batch, seen_at FROM newest WHERE state = 'quarantined'""",
}


class Rows:
    """The answer of a query: an Arrow table, and the ways out of it.

    Every attribute of the Arrow table (``num_rows``, ``column``, ``to_pylist`` ...) is there as well.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self._table

    def polars(self) -> pl.DataFrame:
        """The rows as a polars frame."""
        frame = pl.from_arrow(self._table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def pandas(self) -> Any:
        """The rows as a pandas frame (needs pandas)."""
        return self._table.to_pandas()

    def json(self) -> str:
        """The rows as a JSON list of objects; NaN and infinite numbers become null."""
        return json.dumps([_plain(row) for row in self._table.to_pylist()], ensure_ascii=False)

    def csv(self) -> str:
        """The rows as CSV with a header; lists and structs as JSON."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._table.column_names)
        for row in self._table.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])
        return text.getvalue()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._table, name)

    def __repr__(self) -> str:
        return repr(self._table)


def run_query(
    lake: Lake,
    query: str,
    *,
    parameters: Sequence[Any] | None = None,
    versions: Mapping[str, int] | None = None,
    at: datetime | str | None = None,
    memory_limit: str = "4GB",
) -> Rows:
    """Run one SELECT over the tables of the lake and its views.

    The views are ``boxes``, ``class_balance``, ``waiting``, ``newest`` (of ``objects``: the last word on each
    key) and ``quarantine``.

    ``versions`` pins tables by version, ``at`` all tables by a moment (ISO 8601, UTC where no zone is given).
    Raises QueryError for anything but one reading statement, and for what DuckDB refuses.
    """
    moment = _moment(at)
    pinned = dict(versions or {})
    for name, version in pinned.items():
        if name not in TABLES:
            raise QueryError(f"no table {name!r} to take at version {version}; tables: {', '.join(TABLES)}")
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{memory_limit}'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET TimeZone = 'UTC'")
        tables, views = _needed(query)
        for name in tables:
            table = lake.table(name, pinned.get(name, moment))
            connection.register(name, table.to_pyarrow_dataset())
        for name in views:
            connection.execute(f"CREATE TEMP VIEW {name} AS {_VIEWS[name]}")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        _only_reads(connection, query)
        try:
            return Rows(connection.sql(query, params=list(parameters or [])).to_arrow_table())
        except duckdb.Error as error:
            raise QueryError(f"SQL: {error}", query=query) from error


def _only_reads(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(f"SQL: {error}", query=query) from error
    if len(statements) != 1:
        raise QueryError(f"SQL: expected one statement, found {len(statements)}", query=query)
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryError(
            f"SQL: {kind.name} is not allowed; the lake is read only, ask with SELECT", query=query
        )


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None


def _needed(query: str) -> tuple[list[str], list[str]]:
    """The tables and views whose names stand in the query, each after those it builds upon.

    Opening a table reads its log, so no others are opened.
    """
    if re.search(r"\b(show|describe|information_schema|duckdb_tables)\b", query, re.IGNORECASE):
        return list(TABLES), list(_VIEWS)
    text = query
    views: list[str] = []
    for name in reversed(_VIEWS):
        if _mentions(text, name):
            views.insert(0, name)
            text += _VIEWS[name]
    return [name for name in TABLES if _mentions(text, name)], views


def _moment(at: datetime | str | None) -> datetime | None:
    if at is None:
        return None
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except ValueError as error:
        raise QueryError(f"{at!r} is no moment in ISO 8601, such as 2026-01-31T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _cell(value: Any) -> Any:
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, dict | list) else value
