"""SQL over the lake: one SELECT, read only, at one version of each table, within bounds.

The engine is DuckDB. Of the engines measured (``benchmarks/sql.py``) it alone answers all questions in their
plain SQL (lists of quantiles, ``QUALIFY``, ``GROUP BY ALL``); polars and DataFusion are as fast where they
answer at all. Access to files, network and settings is shut before the query is seen, but for the Parquet
files of the versions that it reads; what could write to those is refused by the shape of the statement.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import duckdb
import pyarrow as pa

from storage.errors import QueryBoundError, QueryError
from storage.query_bounds import Bounds, bounded, bytes_of
from storage.rows import Rows
from storage.scan import register_version
from storage.schemas import TABLES
from storage.time_travel import Version, at_clauses, moment_of
from storage.views import VIEWS, tables_of, view_sql

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["DEFAULT_MAX_ROWS", "DEFAULT_MEMORY", "DEFAULT_TIMEOUT_S", "Limits", "Rows", "run_query"]

DEFAULT_MAX_ROWS = 50_000_000
DEFAULT_MEMORY = "4GB"
DEFAULT_TIMEOUT_S = 300.0
_MAX_SPILL = "20GB"

# What a statement is made of, as the parser serialises it; others insert, update, delete or copy.
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
# They run a text that the check of the statement does not see.
_FUNCTIONS_THAT_RUN_TEXT = {"query", "json_execute_serialized_sql"}
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
# Small, so that wide rows are counted before they fill the memory.
_BATCH_ROWS = 8_192
_NO_MEMORY = ("Out of Memory", "bad_alloc", "maximum total string size")


class Tables(Protocol):
    """What has Delta tables by name and version, as :class:`storage.lake.Lake` does."""

    def table(self, name: str, version: Version = None) -> DeltaTable:
        """The Delta table ``name``, newest or as it was at a version or a moment."""


class Limits(TypedDict, total=False):
    """The bounds of a query, as :func:`run_query` takes them."""

    max_rows: int | None
    memory_limit: str
    timeout_s: float | None


def run_query(
    lake: Tables,
    query: str,
    *,
    parameters: Sequence[Any] | None = None,
    versions: Mapping[str, int] | None = None,
    at: datetime | str | None = None,
    max_rows: int | None = DEFAULT_MAX_ROWS,
    memory_limit: str = DEFAULT_MEMORY,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> Rows:
    """Run one SELECT over the tables of the lake and its views (:data:`storage.views.VIEWS`).

    ``versions`` pins tables by version, ``at`` all tables by a moment (ISO 8601, UTC where no zone is
    given); in the query a single table is pinned by ``FROM annotations AT (VERSION => 3)`` or
    ``AT (TIMESTAMP => '2026-01-31T12:00:00Z')``.
    Raises QueryError for anything but one reading statement, for what DuckDB refuses, and for an answer of
    more than ``max_rows`` rows, a need for more than ``memory_limit`` (what does not fit goes to a temporary
    folder first), or more than ``timeout_s`` seconds. None is no limit.
    """
    bounds = Bounds(max_rows, bytes_of(memory_limit), timeout_s)
    pinned = versions or {}
    if unknown := next((name for name in pinned if name not in TABLES), None):
        raise QueryError(
            f"no table {unknown!r} to take at version {pinned[unknown]}; tables: {', '.join(TABLES)}"
        )
    moment = moment_of(at)
    text, pins = at_clauses(query)
    with (
        tempfile.TemporaryDirectory(prefix="dropmill-sql-") as spill,
        duckdb.connect(":memory:") as connection,
    ):
        connection.execute(f"SET memory_limit = '{memory_limit}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        connection.execute(f"SET max_temp_directory_size = '{_MAX_SPILL}'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET TimeZone = 'UTC'")
        if _is_joined_as_written(_check_reads(connection, text, query)):
            # Parquet does not say how few values the column "dataset" has. DuckDB concludes from equal data
            # sets of a, b and c that a and c can be joined by them alone, and makes all pairs of rows.
            connection.execute("SET disabled_optimizers = 'join_order'")
        now: dict[str, Version] = {name: pinned.get(name, moment) for name in TABLES}
        files = _add(connection, lake, "main", _named(text), now)
        for schema, (name, version) in pins.items():
            connection.execute(f'CREATE SCHEMA "{schema}"')
            files += _add(connection, lake, schema, [name], dict.fromkeys(tables_of(name), version))
        if files:
            listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            connection.execute(f"SET allowed_paths = [{listed}]")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return _answer(connection, text, parameters, bounds)


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] | None, bounds: Bounds
) -> Rows:
    with bounded(connection, bounds) as passed:
        try:
            relation = connection.sql(query, params=list(parameters or []))
            if bounds.max_rows is not None:
                relation = relation.limit(bounds.max_rows + 1)
            return Rows(_table(relation.to_arrow_reader(_BATCH_ROWS), bounds, query))
        # Errors while the answer comes in are those of Arrow, with DuckDB's words.
        except (duckdb.Error, pa.ArrowException, OSError, MemoryError, RuntimeError) as error:
            raise _error(error, passed.which, bounds, query) from error


def _table(reader: pa.RecordBatchReader, bounds: Bounds, query: str) -> pa.Table:
    """The answer, which is counted as it comes in."""
    batches, rows, size_bytes = [], 0, 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size_bytes += batch.nbytes
        if bounds.max_rows is not None and rows > bounds.max_rows:
            raise QueryBoundError(
                f"SQL: the answer has more than {bounds.max_rows:,} rows; "
                "add LIMIT, aggregate, or allow more rows",
                query=query,
            )
        if size_bytes > bounds.memory_bytes:
            raise QueryBoundError(
                f"SQL: the answer alone needs more memory than it may have ({rows:,} rows are "
                f"{size_bytes:,} bytes); ask for less, or allow more",
                query=query,
            )
    return pa.Table.from_batches(batches, schema=reader.schema)


def _error(error: Exception, bound: str | None, bounds: Bounds, query: str) -> QueryError:
    """What became of a query, in the words of the bound that it met, or of DuckDB."""
    # DuckDB's advice is about settings, which are shut.
    text = str(error).split("\n\nPossible solutions")[0]
    if bound == "seconds":
        return QueryBoundError(f"SQL: stopped after {bounds.timeout_s:g} s; ask for less, or allow more")
    if bound == "memory" or isinstance(error, MemoryError) or any(word in text for word in _NO_MEMORY):
        return QueryBoundError(
            f"SQL: needs more memory than it may have; ask for less, or allow more ({text})"
        )
    if missing := _NO_TABLE.search(text):
        near = get_close_matches(missing[1].lower(), [*TABLES, *VIEWS], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join([*TABLES, *VIEWS])}"
        return QueryError(f"SQL: no table or view {missing[1]!r}; {hint}", query=query)
    return QueryError(f"SQL: {text}", query=query)


def _add(
    connection: duckdb.DuckDBPyConnection,
    lake: Tables,
    schema: str,
    names: Sequence[str],
    versions: Mapping[str, Version],
) -> list[str]:
    """Put tables and views, with those that they rest on, into a schema; return the files to be read.

    Opening a table reads its log, so no others are opened.
    """
    views = _with_parts(names)
    tables = {table for name in names for table in tables_of(name)}
    files = []
    for name in TABLES:
        if name in tables:
            files += register_version(connection, lake.table(name, versions[name]), schema, name)
    for name in views:
        connection.execute(f'CREATE VIEW "{schema}".{name} AS {view_sql(name, schema)}')
    return files


def _with_parts(names: Sequence[str]) -> list[str]:
    """The views among ``names`` and those that they build upon, each after its parts."""
    wanted = {name for name in names if name in VIEWS}
    for name in reversed(VIEWS):
        if name in wanted:
            wanted.update(part for part in VIEWS[name].builds_upon if part in VIEWS)
    return [name for name in VIEWS if name in wanted]


def _named(query: str) -> list[str]:
    """The tables and views whose names stand in the query."""
    known = [*TABLES, *VIEWS]
    if re.search(r"\b(show|information_schema|duckdb_\w+|pg_\w+)\b|\bdescribe\W*$", query, re.IGNORECASE):
        return known
    return [name for name in known if re.search(rf"\b{name}\b", query, re.IGNORECASE)]


def _is_joined_as_written(tree: dict[str, Any]) -> bool:
    """Whether every join has its condition: tables with commas between need an order to be found."""
    return not any(part.get("ref_type") == "CROSS" for part in _parts(tree))


def _check_reads(connection: duckdb.DuckDBPyConnection, text: str, query: str) -> dict[str, Any]:
    """Return the parsed statement; raise QueryError unless it is one that only reads, in all its parts."""
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"SQL: {error}", query=query) from error
    if len(statements) != 1:
        raise QueryError(f"SQL: expected one statement, found {len(statements)}", query=query)
    kind = statements[0].type
    if kind == duckdb.StatementType.MULTI:
        raise QueryError(
            "SQL: PIVOT without a list of values makes a type first, and the lake is read only; name the "
            "values: PIVOT … ON category IN ('car', 'van') USING count(*)",
            query=query,
        )
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryError(
            f"SQL: {kind.name} is not allowed; the lake is read only, ask with SELECT", query=query
        )
    if kind == duckdb.StatementType.EXPLAIN:
        text = _EXPLAIN.sub("", text, count=1)
    (serialised,) = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchone() or ("{}",)
    connection.execute("SELECT 1").fetchall()
    try:
        tree: dict[str, Any] = json.loads(serialised)
    except RecursionError as error:
        raise QueryError("SQL: nested too deep; write it with WITH, one step after the other") from error
    if tree.get("error", True):
        raise QueryError("SQL: only a SELECT can be asked or explained; the lake is read only", query=query)
    for part in _parts(tree):
        node = part.get("type")
        if isinstance(node, str) and node.endswith("_NODE") and node not in _READING_NODES:
            verb = node.removesuffix("_NODE").removesuffix("_QUERY")
            raise QueryError(f"SQL: {verb} is not allowed; the lake is read only", query=query)
        if str(part.get("function_name")).lower() in _FUNCTIONS_THAT_RUN_TEXT:
            raise QueryError(f"SQL: {part['function_name']}() is not allowed: it runs a text", query=query)
    return tree


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
