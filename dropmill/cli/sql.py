"""``dropmill sql``: one SELECT over a lake."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

import dropmill
from storage.errors import QueryError
from storage.sql import Rows

_LONGEST_CELL = 80


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


def print_rows(rows: Rows, console: Console, *, title: str | None = None) -> None:
    """Print an answer as a table; long values are cut."""
    table = Table(title=title, title_justify="left", header_style="bold")
    arrow = rows.arrow()
    for field in arrow.schema:
        number = str(field.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(field.name, justify="right" if number else "left", overflow="fold")
    for row in arrow.to_pylist():
        table.add_row(*(_shown(value) for value in row.values()))
    console.print(table, markup=False)
    if title is None:
        console.print(f"{arrow.num_rows} row{'' if arrow.num_rows == 1 else 's'}", highlight=False)


def _shown(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.replace("[", r"\[")
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"


def _versions(given: tuple[str, ...]) -> dict[str, int]:
    versions = {}
    for text in given:
        table, _, number = text.partition("=")
        if not number.isdigit():
            raise QueryError(f"--version {text}: expected TABLE=N, such as annotations=3")
        versions[table] = int(number)
    return versions
