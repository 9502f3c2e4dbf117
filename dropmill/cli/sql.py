"""``dropmill sql``: one SELECT over a lake."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from dropmill.cli.lane import lake_of, lake_options
from dropmill.cli.tables import print_rows
from storage.errors import QueryError
from storage.query_bounds import bytes_of
from storage.schemas import ABOUT
from storage.sql import DEFAULT_MEMORY, DEFAULT_TIMEOUT_S
from storage.views import COLUMNS_SQL, VIEWS

_MAX_ROWS = 1_000_000
_GRACE_S = 5.0
_PROCESS_BYTES = 2 << 30


class _WithTables(click.Command):
    """The help lists tables and views as the code has them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Tables"):
            formatter.write_dl(list(ABOUT.items()))
        with formatter.section("Views"):
            formatter.write_dl([(name, view.about) for name, view in VIEWS.items()])


@click.command("sql", cls=_WithTables)
@click.argument("query", required=False)
@lake_options
@click.option("--tables", "list_tables", is_flag=True, help="List tables and views with their columns.")
@click.option("--json", "form", flag_value="json", help="A JSON list of objects.")
@click.option("--csv", "form", flag_value="csv", help="CSV with a header.")
@click.option("--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows here.")
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="TABLE=N",
    help="Read a table as it was at a version (may be repeated).",
)
@click.option("--at", help="Read all tables as they were at a moment, such as 2026-01-31T12:00:00Z.")
@click.option(
    "--max-rows", default=_MAX_ROWS, show_default=True, type=click.IntRange(1), help="More is an error."
)
@click.option("--memory", default=DEFAULT_MEMORY, show_default=True, help="More goes to a temporary folder.")
@click.option(
    "--timeout",
    "timeout_s",
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds; then the query is stopped.",
)
def command(
    query: str | None,
    config_path: Path | None,
    lake_url: str | None,
    *,
    list_tables: bool,
    form: str | None,
    parquet: Path | None,
    versions: tuple[str, ...],
    at: str | None,
    max_rows: int,
    memory: str,
    timeout_s: float,
) -> None:
    """Run one SELECT, read only.

    A table as it was: FROM annotations AT (VERSION => 3), or AT (TIMESTAMP => '2026-01-31T12:00:00Z').
    """
    if list_tables:
        query = COLUMNS_SQL
    if query is None:
        raise click.UsageError("give a QUERY, or --tables")
    if form and parquet:
        raise click.UsageError("--parquet goes without --json and --csv")
    lake = lake_of(config_path, lake_url)
    with _given_up(timeout_s, bytes_of(memory)):
        rows = lake.sql(
            query,
            versions=_versions(versions),
            at=at,
            max_rows=max_rows,
            memory_limit=memory,
            timeout_s=timeout_s,
        )
    if parquet:
        rows.parquet(parquet)
        click.echo(f"{rows.num_rows} rows: {parquet}")
    elif form == "json":
        click.echo(rows.json())
    elif form == "csv":
        click.echo(rows.csv(), nl=False)
    else:
        print_rows(rows, Console(width=None if sys.stdout.isatty() else 200), whole=list_tables)


@contextmanager
def _given_up(timeout_s: float, memory_bytes: int) -> Iterator[None]:
    """Hold the process to its bounds where a call of one function holds the query.

    The limit of memory is the system's, with room for what DuckDB does not count; where the query does not
    end some seconds after its time, the process does.
    """

    def end() -> None:
        click.echo(f"SQL: a call of one function went on after {timeout_s:g} s; ask for less", err=True)
        os._exit(1)

    last = threading.Timer(timeout_s + _GRACE_S, end)
    last.daemon = True
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = _PROCESS_BYTES + 3 * memory_bytes
    if before[0] == resource.RLIM_INFINITY or before[0] > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    last.start()
    try:
        yield
    finally:
        last.cancel()
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _versions(given: tuple[str, ...]) -> dict[str, int]:
    versions = {}
    for text in given:
        table, _, number = text.partition("=")
        if not number.isdigit():
            raise QueryError(f"--version {text}: expected TABLE=N, such as annotations=3")
        versions[table] = int(number)
    return versions
