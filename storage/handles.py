"""Tables that stay open from one batch to the next: of their logs only what is new is read.

To open a table is to read all commits since its last checkpoint, twice, and to ask for its transactions reads
them once more: on an object store some hundred requests a batch. A handle that is kept needs two.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from deltalake import DeltaTable


@dataclass
class _Kept:
    table: DeltaTable
    version: int
    """The version that ``transactions`` are of; that of the handle, or of our own commit since."""
    transactions: dict[str, int] = field(default_factory=dict)


class Handles:
    """Handles of the tables that ``reach`` opens, each at the version that it was last refreshed to."""

    def __init__(self, reach: Callable[[str], DeltaTable], *, at_once: int = 1) -> None:
        """``at_once`` are refreshed at the same time, where most of that is waiting for a store."""
        self._reach = reach
        self._at_once = at_once
        self._kept: dict[str, _Kept] = {}

    def refresh(self, *names: str) -> None:
        """Bring tables to their newest version."""
        if len(names) == 1 or self._at_once == 1:
            for name in names:
                self._refresh(name)
            return
        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(self._refresh, names))

    def table(self, name: str) -> DeltaTable:
        """A table as it was last looked at."""
        if name not in self._kept:
            self._refresh(name)
        return self._kept[name].table

    def transaction(self, name: str, app_id: str) -> int:
        """The last transaction of an application in a table as last looked at; 0 where there is none."""
        table = self.table(name)
        kept = self._kept[name]
        if table.version() > kept.version:
            kept.version, kept.transactions = table.version(), {}
        if app_id not in kept.transactions:
            kept.transactions[app_id] = table.transaction_version(app_id) or 0
        return kept.transactions[app_id]

    def committed(self, name: str, version: int, app_id: str, number: int) -> None:
        """Note that we have committed that transaction as ``version``, which the handle may not have seen."""
        kept = self._kept[name]
        if version == kept.version + 1:
            kept.version = version
            kept.transactions[app_id] = number

    def forget(self) -> None:
        """Open everything anew the next time: after a conflict, or an error that leaves doubts."""
        self._kept.clear()

    def _refresh(self, name: str) -> None:
        kept = self._kept.get(name)
        if kept is None:
            table = self._reach(name)
            self._kept[name] = _Kept(table, table.version())
        else:
            kept.table.update_incremental()
