"""Rows of a table by their places, some thousand at a time, without a copy of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Places = npt.NDArray[np.int64]
_TakesColumn = Callable[[Places], pa.Array]


def taking(rows: pa.Table, parts: Sequence[pa.Array]) -> Callable[[pa.Array], pa.Table]:
    """How the rows of each of ``parts`` are taken, by several threads; slices, where all are stretches.

    Texts are most of a table. To bring them into one piece and to take from that copies them twice, and where
    they lie in many pieces Arrow and polars bring them together anew each time. So their views are brought
    together, which are 16 bytes a text, and the texts are copied when they are taken.
    """
    if all(map(_is_stretch, parts)):
        return lambda part: rows.slice(part[0].as_py() if len(part) else 0, len(part))
    columns = [_column(column) for column in rows.columns]

    def take(part: pa.Array) -> pa.Table:
        places: Places = part.to_numpy()
        return pa.table([column(places) for column in columns], schema=rows.schema)

    return take


def _is_stretch(part: pa.Array) -> bool:
    """Whether places follow one another."""
    return bool((np.diff(part.to_numpy()) == 1).all())


def _column(column: pa.ChunkedArray) -> _TakesColumn:
    if column.null_count == len(column):
        return lambda places: pa.nulls(len(places), column.type)
    if not pa.types.is_string(column.type):
        whole = column.combine_chunks()
        return lambda places: whole.take(pa.array(places))
    if _is_constant(column):
        value = column[0]
        return lambda places: pa.repeat(value, len(places))
    return _texts(column)


def _is_constant(column: pa.ChunkedArray) -> bool:
    if column.null_count or column[0] != column[-1]:
        return False
    return bool(pc.all(pc.equal(column, column[0])).as_py())


def _texts(column: pa.ChunkedArray) -> _TakesColumn:
    whole = pa.concat_arrays(column.cast(pa.string_view()).chunks)
    _, buffer, *texts = whole.buffers()
    views = np.frombuffer(buffer, np.int64).reshape(-1, 2)[whole.offset :]
    valid = whole.is_valid().to_numpy(zero_copy_only=False) if whole.null_count else None

    def take(places: Places) -> pa.Array:
        known = None if valid is None else pa.array(valid[places]).buffers()[1]
        taken = pa.py_buffer(views.take(places, axis=0))
        found = pa.Array.from_buffers(pa.string_view(), len(places), [known, taken, *texts])
        return found.cast(pa.string())

    return take
