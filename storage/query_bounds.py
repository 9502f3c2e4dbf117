"""The bounds of a query: rows, memory, seconds; and a watch over what DuckDB does not keep by itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import QueryError

if TYPE_CHECKING:
    import duckdb

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_LOOK_EVERY_S = 0.02
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = 4096
# Beside what DuckDB counts there are long texts, lists and the answer itself.
_GROWTH, _GROWTH_BYTES = 2, 256 << 20


@dataclass(frozen=True)
class Bounds:
    """None is no limit; ``memory_bytes`` is DuckDB's, and that of the answer."""

    max_rows: int | None
    memory_bytes: int
    timeout_s: float | None


@dataclass
class Passed:
    """Which bound a query has passed: ``seconds``, ``memory``, or none yet."""

    which: str | None = None


def bytes_of(memory: str) -> int:
    """``500MB`` and ``4GiB`` as bytes. Raises QueryError for other words."""
    found = _MEMORY.fullmatch(memory.strip())
    if found is None:
        raise QueryError(f"memory limit {memory!r}: expected a number and a unit, such as 4GB")
    number, power, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[power.upper()])


@contextmanager
def bounded(connection: duckdb.DuckDBPyConnection, bounds: Bounds) -> Iterator[Passed]:
    """Interrupt the query of a connection when it has had its seconds, or the process has grown by far more
    than the query may use.

    DuckDB looks for the interrupt between the parts of its work: a single call of a function on long texts
    comes to its end first.
    """
    passed, done = Passed(), threading.Event()
    watch = threading.Thread(
        target=_watch, args=(connection, bounds, passed, done), name="query-bounds", daemon=True
    )
    watch.start()
    try:
        yield passed
    finally:
        done.set()
        watch.join()


def _watch(
    connection: duckdb.DuckDBPyConnection, bounds: Bounds, passed: Passed, done: threading.Event
) -> None:
    begin, at_first = time.monotonic(), _resident_bytes()
    most = _GROWTH * bounds.memory_bytes + _GROWTH_BYTES
    while not done.wait(_LOOK_EVERY_S):
        if bounds.timeout_s is not None and time.monotonic() - begin > bounds.timeout_s:
            passed.which = passed.which or "seconds"
        elif _resident_bytes() - at_first > most:
            passed.which = passed.which or "memory"
        if passed.which:
            # Again and again: one that comes before the work has begun is forgotten.
            connection.interrupt()


def _resident_bytes() -> int:
    """What the process has in memory; 0 where the system does not say."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
