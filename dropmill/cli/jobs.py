"""``dropmill jobs``: runs, their logs, and how to end them."""

from __future__ import annotations

import sys

import click
from rich.console import Console

import dropmill
from dropmill.cli.tables import print_rows
from storage.errors import JobError

_ADDRESS = "http://127.0.0.1:8265"


@click.group("jobs")
def command() -> None:
    """Runs that the service has started."""


@command.command("list")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_runs(lake_url: str, *, as_json: bool) -> None:
    """All runs of a lake, the newest first."""
    rows = dropmill.open(lake_url).sql(
        """SELECT run, pipeline, dataset, state, labelled_images, metrics ->> 'mAP50' AS mAP50,
                  submitted_at, ended_at, error FROM runs ORDER BY submitted_at DESC"""
    )
    if as_json:
        click.echo(rows.json())
    else:
        print_rows(rows, Console(width=None if sys.stdout.isatty() else 200))


@command.command("logs")
@click.argument("run")
@click.option(
    "--ray", "address", default=_ADDRESS, show_default=True, help="The dashboard of the Ray cluster."
)
def logs(run: str, address: str) -> None:
    """What the job of RUN has written, as long as its cluster lives."""
    from ingest.jobs import Jobs

    click.echo(Jobs(address).log(run), nl=False)


@command.command("stop")
@click.argument("run")
@click.option(
    "--ray", "address", default=_ADDRESS, show_default=True, help="The dashboard of the Ray cluster."
)
def stop(run: str, address: str) -> None:
    """End the job of RUN; the service then marks the run as failed."""
    from ingest.jobs import Jobs

    if not Jobs(address).stop(run):
        raise JobError(f"job {run} is not running")
