"""The lake: Delta tables under ``tables/``, files under ``artifacts/``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from storage.errors import CommitConflictError, LakeError, UnknownKeyError
from storage.files import Actions, Among, TableFiles, commit_files
from storage.handles import Handles
from storage.layout import Keys, may_differ
from storage.memory import use_c_memory
from storage.object_store import ObjectStore
from storage.s3_options import delta_options
from storage.schemas import TABLES

if TYPE_CHECKING:
    from storage.sql import Limits, Rows

# Signs on which delta-rs panics, or of which it makes others.
_NOT_IN_PATHS = re.compile(r"[\[\]^|\\\x00-\x1f]|%[0-9a-fA-F]{2}")

# Opening a table reads its newest checkpoint and the commits since. The log is shortened by
# :mod:`storage.retention`, which knows the versions that runs were made from; Delta's own clean-up does not.
_PROPERTIES = {"delta.checkpointInterval": "25", "delta.enableExpiredLogCleanup": "false"}

# Commits of other lanes that may come between before a batch gives way.
_TURNS = 15
_AT_ONCE = 8

Snapshot = dict[str, int]
"""Table name to version: what a run reads."""


class Lake:
    """The tables and files of one lake. Reading is always of one version per table."""

    def __init__(self, store: ObjectStore) -> None:
        if store.is_directory and (sign := _NOT_IN_PATHS.search(str(store.root))):
            raise LakeError(
                f"{store.url}: Delta has no tables in folders with {sign[0]!r} in their name; take another",
                url=store.url,
            )
        self.store = store

    @classmethod
    def open(cls, url: str | Path, options: Mapping[str, Any] | None = None) -> Lake:
        """Open the lake at ``url``. Raises LakeError where there is none."""
        lake = cls(ObjectStore.at(url, options))
        if not DeltaTable.is_deltatable(lake._address("objects"), lake._storage_options):
            raise LakeError(
                f"{lake.url}: no lake is here; `dropmill ingest BUCKET --lake {url}` makes one", url=lake.url
            )
        return lake

    @classmethod
    def create(cls, url: str | Path, options: Mapping[str, Any] | None = None) -> Lake:
        """Open the lake at ``url`` for writing; make the tables and columns that are not there yet.

        Raises LakeError where the store does not refuse a second put of the same key.
        """
        use_c_memory()
        lake = cls(ObjectStore.at(url, options))
        lake.store.probe_exclusive_create()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lake._create_table, TABLES))
        return lake

    def _create_table(self, name: str) -> None:
        table = DeltaTable.create(
            self._address(name),
            schema=TABLES[name],
            mode="ignore",
            name=name,
            configuration=_PROPERTIES,
            storage_options=self._storage_options,
        )
        _add_missing_columns(table, TABLES[name])

    @property
    def url(self) -> str:
        """The lake's address."""
        return self.store.url

    @property
    def artifacts(self) -> ObjectStore:
        """Where files live: checkpoints, models, engines, pictures."""
        return self.store.below("artifacts")

    def table(self, name: str, version: int | datetime | None = None) -> DeltaTable:
        """The Delta table ``name``, newest or as it was at a version or a moment."""
        if name not in TABLES:
            raise UnknownKeyError("lake", name, TABLES)
        try:
            if isinstance(version, int):
                return DeltaTable(self._address(name), version=version, storage_options=self._storage_options)
            table = DeltaTable(self._address(name), storage_options=self._storage_options)
            if isinstance(version, datetime):
                table.load_as_version(version)
            return table
        except TableNotFoundError as error:
            raise LakeError(f"{self.url}: table {name} is missing; is this a lake?", url=self.url) from error
        except DeltaError as error:
            raise LakeError(f"{self.url}: table {name} at {version}: {error}", url=self.url) from error

    def handles(self) -> Handles:
        """Tables that are kept open by who commits again and again."""
        return Handles(self.table, at_once=1 if self.store.is_directory else _AT_ONCE)

    def files(self, name: str, version: int | datetime | None = None) -> TableFiles:
        """The files of one version of a table."""
        return TableFiles(self.table(name, version), self.filesystem(name))

    def filesystem(self, name: str) -> pa_fs.FileSystem:
        """The folder of a table, as Arrow reads it."""
        if self.store.is_directory:
            return pa_fs.SubTreeFileSystem(self._address(name), pa_fs.LocalFileSystem())
        return pa_fs.PyFileSystem(DeltaStorageHandler(self._address(name), self._storage_options))

    def snapshot(self) -> Snapshot:
        """The newest version of every table."""
        return {name: self.table(name).version() for name in TABLES}

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        version: int | datetime | None = None,
    ) -> pa.Table:
        """Rows of a table as Arrow."""
        return self.files(name, version).read(columns=columns, where=where)

    def sql(
        self,
        query: str,
        *,
        parameters: Sequence[Any] | None = None,
        versions: Mapping[str, int] | None = None,
        at: datetime | str | None = None,
        **limits: Unpack[Limits],
    ) -> Rows:
        """Run one SELECT over the tables and views. See :func:`storage.sql.run_query`."""
        from storage.sql import run_query

        return run_query(self, query, parameters=parameters, versions=versions, at=at, **limits)

    def put(self, name: str, rows: pa.Table, *, keys: Sequence[str]) -> None:
        """Insert rows, replacing those with the same ``keys``; for the small tables (runs, models)."""
        places = rows.select(list(keys)).group_by(list(keys)).aggregate([]).to_pylist()
        predicate = " OR ".join(
            "(" + " AND ".join(f"{key} = {sql_text(str(row[key]))}" for key in keys) + ")" for row in places
        )
        for _ in range(10):
            try:
                write_deltalake(self.table(name), rows, mode="overwrite", predicate=predicate)
                return
            except CommitFailedError:
                continue
        raise CommitConflictError(
            f"{self.url}: table {name} is busy: ten commits in a row met another writer"
        )

    def _address(self, name: str) -> str:
        # Local tables go by path: a URL would have to be quoted, and names may hold anything.
        return (
            str(self.store.root / "tables" / name) if self.store.is_directory else f"{self.url}/tables/{name}"
        )

    @property
    def _storage_options(self) -> dict[str, str] | None:
        if self.store.is_directory:
            return None
        return {"conditional_put": "etag", **delta_options(self.store.options)}


class LaneCommit:
    """One batch's handles on the tables: what it reads and what it commits are the same version.

    Delta accepts the same transaction twice and only refuses a stale handle, so every commit is preceded by
    a look at the table's transaction of this lane, and made from the handle that was looked at. ``handles``
    are those of the batch before, on the same lake; without any the tables are opened as they are needed.
    """

    def __init__(self, lake: Lake, lane: str, number: int, handles: Handles | None = None) -> None:
        self.lane = lane
        self.number = number
        self._store = lake.store
        self._filesystem_of = lake.filesystem
        self._handles = handles or lake.handles()
        self._files: dict[str, TableFiles] = {}

    def look(self, *names: str) -> None:
        """See the newest version of tables: before a batch begins, never in its midst."""
        self._handles.refresh(*names)

    def has(self, name: str) -> bool:
        """Whether this batch is in the table already, from an attempt that was cut short."""
        return self._handles.transaction(name, self.lane) >= self.number

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        among: Among = (),
    ) -> pa.Table:
        """Rows as this batch sees them, that fulfil ``where`` and whose ``(dataset, column)`` is ``among``
        the given keys of every given column.
        """
        return self._files_of(name).read(columns=columns, where=where, among=among)

    def append(self, name: str, rows: pa.Table) -> None:
        """Add rows; nothing where the batch is in the table already."""
        self._commit(name, rows, None)

    def plan(self, row: pa.Table) -> None:
        """Write the batch's own row ahead of its work.

        It has a transaction of its own, because the batch's is for what the work brings. Raises
        CommitConflictError where another writer has planned that number, or still works on the one before: a
        later batch that is committed first would make the tables believe that they have the earlier one.
        """
        planned = self.planned()
        finished = self._handles.transaction("batches", self.lane)
        if planned != self.number - 1 or finished != planned:
            raise CommitConflictError(
                f"lane {self.lane}: batch {planned} was planned and batch {finished} is done; batch "
                f"{self.number} has to wait",
                lane=self.lane,
                batch=self.number,
            )
        self._write("batches", row, None, _plans_of(self.lane))

    def planned(self) -> int:
        """The number of the last batch that was planned on the lane; 0 before the first."""
        return self._handles.transaction("batches", _plans_of(self.lane))

    def finish(self, row: pa.Table) -> None:
        """Mark the batch done: the last commit of all."""
        self._commit("batches", row, f"lane = {sql_text(self.lane)} AND number = {self.number}")

    def replace(self, name: str, rows: pa.Table, *among: tuple[str, Keys]) -> None:
        """Replace, in one commit, all rows that are ``among``: pairs of a column and its keys (dataset to
        values), of which a row has to fulfil all.

        ``rows`` may only hold such rows. Files that hold none of them are not touched. Where another lane
        came between with data sets of its own, the same is done to what it has left.
        """
        if not self.has(name):
            files = self._files_of(name)
            self._replace(name, rows, among, files, files.replacing(self._store, rows, among))

    def prepare(
        self, pool: Executor, name: str, rows: pa.Table, *among: tuple[str, Keys]
    ) -> Callable[[], None]:
        """Begin :meth:`replace` in the pool: files are written that are in no table yet.

        What comes back commits them; it is called by whoever called this.
        """
        if self.has(name):
            return lambda: None
        files = self._files_of(name)
        actions = pool.submit(files.replacing, self._store, rows, among)
        return lambda: self._replace(name, rows, among, files, actions.result())

    def _replace(self, name: str, rows: pa.Table, among: Among, files: TableFiles, actions: Actions) -> None:
        datasets = {dataset for _, keys in among for dataset in keys}
        for _ in range(_TURNS):
            if not actions:
                return
            table = self._handles.table(name)
            try:
                made = commit_files(table, actions, self._properties(Transaction(self.lane, self.number)))
            except CommitFailedError as error:
                self._follow(name, files, datasets, error)
                files = self._files_of(name)
                actions = files.replacing(self._store, rows, among)
                continue
            self._handles.committed(name, made, self.lane, self.number)
            return
        raise self._conflict(name)

    def _follow(self, name: str, before: TableFiles, datasets: set[str], error: Exception) -> None:
        """See a newer version of a table, or raise where what came between may be about ``datasets``."""
        old = before.actions
        self._handles.refresh(name)
        del self._files[name]
        new = self._files_of(name).actions
        if self.has(name) or may_differ(old, new, datasets):
            raise self._conflict(name) from error

    def _files_of(self, name: str) -> TableFiles:
        if name not in self._files:
            self._files[name] = TableFiles(self._handles.table(name), self._filesystem_of(name))
        return self._files[name]

    def _commit(self, name: str, rows: pa.Table, predicate: str | None) -> None:
        if self.has(name) or (not rows.num_rows and predicate is None):
            return
        self._write(name, rows, predicate, self.lane)

    def _write(self, name: str, rows: pa.Table, predicate: str | None, app_id: str) -> None:
        table = self._handles.table(name)
        properties = self._properties(Transaction(app_id, self.number))
        before = table.version()
        try:
            if predicate is None:
                write_deltalake(table, rows, mode="append", commit_properties=properties)
            else:
                write_deltalake(
                    table, rows, mode="overwrite", predicate=predicate, commit_properties=properties
                )
        except CommitFailedError as error:
            raise self._conflict(name) from error
        if table.version() == before + 1:
            self._handles.committed(name, before + 1, app_id, self.number)

    def _properties(self, transaction: Transaction) -> CommitProperties:
        return CommitProperties(
            app_transactions=[transaction],
            custom_metadata={"lane": self.lane, "batch": str(self.number)},
            max_commit_retries=_TURNS,
        )

    def _conflict(self, name: str) -> CommitConflictError:
        return CommitConflictError(
            f"table {name}: another writer committed on lane {self.lane} during batch {self.number}",
            table=name,
            lane=self.lane,
            batch=self.number,
        )


def _add_missing_columns(table: DeltaTable, schema: pa.Schema) -> None:
    """Give a table of an older lake the columns that came since; they are null in the rows it has."""
    known = {field.name for field in table.schema().fields}
    missing = [field for field in schema if field.name not in known]
    if missing:
        table.alter.add_columns(DeltaSchema.from_arrow(pa.schema(missing)).fields)


def _plans_of(lane: str) -> str:
    return f"{lane}/plan"


def sql_text(value: str) -> str:
    """A text as a SQL literal."""
    return "'" + value.replace("'", "''") + "'"
