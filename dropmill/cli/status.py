"""``dropmill status``: what a lake holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from dropmill.cli.lane import config_of, lake_of, lake_options
from dropmill.report import make_report, print_report


@click.command("status")
@lake_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def command(config_path: Path | None, lake_url: str | None, *, as_json: bool) -> None:
    """Rows per table, class shares and gate per data set, findings, runs with their metrics, files,
    seconds.

    With -c the gate is judged by the thresholds of the service.
    """
    config = config_of(config_path)
    report = make_report(
        lake_of(config_path, lake_url),
        config.thresholds() if config else None,
        config.quality.rules.selection().limits if config else None,
    )
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 160))
