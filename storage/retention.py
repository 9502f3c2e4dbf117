"""What may go: files that no version in use needs, and the log before the oldest version in use.

Versions that runs and models were made from (``runs.snapshot``, ``models.snapshot``) stay readable however
old they are: their files are kept, and so is the log from the checkpoint before them on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from storage.errors import LakeError
from storage.lake import Lake
from storage.schemas import TABLES

RETENTION = timedelta(days=7)
_LEAST = timedelta(hours=1)
_LOG_RETENTION = timedelta(days=30)
_LOG_FILE = re.compile(r"(?P<version>\d{20})\.(?P<kind>json|checkpoint.*\.parquet)")


def pinned_versions(lake: Lake) -> dict[str, set[int]]:
    """Table to the versions that runs and models were made from."""
    pinned: dict[str, set[int]] = {name: set() for name in TABLES}
    for table in ("runs", "models"):
        for text in lake.read(table, columns=["snapshot"])["snapshot"].to_pylist():
            for name, version in _snapshot(text).items():
                pinned.setdefault(name, set()).add(version)
    return pinned


def vacuum(lake: Lake, *, retention: timedelta = RETENTION, dry_run: bool = False) -> dict[str, list[str]]:
    """Delete files that no version of the last ``retention`` and no pinned version needs; table to paths.

    Half-written files of commits that were never made go as well, once they are that old.
    Raises LakeError for a retention that would take files away from batches that are under way.
    """
    if retention < _LEAST:
        raise LakeError(f"retention {retention}: readers and batches under way need at least an hour")
    pinned = pinned_versions(lake)
    gone = {}
    for name in TABLES:
        table = lake.table(name)
        kept = _that_exist(lake, name, pinned[name])
        hours = int(retention / timedelta(hours=1))
        gone[name] = table.vacuum(
            retention_hours=hours,
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=True,
            keep_versions=kept or None,
        )
        if not dry_run:
            _clean_log(lake, name, kept)
    return gone


def _that_exist(lake: Lake, name: str, versions: set[int]) -> list[int]:
    """Pinned versions that can be read; of others nothing can be kept."""
    exist = []
    for version in sorted(versions):
        try:
            lake.table(name, version)
        except LakeError:
            continue
        exist.append(version)
    return exist


def _snapshot(text: str | None) -> Mapping[str, int]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: version for name, version in found.items() if isinstance(version, int)}


def _clean_log(lake: Lake, name: str, pinned: list[int]) -> None:
    """Delete the log before the checkpoint from which the oldest version in use is put together."""
    oldest = min([lake.table(name, datetime.now(UTC) - _LOG_RETENTION).version(), *pinned])
    log = lake.store.below("tables", name, "_delta_log")
    files = [
        (int(match["version"]), match["kind"], match[0])
        for info in log.list()
        if (match := _LOG_FILE.fullmatch(info.key))
    ]
    checkpoints = [version for version, kind, _ in files if kind != "json" and version <= oldest]
    for version, _, key in sorted(files):
        if checkpoints and version < max(checkpoints):
            log.remove(key)
