"""What people ask a running service to do; its loop does it, so that one committer stays one."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Literal

from ingest.batch import Batch, Committer
from ingest.events import DatasetRule, Event
from ingest.reconcile import changes_of, cut, look
from storage.object_store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class Command:
    """Something to do; without ``keys``, with all that are concerned."""

    action: Literal["list", "retry", "drop"]
    keys: tuple[str, ...] = ()
    prefix: str = ""


class Commands:
    """A short queue between the HTTP side and the loop."""

    def __init__(self, most: int = 100) -> None:
        self._queue: queue.Queue[Command] = queue.Queue(most)

    def ask(self, command: Command) -> bool:
        """Put a command into the queue; False where it is full."""
        try:
            self._queue.put_nowait(command)
        except queue.Full:
            return False
        return True

    def next(self) -> Command | None:
        """The next command, if there is one."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None


def work_on_quarantine(
    command: Command,
    committer: Committer,
    store: ObjectStore,
    rule: DatasetRule,
    *,
    batch_objects: int = 2_000,
) -> list[Batch]:
    """Try objects of the quarantine once more, or take them out of it; returns the batches that were run.

    Keys that are not in quarantine are left alone. A dropped object stays out until its content changes.
    """
    there = dict(committer.ledger.quarantined())
    keys = [key for key in command.keys if key in there] if command.keys else list(there)
    if command.action == "drop":
        events = [
            Event(
                action="drop", key=key, version=there[key].version, size_bytes=0, dataset=there[key].dataset
            )
            for key in keys
        ]
    else:
        found = look(store, keys)
        events = [committer.ledger.put_event(info, rule) for _, info in found if info is not None]
        events += changes_of(committer, rule, [(key, None) for key, info in found if info is None])
    batches = []
    for chunk in cut(events, batch_objects):
        batch = committer.plan(chunk)
        committer.run(batch)
        batches.append(batch)
    return batches
