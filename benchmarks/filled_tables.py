"""Tables of a benchmark, written directly: columns given as arrays, the rest of the schema filled up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties

from storage import schemas
from storage.files import commit_files, write_files
from storage.lake import Lake


def add_rows(lake: Lake, name: str, rows: int, columns: Mapping[str, Any]) -> None:
    """Add ``rows`` rows to a table; an array has one value a row, anything else is the value of all rows."""
    made = {}
    for field in schemas.TABLES[name]:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            made[field.name] = pa.array(value).cast(field.type)
        elif isinstance(value, pa.Array):
            made[field.name] = value
        else:
            made[field.name] = pa.repeat(pa.scalar(value, field.type), rows)
    written = write_files(lake.store, name, pa.table(made, schema=schemas.TABLES[name]))
    commit_files(lake.table(name), written, CommitProperties())
