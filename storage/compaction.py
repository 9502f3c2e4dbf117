"""Small and overlapping files of a table become files of its layout, a stretch of keys at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError

from storage.errors import CommitConflictError
from storage.files import TableFiles, commit_files, write_files
from storage.lake import Lake
from storage.layout import Layout, layout_of

# What is sorted in memory at once; more is taken in parts of the key's range.
_ROWS_AT_ONCE = 1_000_000
_SMALL = 0.5


@dataclass(frozen=True)
class Compacted:
    """What compaction made of a table's files."""

    files_before: int = 0
    files_after: int = 0
    rows_written: int = 0


@dataclass(frozen=True)
class _File:
    path: str
    rows: int
    dataset: str | None
    """None where the file holds several data sets, or its statistics do not say."""
    low: str
    high: str
    written_at: int


def compact(lake: Lake, name: str, *, stopping: Callable[[], bool] = lambda: False) -> Compacted:
    """Write the small and the overlapping files of a table anew, each stretch in a commit of its own.

    ``stopping`` is asked between two commits. Versions that were there stay readable until a vacuum.
    Raises CommitConflictError where another writer commits at the same time; what was done stays done.
    """
    files = lake.files(name)
    before = files.actions.num_rows
    written = 0
    for stretch in _stretches(_described(files), layout_of(name)):
        if stopping():
            break
        paths = [file.path for file in stretch]
        adds = [
            action
            for rows in _in_parts(files, stretch, layout_of(name))
            for action in write_files(lake.store, name, rows, data_change=False)
        ]
        properties = CommitProperties(custom_metadata={"maintenance": "compaction"})
        try:
            made = commit_files(files.table, [*files.removing(paths, data_change=False), *adds], properties)
            # Not the newest: what others commit meanwhile is a conflict for the next stretch.
            files.table.load_as_version(made)
        except CommitFailedError as error:
            raise CommitConflictError(
                f"{lake.url}: table {name}: another writer committed during compaction", table=name
            ) from error
        written += sum(file.rows for file in stretch)
    return Compacted(before, files.actions.num_rows, written)


def needs_compaction(lake: Lake, name: str) -> int:
    """How many files compaction would write anew."""
    return sum(len(stretch) for stretch in _stretches(_described(lake.files(name)), layout_of(name)))


def _described(files: TableFiles) -> list[_File]:
    described = []
    for row in files.actions.to_pylist():
        first, last = row.get("min.dataset"), row.get("max.dataset")
        described.append(
            _File(
                path=row["path"],
                rows=row["num_records"] or 0,
                dataset=first if first == last else None,
                low=row.get("min.stem") or "",
                high=row.get("max.stem") or "",
                written_at=row["modification_time"],
            )
        )
    return described


def _stretches(files: Sequence[_File], layout: Layout) -> Iterator[list[_File]]:
    """Groups of files to be written anew together: neighbours that are small, and those that overlap."""
    if "stem" not in layout.order:
        small = sorted(
            (file for file in files if file.rows < _SMALL * layout.rows_per_file),
            key=lambda file: (file.written_at, file.path),
        )
        while len(small) > 1:
            together = [small.pop(0)]
            while small and sum(file.rows for file in together) < layout.rows_per_file:
                together.append(small.pop(0))
            if len(together) > 1:
                yield together
        return
    mixed = [file for file in files if file.dataset is None]
    if mixed:
        # They take along what they overlap with in a later turn, when it is known where their rows lie.
        yield mixed
    stretch: list[_File] = []
    for file in sorted(
        (file for file in files if file.dataset is not None),
        key=lambda file: (file.dataset, file.low, file.high),
    ):
        if stretch and not _belongs(stretch, file, layout):
            if _worth(stretch, layout):
                yield stretch
            stretch = []
        stretch.append(file)
    if _worth(stretch, layout):
        yield stretch


def _belongs(stretch: Sequence[_File], file: _File, layout: Layout) -> bool:
    if file.dataset != stretch[0].dataset:
        return False
    if file.low < max(one.high for one in stretch):
        return True
    small = _SMALL * layout.rows_per_file
    rows = sum(one.rows for one in stretch)
    return rows < layout.rows_per_file and (file.rows < small or stretch[-1].rows < small)


def _worth(stretch: Sequence[_File], layout: Layout) -> bool:
    """Whether a stretch becomes better: two files whose bounds touch after a cut stay as they are."""
    if not stretch:
        return False
    return len(stretch) > 1 or stretch[0].rows > 2 * layout.rows_per_file


def _in_parts(files: TableFiles, stretch: Sequence[_File], layout: Layout) -> Iterator[pa.Table]:
    """The rows of a stretch, in parts that fit into memory: by ranges of the key where there is an order."""
    paths = [file.path for file in stretch]
    rows = sum(file.rows for file in stretch)
    if rows <= _ROWS_AT_ONCE or "stem" not in layout.order:
        yield files.rows_of(paths)
        return
    stems = files.rows_of(paths, columns=["stem"])["stem"]
    places = pa.array([rows * i // (rows // _ROWS_AT_ONCE + 1) for i in range(1, rows // _ROWS_AT_ONCE + 1)])
    cuts = sorted(set(stems.take(pc.sort_indices(stems).take(places)).to_pylist()))
    del stems
    stem = pc.field("stem")
    yield files.rows_of(paths, where=stem.is_null() | (stem < cuts[0]))
    for index, cut in enumerate(cuts):
        below = cuts[index + 1 : index + 2]
        yield files.rows_of(paths, where=(stem >= cut) & (stem < below[0]) if below else stem >= cut)
