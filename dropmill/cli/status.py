"""``dropmill status``: what a lake holds."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

import dropmill
from dropmill.report import make_report, print_report


@click.command("status")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def command(lake_url: str, *, as_json: bool) -> None:
    """Rows per table, class shares and gate per data set, findings, runs with their metrics, files,
    seconds.
    """
    report = make_report(dropmill.open(lake_url))
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 160))
