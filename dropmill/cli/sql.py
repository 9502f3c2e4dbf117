"""``dropmill sql``: one SELECT over a lake."""

from __future__ import annotations

import sys

import click
from rich.console import Console

import dropmill
from dropmill.cli.tables import print_rows
from storage.errors import QueryError


@click.command("sql")
@click.argument("query")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--json", "form", flag_value="json", help="A JSON list of objects.")
@click.option("--csv", "form", flag_value="csv", help="CSV with a header.")
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="TABLE=N",
    help="Read a table as it was at a version (may be repeated).",
)
@click.option("--at", help="Read all tables as they were at a moment, such as 2026-01-31T12:00:00Z.")
def command(
    query: str, lake_url: str, *, form: str | None, versions: tuple[str, ...], at: str | None
) -> None:
    """Run one SELECT, read only.

    Tables: objects, batches, images, mentions, categories, labels, annotations, findings, masks, shards,
    runs, models. Views: boxes (annotations with width, height, area, aspect), class_balance, waiting,
    newest, quarantine.
    """
    rows = dropmill.open(lake_url).sql(query, versions=_versions(versions), at=at)
    if form == "json":
        click.echo(rows.json())
    elif form == "csv":
        click.echo(rows.csv(), nl=False)
    else:
        print_rows(rows, Console(width=None if sys.stdout.isatty() else 200))


def _versions(given: tuple[str, ...]) -> dict[str, int]:
    versions = {}
    for text in given:
        table, _, number = text.partition("=")
        if not number.isdigit():
            raise QueryError(f"--version {text}: expected TABLE=N, such as annotations=3")
        versions[table] = int(number)
    return versions
