"""``dropmill lake``: the upkeep of a lake."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pyarrow as pa
from rich.console import Console

from dropmill.cli.lane import lake_of, lake_options
from dropmill.cli.tables import print_rows
from storage.compaction import compact
from storage.errors import UnknownKeyError
from storage.retention import RETENTION, pinned_versions, vacuum
from storage.rows import Rows
from storage.schemas import TABLES

_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


@click.group("lake")
def command() -> None:
    """Compact a lake's files, look at its versions, delete what nobody needs."""


@command.command("optimize")
@lake_options
@click.option("--table", "tables", multiple=True, help="Only this table (may be repeated).")
@_json
def optimize(
    config_path: Path | None, lake_url: str | None, *, tables: tuple[str, ...], as_json: bool
) -> None:
    """Bring small and overlapping files together, so that queries and changes stay fast.

    Nothing that a query sees changes, older versions included. The service does this by itself when it is
    quiet.
    """
    lake = lake_of(config_path, lake_url)
    done = []
    for name in _known(tables):
        found = compact(lake, name)
        done.append({"table": name, **vars(found)})
    _show(done, as_json=as_json)


@command.command("history")
@lake_options
@click.argument("table")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="Newest versions.")
@_json
def history(config_path: Path | None, lake_url: str | None, table: str, *, limit: int, as_json: bool) -> None:
    """The versions of TABLE, newest first: when, by which batch, and whether a run was made from it.

    Read one with `dropmill sql --version TABLE=N`, or FROM TABLE AT (VERSION => N).
    """
    lake = lake_of(config_path, lake_url)
    pinned = pinned_versions(lake)[_known([table])[0]]
    rows = []
    for entry in lake.table(table).history(limit):
        moment = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
        rows.append(
            {
                "version": entry.get("version"),
                "at": moment.isoformat(timespec="seconds"),
                "operation": entry.get("maintenance") or str(entry.get("operation", "")).lower(),
                "lane": entry.get("lane"),
                "batch": int(entry["batch"]) if entry.get("batch") else None,
                "pinned": entry.get("version") in pinned,
            }
        )
    _show(rows, as_json=as_json)


@command.command("vacuum")
@lake_options
@click.option(
    "--retention-days",
    default=RETENTION / timedelta(days=1),
    show_default=True,
    type=click.FloatRange(1 / 24),
    help="Versions of the last days stay readable.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_json
def vacuum_command(
    config_path: Path | None, lake_url: str | None, *, retention_days: float, dry_run: bool, as_json: bool
) -> None:
    """Delete files that no version of the last days needs.

    Versions that runs and models were made from stay readable however old they are.
    """
    lake = lake_of(config_path, lake_url)
    gone = vacuum(lake, retention=timedelta(days=retention_days), dry_run=dry_run)
    column = "would go" if dry_run else "deleted"
    _show([{"table": name, column: len(paths)} for name, paths in gone.items()], as_json=as_json)


def _known(tables: Sequence[str]) -> list[str]:
    for name in tables:
        if name not in TABLES:
            raise UnknownKeyError("lake", name, TABLES)
    return list(tables) or list(TABLES)


def _show(rows: list[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
    else:
        print_rows(Rows(pa.Table.from_pylist(rows)), Console(width=None if sys.stdout.isatty() else 160))
