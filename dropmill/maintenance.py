"""What a lake needs from time to time: compaction, and the removal of what nobody reads any more."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from storage.compaction import Compacted, compact, needs_compaction
from storage.errors import CommitConflictError
from storage.lake import Lake
from storage.retention import RETENTION, vacuum
from storage.schemas import TABLES

log = logging.getLogger(__name__)

_WORTH_FILES = 8
_VACUUM_EVERY = timedelta(days=1)
_STATE = "maintenance.json"


@dataclass(kw_only=True)
class Maintained:
    """What a turn of maintenance did; nothing is also an answer."""

    compacted: dict[str, Compacted] = field(default_factory=dict)
    deleted: int = 0
    """Files that a vacuum deleted."""


def maintain(
    lake: Lake,
    *,
    stopping: Callable[[], bool] = lambda: False,
    retention: timedelta = RETENTION,
    now: datetime | None = None,
) -> Maintained:
    """Do what has become due: cheap to call (it reads the tables' logs), meant for quiet times.

    Tables of which compaction would write at least eight files anew are compacted; once a day files are
    deleted that no version of the last ``retention`` and no run's version needs. ``stopping`` is asked
    between two commits. A batch that comes between goes first: that table waits for the next turn.
    """
    done = Maintained()
    now = now or datetime.now(UTC)
    for name in TABLES:
        if stopping():
            return done
        if needs_compaction(lake, name) < _WORTH_FILES:
            continue
        try:
            done.compacted[name] = compact(lake, name, stopping=stopping)
        except CommitConflictError as error:
            log.info("compaction gave way", extra={"table": name, "why": str(error)})
    if not stopping() and now - _last_vacuum(lake) >= _VACUUM_EVERY:
        done.deleted = sum(len(paths) for paths in vacuum(lake, retention=retention).values())
        lake.artifacts.write(_STATE, json.dumps({"vacuumed_at": now.isoformat()}).encode())
    if done.compacted or done.deleted:
        log.info("maintained", extra={"tables": sorted(done.compacted), "deleted_files": done.deleted})
    return done


def _last_vacuum(lake: Lake) -> datetime:
    if lake.artifacts.head(_STATE) is None:
        return datetime.fromtimestamp(0, UTC)
    with lake.artifacts.open(_STATE) as file:
        try:
            return datetime.fromisoformat(json.loads(file.read())["vacuumed_at"])
        except (ValueError, KeyError, TypeError):
            return datetime.fromtimestamp(0, UTC)
