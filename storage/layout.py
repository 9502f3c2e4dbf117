"""How rows lie in files, so that a change reads and writes little of a large table.

The tables that samples are derived into lie in the order of (dataset, stem), in files of some thousand
images, however the rows came. What belongs to a group of samples is then in a file or two of every table, and
the statistics in Delta's log say in which. A change costs those files: as much in a lake of a million images
as in one of ten thousand where its samples are neighbours, as those of an upload are. Of samples from all
over every one costs a file of each table whose rows differ, some 12 ms of CPU to read and write it, half of
that for the columns however few rows there are. Smaller files make such changes cheaper and questions dearer:
with 2,048 rows a file questions took up to twice the CPU, with 1,024 up to three times, with 8,192 as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keys = Mapping[str, Iterable[str]]
"""Data set to values of a column."""
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Layout:
    """The order of a table's rows and how many make a file; without an order rows stay as they came."""

    rows_per_file: int
    order: tuple[str, ...] = ()


_SAMPLES = ("dataset", "stem")
LAYOUTS: dict[str, Layout] = {
    "images": Layout(2_048, (*_SAMPLES, "sample")),
    "mentions": Layout(2_048, (*_SAMPLES, "source")),
    "findings": Layout(4_096, (*_SAMPLES, "source", "instance")),
    "labels": Layout(4_096, (*_SAMPLES, "source", "instance")),
    "annotations": Layout(4_096, (*_SAMPLES, "source", "instance")),
    "masks": Layout(16_384, ("dataset", "sample", "source", "instance")),
    "categories": Layout(16_384, ("dataset", "source", "category_id")),
    "objects": Layout(262_144),
    # A row holds all events of its batch.
    "batches": Layout(64),
}
_SMALL_TABLE = Layout(16_384)
_BITS = 16


def layout_of(name: str) -> Layout:
    """The layout of a table."""
    return LAYOUTS.get(name, _SMALL_TABLE)


def in_files(name: str, rows: pa.Table) -> list[pa.Array]:
    """The places of the rows that make each file, in the order of their table; every data set has files of
    its own.
    """
    layout = layout_of(name)
    if not layout.order:
        return _cut(pa.array(np.arange(rows.num_rows)), layout.rows_per_file)
    order = _sorted(rows, layout.order)
    # The data sets follow one another as their names do, because sorted.
    found = pc.value_counts(rows["dataset"])
    sizes = found.field("counts").take(pc.sort_indices(found.field("values"))).to_pylist()
    files = []
    first = 0
    for size in sizes:
        files += _cut(order.slice(first, size), layout.rows_per_file)
        first += size
    return files


def _sorted(rows: pa.Table, keys: Sequence[str]) -> pa.Array:
    """The places of rows in the order of ``keys``, nulls last.

    Rows mostly come file by file and instance by instance, and a stable sort leaves that as it is.
    """
    wanted = list(keys)
    while wanted and _ascends(rows[wanted[-1]]):
        wanted.pop()
    ranks = [rank for key in reversed(wanted) if (rank := _ranks(rows[key])) is not None]
    if not ranks:
        return pa.array(np.arange(rows.num_rows))
    return pa.array(_by_rank(ranks[0]) if len(ranks) == 1 else np.lexsort(ranks))


def _by_rank(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of ranks in their order, as a stable sort has them.

    Numbers of 16 bits are sorted by counting, several times as fast as larger ones are by comparing.
    """
    order = ranks.astype(np.uint16).argsort(kind="stable")
    shift = _BITS
    while (higher := ranks >> shift).any():
        order = order[higher.astype(np.uint16)[order].argsort(kind="stable")]
        shift += _BITS
    return order


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64] | None:
    """The place of each value among the different ones in their order, nulls last; None where all are alike.

    Texts mostly come many times, and numbers are compared faster.
    """
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    different = encoded.dictionary
    if len(different) < 2:
        return None
    rank = np.empty(len(different), np.int64)
    rank[pc.sort_indices(different).to_numpy()] = np.arange(len(different))
    places: npt.NDArray[np.int64] = rank[encoded.indices.to_numpy()]
    return places


def _ascends(column: pa.ChunkedArray) -> bool:
    if column.null_count:
        return False
    return bool(pc.all(pc.less_equal(column.slice(0, len(column) - 1), column.slice(1))).as_py())


def _cut(places: pa.Array, rows_per_file: int) -> list[pa.Array]:
    """Equal parts of about that size."""
    if not len(places):
        return []
    parts = max(1, round(len(places) / rows_per_file))
    cuts = [len(places) * i // parts for i in range(parts + 1)]
    return [places.slice(begin, end - begin) for begin, end in pairwise(cuts)]


def may_hold(actions: pa.Table, column: str, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which files may hold rows whose ``(dataset, column)`` is among ``keys``, by their statistics.

    ``actions`` are the flattened add actions of a version. A file without statistics may hold anything.
    """
    found = np.zeros(actions.num_rows, bool)
    if not len(found):
        return found
    low, high = _bounds(actions, column)
    first, last = _bounds(actions, "dataset")
    known = np.array([a is not None and b is not None for a, b in zip(low, first, strict=True)], bool)
    for dataset, values in keys.items():
        chosen = np.array(sorted(set(values)), dtype=object)
        here = [a is not None and a <= dataset <= b for a, b in zip(first, last, strict=True)]
        places = np.flatnonzero(known & np.array(here, bool))
        if len(chosen) and len(places):
            begin = np.searchsorted(chosen, low[places], side="left")
            end = np.searchsorted(chosen, high[places], side="right")
            found[places] |= begin < end
    found |= ~known
    return found


def may_differ(before: pa.Table, after: pa.Table, datasets: Iterable[str]) -> bool:
    """Whether a table may hold other rows of ``datasets`` than before, by the files of its two versions."""
    kept = set(before["path"].to_pylist()) & set(after["path"].to_pylist())
    for actions in (before, after):
        changed = actions.filter(
            pa.array([path not in kept for path in actions["path"].to_pylist()], pa.bool_())
        )
        if any(may_hold(changed, "dataset", {name: [name]}).any() for name in datasets):
            return True
    return False


def _bounds(actions: pa.Table, column: str) -> tuple[Texts, Texts]:
    """The least and the greatest text of a column, file by file; both None where one is not known."""
    names = (f"min.{column}", f"max.{column}")
    if not set(names) <= set(actions.column_names):
        return np.full(actions.num_rows, None, dtype=object), np.full(actions.num_rows, None, dtype=object)
    low, high = (np.array(actions[name].to_pylist(), dtype=object) for name in names)
    low[high == np.array(None)] = None
    return low, high
