"""How DuckDB reads one version of a Delta table.

Its own Parquet reader takes the files of the version where that reads the same rows; everything else goes
through an Arrow data set. Measured over ten million annotations (``benchmarks/sql.py``), the reader is two
to three times faster than the data set, because it decodes in parallel and skips by its own statistics.
"""

from __future__ import annotations

from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from storage.errors import LakeError
from storage.files import is_plain

_GLOB = frozenset("*?[{")
_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.list_(pa.float64()): "DOUBLE[]",
}


def register_version(
    connection: duckdb.DuckDBPyConnection, table: DeltaTable, schema: str, name: str
) -> list[str]:
    """Make ``schema.name`` a view of that version; return the files that it has to be allowed to read."""
    files = _readable_files(table)
    if files:
        listed = ", ".join(map(_text, files))
        view = f"SELECT * FROM read_parquet([{listed}], union_by_name = {_some_lack_columns(table)})"
        connection.execute(f'CREATE VIEW "{schema}".{name} AS {view}')
        if _sees_all_columns(connection, table, schema, name):
            return files
        connection.execute(f'DROP VIEW "{schema}".{name}')
    held = f"{schema}/{name}"
    connection.register(held, table.to_pyarrow_dataset())
    connection.execute(f'CREATE VIEW "{schema}".{name} AS SELECT * FROM "{held}"')
    return []


def _readable_files(table: DeltaTable) -> list[str]:
    """The files of the version as local paths; none where the files alone do not say what the rows are."""
    if not is_plain(table):
        return []
    # Delta quotes the folder as in a URL, also where it gives a path.
    files = [file if "://" in file else unquote(file) for file in table.file_uris()]
    if any("://" in file or not _GLOB.isdisjoint(file) for file in files):
        return []
    return files


def _some_lack_columns(table: DeltaTable) -> bool:
    """Whether a file may be older than a column: its statistics do not speak of it, as they do of all."""
    actions = pa.table(table.get_add_actions(flatten=True))
    plain = (field for field in pa.schema(table.schema().to_arrow()) if not pa.types.is_nested(field.type))
    known = (f"null_count.{field.name}" for field in plain)
    return any(name not in actions.column_names or actions[name].null_count for name in known)


def _sees_all_columns(
    connection: duckdb.DuckDBPyConnection, table: DeltaTable, schema: str, name: str
) -> bool:
    try:
        found = connection.execute(f'DESCRIBE "{schema}".{name}').fetchall()
    except duckdb.Error:
        return False
    seen = [(str(row[0]), str(row[1])) for row in found]
    fields = pa.schema(table.schema().to_arrow())
    wanted = [(field.name, _DUCKDB_TYPES.get(_plain_type(field.type))) for field in fields]
    return len(seen) == len(wanted) and all(
        want[0] == have[0] and want[1] in (None, have[1]) for want, have in zip(wanted, seen, strict=True)
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _text(value: str) -> str:
    if "\x00" in value:
        raise LakeError(f"{value!r} is no path of a file")
    return "'" + value.replace("'", "''") + "'"
