"""``dropmill status``: what a lake holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

import dropmill
from dropmill.config import load_config
from dropmill.report import make_report, print_report


@click.command("status")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The service's dropmill.yaml, for the thresholds of its gate.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def command(lake_url: str, *, config_file: Path | None, as_json: bool) -> None:
    """Rows per table, class shares and gate per data set, findings, runs with their metrics, files,
    seconds.
    """
    config = load_config(config_file) if config_file else None
    report = make_report(
        dropmill.open(lake_url),
        config.thresholds() if config else None,
        config.quality.rules.selection().limits if config else None,
    )
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 160))
