"""The files of the tables: written in their layout, and replaced file by file in one commit.

Delta's own overwrite with a predicate looks at every file for a list of more than twenty names, and writes
what it keeps of many files as one. Here the statistics choose the files, each is written anew for itself, and
new rows go where their neighbours are.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from storage.errors import LakeError
from storage.layout import Keys, in_files, may_hold
from storage.object_store import ObjectStore
from storage.schemas import TABLES
from storage.taking import taking
from storage.unchanged import unchanged_keys

_ROW_GROUP = 65_536
_FORMAT = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(pre_buffer=True)
)
_WRITERS = 4
_ROWS_HELD = 1_000_000
# Texts of which the log keeps the range: those that rows are looked up by, none of which is long.
_RANGED = frozenset(
    {
        "dataset",
        "stem",
        "sample",
        "source",
        "key",
        "category",
        "split",
        "rule",
        "state",
        "kind",
        "lane",
        "run",
    }
)
_UNIQUE = frozenset({"segmentation", "attributes", "changes"})
# Of tables that have one row for a sample, or hardly more.
_UNIQUE_IN = {
    "images": frozenset({"sample", "stem", "key", "uri", "version"}),
    "mentions": frozenset({"source", "ref", "stem"}),
}

Actions = list[AddAction | RemoveAction]
Among = Sequence[tuple[str, Keys]]
"""Columns with their keys: rows whose (dataset, column) is among the keys, for each of the columns."""


class TableFiles:
    """The files of a table's handle: rows from those that matter, and what replaces them."""

    def __init__(self, table: DeltaTable, filesystem: pa_fs.FileSystem) -> None:
        self.table = table
        self.name = table.metadata().name
        self._filesystem = filesystem
        self._version = -1
        # Files never change, and a batch looks at the same ones several times.
        self._read: dict[str, pa.Table] = {}
        self._reading: dict[str, Lock] = {}

    def read(
        self, *, columns: Sequence[str] | None = None, where: pc.Expression | None = None, among: Among = ()
    ) -> pa.Table:
        """Rows that fulfil ``where`` and are ``among``; files that cannot hold any are not opened."""
        candidates = self._candidates(among)
        if not candidates:
            empty = TABLES[self.name].empty_table()
            return empty.select(list(columns)) if columns else empty
        if among and self._are_few(candidates):
            rows = self._among(candidates, among)
            if where is not None:
                rows = rows.filter(where)
            return rows.select(list(columns)) if columns else rows
        if among:
            where = _all_among(among) if where is None else _all_among(among) & where
        return self.rows_of(candidates, columns=columns, where=where)

    def replacing(self, store: ObjectStore, rows: pa.Table, among: Among) -> Actions:
        """The actions that put ``rows`` in place of all rows that are ``among``; the files are written.

        Groups (by the last column of ``among``) that are stored just as ``rows`` have them stay where they
        are, with the batch that brought them; where that would mean to look at very many rows, all are
        written anew.
        """
        candidates = self._candidates(among)
        if not candidates:
            return [*write_files(store, self.name, rows)]
        if few := self._are_few(candidates):
            unit, keys = among[-1]
            stay = unchanged_keys(self.name, self._among(candidates, among), rows, unit)
            if stay:
                rows = rows.filter(pc.invert(rows_among(rows, [(unit, stay)])))
                keys = {dataset: set(values) - stay.get(dataset, set()) for dataset, values in keys.items()}
                among = [*among[:-1], (unit, keys)]
                candidates = self._candidates(among)
        with ThreadPoolExecutor(_WRITERS) as pool:
            if few:
                counts = pool.map(lambda path: rows_among(self._held(path), among).true_count, candidates)
            else:
                condition = _all_among(among)
                counts = pool.map(lambda path: self._part([path]).count_rows(filter=condition), candidates)
            touched = [path for path, count in zip(candidates, counts, strict=True) if count]
            owners = self._owners(touched, rows)

            def anew(index: int) -> list[AddAction]:
                held = self._held(touched[index]) if few else self._whole(touched[index])
                new = rows.filter(pa.array(owners == index))
                return write_files(
                    store, self.name, pa.concat_tables([*_without(held, rows_among(held, among)), new])
                )

            written = [action for actions in pool.map(anew, range(len(touched))) for action in actions]
        written += write_files(store, self.name, rows.filter(pa.array(owners == -1)) if touched else rows)
        return [*self.removing(touched), *written]

    def removing(self, paths: Sequence[str], *, data_change: bool = True) -> list[RemoveAction]:
        """The actions that take files out of the table."""
        sizes = dict(
            zip(self.actions["path"].to_pylist(), self.actions["size_bytes"].to_pylist(), strict=True)
        )
        now = int(time.time() * 1000)
        return [RemoveAction(path, data_change, now, sizes[path], {}) for path in paths]

    def rows_of(
        self,
        paths: Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of some files."""
        rows = self._part(paths).to_table(columns=list(columns) if columns else None, filter=where)
        return plain(rows, self.name)

    @property
    def actions(self) -> pa.Table:
        """The flattened add actions: path, size, and the statistics of every file."""
        self._look()
        return self._actions

    def _look(self) -> None:
        """Read the list of files, where the handle has moved on since the last time."""
        if self._version != self.table.version():
            if not is_plain(self.table):
                raise LakeError(
                    f"table {self.name}: another writer gave it partitions, deletion vectors or renamed "
                    "columns; its files alone do not say what its rows are",
                    table=self.name,
                )
            self._actions = pa.table(self.table.get_add_actions(flatten=True))
            self._schema = pa.schema(self.table.schema().to_arrow())
            # Last: another thread may read while this one writes.
            self._version = self.table.version()

    def _candidates(self, among: Among) -> list[str]:
        mask = np.ones(self.actions.num_rows, bool)
        if not len(mask):
            return []
        for column, keys in among:
            mask &= may_hold(self.actions, column, keys)
        chosen: list[str] = self.actions["path"].filter(pa.array(mask)).to_pylist()
        return chosen

    def _are_few(self, paths: Sequence[str]) -> bool:
        """Whether the rows of files are few enough to stay in memory while the batch is worked on."""
        chosen = pc.is_in(self.actions["path"], pa.array(paths, pa.string()))
        rows = pc.sum(self.actions["num_records"].filter(chosen)).as_py()
        return (rows or 0) <= _ROWS_HELD

    def _held(self, path: str) -> pa.Table:
        # Rows are looked at while what replaces them is made ready: nobody reads what another is reading.
        with self._reading.setdefault(path, Lock()):
            if path not in self._read:
                self._read[path] = self._whole(path)
            return self._read[path]

    def _whole(self, path: str) -> pa.Table:
        """All rows of a file; a scan, which files that lack newer columns need, would take twice as long."""
        self._look()
        with self._filesystem.open_input_file(path) as file:
            rows = pq.ParquetFile(file, pre_buffer=True).read(use_threads=False)
        known = set(rows.column_names) >= set(self._schema.names)
        return plain(rows, self.name) if known else self.rows_of([path])

    def _among(self, paths: Sequence[str], among: Among) -> pa.Table:
        with ThreadPoolExecutor(_WRITERS) as pool:
            found = pool.map(lambda path: (held := self._held(path)).filter(rows_among(held, among)), paths)
            return pa.concat_tables([TABLES[self.name].empty_table(), *found])

    def _part(self, paths: Sequence[str]) -> pads.Dataset:
        self._look()
        fragments = [_FORMAT.make_fragment(path, self._filesystem) for path in paths]
        return pads.FileSystemDataset(fragments, self._schema, _FORMAT, self._filesystem)

    def _owners(self, touched: Sequence[str], rows: pa.Table) -> np.ndarray:
        """The touched file that each row lies within, by place in ``touched``; -1 where there is none."""
        owners = np.full(rows.num_rows, -1)
        place = {path: index for index, path in enumerate(self.actions["path"].to_pylist())}
        columns = [column for column in ("dataset", "stem") if column in rows.column_names]
        for index, path in enumerate(touched):
            inside = owners == -1
            for column in columns:
                low, high = (self._statistic(bound, column, place[path]) for bound in ("min", "max"))
                if low is None or high is None:
                    inside[:] = False
                    break
                within = pc.and_(pc.greater_equal(rows[column], low), pc.less_equal(rows[column], high))
                inside &= within.fill_null(False).to_numpy()
            owners[inside] = index
        return owners

    def _statistic(self, bound: str, column: str, place: int) -> str | None:
        name = f"{bound}.{column}"
        return self.actions[name][place].as_py() if name in self.actions.column_names else None


def write_files(
    store: ObjectStore, name: str, rows: pa.Table, *, data_change: bool = True
) -> list[AddAction]:
    """Write rows as files of the table ``name``; they belong to it once the actions are committed."""
    places = in_files(name, rows)
    take = taking(rows, places)

    def written(part: pa.Array) -> AddAction:
        return _write(store, name, take(part), data_change=data_change)

    if len(places) == 1:
        return [written(places[0])]
    with ThreadPoolExecutor(_WRITERS) as pool:
        return list(pool.map(written, places))


def commit_files(
    table: DeltaTable, actions: Sequence[AddAction | RemoveAction], properties: CommitProperties
) -> int:
    """Commit to exactly the version that ``table`` is of; CommitFailedError where there is a newer one.

    Returns the version that was made; the handle stays where it was. Delta would let a removal through that
    another writer's compaction has already made: rows would be doubled. So nothing is rebased, and whoever
    meets another writer looks again.
    """
    properties.max_commit_retries = 0
    table.create_write_transaction(list(actions), "append", table.schema(), commit_properties=properties)
    return table.version() + 1


def is_plain(table: DeltaTable) -> bool:
    """Whether the rows of a version are those of its files: nothing partitioned, deleted inside, renamed."""
    protocol = table.protocol()
    return (
        protocol.min_reader_version == 1
        and not protocol.reader_features
        and not table.metadata().partition_columns
    )


def rows_among(rows: pa.Table, among: Among) -> pa.BooleanArray:
    """Which rows are among the keys of every column."""
    mask = np.ones(rows.num_rows, bool)
    for column, keys in among:
        found = np.zeros(rows.num_rows, bool)
        for dataset, values in keys.items():
            names = pc.is_in(rows[column], pa.array(list(values), pa.string()))
            found |= pc.and_(names, pc.equal(rows["dataset"], dataset)).fill_null(False).to_numpy()
        mask &= found
    return pa.array(mask)


def _without(rows: pa.Table, mask: pa.BooleanArray) -> list[pa.Table]:
    """Rows but those of ``mask``, as the stretches between them: no value is copied."""
    gone = np.concatenate([[False], mask.to_numpy(zero_copy_only=False), [False]]).astype(np.int8)
    changes = np.flatnonzero(np.diff(gone)).tolist()
    cuts = [0, *changes, rows.num_rows]
    return [
        rows.slice(begin, end - begin)
        for begin, end in zip(cuts[0::2], cuts[1::2], strict=True)
        if begin < end
    ]


def is_among(column: str, keys: Keys) -> pc.Expression:
    """The filter "(dataset, column) is among keys"."""
    expression = pads.scalar(False)
    for dataset, values in keys.items():
        names = pa.array(sorted(set(values)), pa.string())
        if len(names):
            term = (pads.field("dataset") == dataset) & pads.field(column).isin(names)
            expression = expression | term
    return expression


def plain(rows: pa.Table, name: str) -> pa.Table:
    """Rows in the types of the table ``name``: readers may hand back views or large strings."""
    schema = TABLES[name]
    names = [column for column in schema.names if column in rows.column_names]
    return rows.select(names).cast(pa.schema([schema.field(column) for column in names]))


def _all_among(among: Sequence[tuple[str, Keys]]) -> pc.Expression:
    expression = pads.scalar(True)
    for column, keys in among:
        expression = expression & is_among(column, keys)
    return expression


def _write(store: ObjectStore, name: str, rows: pa.Table, *, data_change: bool) -> AddAction:
    path = f"part-{uuid.uuid4()}.zstd.parquet"
    file = pa.BufferOutputStream()
    pq.write_table(
        rows,
        file,
        compression="zstd",
        row_group_size=_ROW_GROUP,
        use_dictionary=_repeating(name, rows.schema),
    )
    data = file.getvalue().to_pybytes()
    store.write(f"tables/{name}/{path}", data)
    return AddAction(
        path=path,
        size=len(data),
        partition_values={},
        modification_time=int(time.time() * 1000),
        data_change=data_change,
        stats=json.dumps(_statistics(rows)),
    )


def _repeating(name: str, schema: pa.Schema) -> list[str]:
    """The columns whose values come again: of others a dictionary makes files larger, and slower to write."""
    unique = _UNIQUE | _UNIQUE_IN.get(name, frozenset())
    return [
        field.name
        for field in schema
        if field.name not in unique
        and not (pa.types.is_floating(field.type) or pa.types.is_nested(field.type))
    ]


def _statistics(rows: pa.Table) -> dict[str, object]:
    """The statistics of a file, as Delta's protocol has them ("Per-file Statistics")."""
    low: dict[str, object] = {}
    high: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for field in rows.schema:
        column = rows[field.name]
        if pa.types.is_nested(field.type):
            continue
        nulls[field.name] = column.null_count
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        if not (number or field.name in _RANGED) or column.null_count == len(column):
            continue
        least, most = pc.min_max(column).as_py().values()
        # JSON has no NaN and no infinity; a NaN that hides among numbers makes no range wrong.
        if number and not (math.isfinite(least) and math.isfinite(most)):
            continue
        low[field.name], high[field.name] = least, most
    return {"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}
