"""Rows of a table in the order of their samples, from any key on, without reading what comes before it.

Tables lie in the order of (dataset, stem), and the log has the bounds of every file. So a page of a gallery
of a million images reads the one or two files in which it begins; that files overlap is allowed for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from dropmill.page.open_lake import OpenLake
from storage.files import TableFiles
from storage.layout import may_hold


class Key(NamedTuple):
    """A sample's place in the order of all samples."""

    dataset: str
    stem: str
    sample: str


class Step(NamedTuple):
    """Rows in order, and how far the walk has come."""

    rows: pl.DataFrame
    share: float
    """Of the files that there were to look at, 0 to 1."""
    reached: Key | None
    """All keys up to this one have been seen; None after the last step."""


KEY_COLUMNS = ("dataset", "stem", "sample")


def walk(
    lake: OpenLake,
    table: str,
    *,
    columns: Sequence[str],
    after: Key | None,
    dataset: str | None,
    where: pl.Expr | None = None,
) -> Iterator[Step]:
    """Rows with a key beyond ``after``, of all data sets or one, in the order of their keys.

    Every file that is read is a step, which may be empty.
    """
    files, places = lake.places(table)
    begin = (after.dataset, after.stem) if after else ("", "")
    wanted = [
        place
        for place in places
        if place.high >= begin and (dataset is None or place.low[0] <= dataset <= place.high[0])
    ]
    condition = (
        pl.col("dataset").is_not_null() & pl.col("stem").is_not_null() & pl.col("sample").is_not_null()
    )
    if dataset is not None:
        condition &= pl.col("dataset") == dataset
    if after is not None:
        condition &= beyond(after)
    if where is not None:
        condition &= where
    waiting: pl.DataFrame | None = None
    for number, place in enumerate(wanted):
        read = lake.rows(files, place.path, columns).filter(condition)
        waiting = read if waiting is None else pl.concat([waiting, read])
        if number + 1 < len(wanted):
            low = wanted[number + 1].low
            done = (pl.col("dataset") < low[0]) | ((pl.col("dataset") == low[0]) & (pl.col("stem") < low[1]))
            ready, waiting = waiting.filter(done), waiting.filter(~done)
        else:
            ready, waiting = waiting, None
            low = None
        reached = None if low is None else Key(*low, "")
        yield Step(ready.sort(KEY_COLUMNS, maintain_order=True), (number + 1) / len(wanted), reached)


def beyond(key: Key) -> pl.Expr:
    """The condition that a row's key comes after ``key``."""
    dataset, stem, sample = (pl.col(name) for name in KEY_COLUMNS)
    return (dataset > key.dataset) | (
        (dataset == key.dataset) & ((stem > key.stem) | ((stem == key.stem) & (sample > key.sample)))
    )


def rows_of(lake: OpenLake, table: str, columns: Sequence[str], keys: pl.DataFrame) -> pl.DataFrame:
    """All rows of some samples; ``keys`` has the columns ``dataset`` and ``stem``, and perhaps ``sample``."""
    files, places = lake.places(table)
    on = [name for name in KEY_COLUMNS if name in keys.columns]
    stems: dict[str, list[str]] = {}
    for name, stem in keys.select("dataset", "stem").unique().sort("dataset", "stem").iter_rows():
        stems.setdefault(name, []).append(stem)
    parts = [
        lake.rows(files, place.path, columns).join(keys.select(on).unique(), on=on, how="semi")
        for place in places
        if any(_may_hold(place.low, place.high, name, found) for name, found in stems.items())
    ]
    return pl.concat(parts) if parts else _empty(files, columns)


def rows_by_sample(
    lake: OpenLake, table: str, columns: Sequence[str], samples: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    """Rows of some samples (data set to samples) of a table that lies in their order without stems."""
    files, _ = lake.places(table)
    paths = files.actions["path"].filter(pa.array(may_hold(files.actions, "sample", samples))).to_pylist()
    keys = pl.DataFrame(
        [(dataset, sample) for dataset, names in samples.items() for sample in names],
        schema={"dataset": pl.String, "sample": pl.String},
        orient="row",
    )
    parts = [
        lake.rows(files, path, columns).join(keys, on=["dataset", "sample"], how="semi") for path in paths
    ]
    return pl.concat(parts) if parts else _empty(files, columns)


def _empty(files: TableFiles, columns: Sequence[str]) -> pl.DataFrame:
    frame = pl.from_arrow(files.rows_of([], columns=columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _may_hold(low: tuple[str, str], high: tuple[str, str], dataset: str, stems: Sequence[str]) -> bool:
    """Whether a file with such bounds may have one of the stems, which are in order."""
    if not low[0] <= dataset <= high[0]:
        return False
    least = low[1] if low[0] == dataset else ""
    place = bisect_left(stems, least)
    return place < len(stems) and (high[0] != dataset or stems[place] <= high[1])
