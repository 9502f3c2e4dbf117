"""Answers of queries as tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from storage.rows import Rows

_LONGEST_CELL = 80
_NUMBERS = ("int", "uint", "float", "double", "decimal")


def print_rows(rows: Rows, console: Console, *, title: str | None = None, whole: bool = False) -> None:
    """Print an answer as a table; long values are cut, unless they are wanted ``whole``.

    Without a title the number of rows stands below.
    """
    table = Table(title=title or None, title_justify="left", header_style="bold")
    arrow = rows.arrow()
    for field in arrow.schema:
        number = str(field.type).startswith(_NUMBERS)
        table.add_column(escape(field.name), justify="right" if number else "left", overflow="fold")
    for row in rows.to_pylist():
        table.add_row(*(_shown(value, whole=whole) for value in row.values()))
    console.print(table)
    if title is None:
        console.print(f"{arrow.num_rows} row{'' if arrow.num_rows == 1 else 's'}", highlight=False)


def _shown(value: object, *, whole: bool) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return escape(text if whole or len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…")
