"""The answer of a query, and the ways out of it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import QueryError


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
        with in_python():
            frame = pl.from_arrow(self._table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def pandas(self) -> Any:
        """The rows as a pandas frame (needs pandas)."""
        with in_python():
            return self._table.to_pandas()

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of Python's values."""
        with in_python():
            rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def json(self) -> str:
        """The rows as a JSON list of objects; NaN and infinite numbers become null."""
        return json.dumps([_plain(row) for row in self.to_pylist()], ensure_ascii=False)

    def csv(self) -> str:
        """The rows as CSV with a header; lists and structs as JSON."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._table.column_names)
        for row in self.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])
        return text.getvalue()

    def parquet(self, path: str | Path) -> Path:
        """Write the rows to a Parquet file; return its path."""
        path = Path(path)
        pq.write_table(self._table, path, compression="zstd")
        return path

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


@contextmanager
def in_python() -> Iterator[None]:
    """What DuckDB can say and Python cannot: years after 9999, intervals in polars."""
    try:
        yield
    except (OverflowError, ValueError, pl.exceptions.PolarsError) as error:
        raise QueryError(
            f"SQL: the answer has a value that cannot be had in this way ({error}); ask for it as a text: "
            "column::VARCHAR"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _cell(value: Any) -> Any:
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, dict | list) else value
