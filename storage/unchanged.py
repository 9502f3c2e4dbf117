"""Which groups of rows a batch brings anew just as they are stored: those need no writing."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from storage.layout import layout_of

_UNIT = ["dataset", "__unit"]


def unchanged_keys(name: str, stored: pa.Table, rows: pa.Table, unit: str) -> dict[str, set[str]]:
    """The groups (data set to values of the column ``unit``) whose rows are stored already as they are.

    The batch that brought a row is no difference: it stays the one that brought the row as it is.
    """
    if not stored.num_rows:
        return {}
    old, new = (_sorted(table, name, unit) for table in (stored, rows))
    counts = (
        old.group_by(_UNIT).len().join(new.group_by(_UNIT).len(), on=[*_UNIT, "len"], how="inner").drop("len")
    )
    # As many rows of every group on both sides, in one order: row stands beside row.
    old, new = (frame.join(counts, on=_UNIT, how="semi", maintain_order="left") for frame in (old, new))
    columns = [column for column in old.columns if column not in {*_UNIT, "batch"}]
    same = pl.repeat(value=True, n=old.height, eager=True).alias("same")
    for column in columns:
        same &= old[column].eq_missing(new[column])
    groups = old.select(_UNIT).with_columns(same).group_by(_UNIT).agg(pl.col("same").all()).filter("same")
    unchanged: dict[str, set[str]] = {}
    for dataset, value, _ in groups.drop_nulls().iter_rows():
        unchanged.setdefault(dataset, set()).add(value)
    return unchanged


def _sorted(table: pa.Table, name: str, unit: str) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    order = [*layout_of(name).order, *(column for column in ("rule", "observed") if column in frame.columns)]
    return frame.with_columns(pl.col(unit).alias("__unit")).sort(*_UNIT, *order)
