"""``dropmill lineage``: from a model to the objects of the bucket, and from an object to the models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from dropmill.cli.lane import lake_of, lake_options
from dropmill.cli.tables import print_rows
from dropmill.pipelines.lineage import Lineage, lineage_of, models_that_saw, removed_but_seen

_SHOWN = 20


@click.command("lineage")
@click.argument("model", required=False)
@lake_options
@click.option("--object", "key", help="Models that this object of the bucket (its key) went into.")
@click.option(
    "--removed", is_flag=True, help="Objects that are gone or replaced, and the models that saw them."
)
@click.option("--all", "everything", is_flag=True, help=f"All objects, not the first {_SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="JSON.")
def command(
    model: str | None,
    config_path: Path | None,
    lake_url: str | None,
    *,
    key: str | None,
    removed: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Where MODEL comes from: runs, shards, versions of the tables, and every object with its version.

    MODEL is a name in the table models, a run, `current`, or `current:DATASET`.
    """
    if sum((model is not None, key is not None, removed)) != 1:
        raise click.UsageError("give a MODEL, or --object KEY, or --removed")
    lake = lake_of(config_path, lake_url)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if model is not None:
        found = lineage_of(lake, model)
        if as_json:
            click.echo(json.dumps(found.as_json()))
        else:
            _print(found, console, len(found.objects) if everything else _SHOWN)
        return
    rows = removed_but_seen(lake) if key is None else models_that_saw(lake, key)
    if as_json:
        click.echo(rows.json())
    elif len(rows):
        print_rows(rows, console)
    else:
        click.echo(
            "no model was made from an object that is gone" if removed else f"no model was made from {key}"
        )


def _print(found: Lineage, console: Console, shown: int) -> None:
    console.print(
        f"[bold]{escape(found.model)}[/bold]: run {escape(found.run)} of data set {escape(found.dataset)}, "
        f"{found.state or 'not judged'}",
        highlight=False,
    )
    for run in found.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        takes = ", ".join(f"{what} of {maker}" for what, maker in run["takes"].items())
        console.print(f"  {run['step']}: {escape(run['run'])}", highlight=False)
        console.print(f"    takes {escape(takes) or 'the tables'}; tables at {versions}", highlight=False)
        for file in found.files:
            if file["model"].startswith(f"{run['run']}/"):
                console.print(f"    {file['kind']}: {escape(file['uri'])}", highlight=False, soft_wrap=True)
        for shards in found.shards:
            if shards["run"] == run["run"]:
                counts = f"{shards['shards']} shards, {shards['samples']} samples"
                console.print(f"    {counts}: {escape(shards['first'])} …", highlight=False, soft_wrap=True)
    rows = found.objects.to_pylist()
    console.print(f"  {len(rows)} objects of the bucket:", highlight=False)
    for row in rows[:shown]:
        now = "" if row["now"] == "current" else f", {row['now']} since"
        place = f"{escape(row['key'])} at {escape(str(row['version']))}"
        roles = ", ".join(row["roles"])
        console.print(f"    {row['kind']} {place} ({roles}{now})", highlight=False, soft_wrap=True)
    if len(rows) > shown:
        console.print(f"    and {len(rows) - shown} more: --all", highlight=False)
