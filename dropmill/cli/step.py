"""``dropmill step``: one step of a pipeline, as the service's jobs do it."""

from __future__ import annotations

import json
import logging
import sys

import click

from dropmill.extras import require
from dropmill.logs import set_up_logging
from ingest.plans import TAKES

_NEEDS_NO_TORCH = ("masks",)
_ABOUT = {
    "masks": "Give every box a mask.",
    "augment": "Write balanced, augmented shards of the training images.",
    "train": "Train a detector.",
    "prune": "Take filters out of the checkpoint.",
    "retrain": "Train the pruned checkpoint again.",
    "quantise": "Make the network int8.",
    "export": "Write ONNX and an engine.",
    "evaluate": "Measure the candidate and the current best on the same images.",
    "promote": "Make the candidate current where it is better.",
}


@click.group("step")
def command() -> None:
    """Do one run of a pipeline here, as the jobs of the service do; `dropmill jobs list` has the runs."""


def _work(name: str, lake_url: str, run: str, *, as_json: bool) -> None:
    from dropmill.pipelines.work import work
    from storage.lake import Lake

    if name not in _NEEDS_NO_TORCH:
        require("train")
    set_up_logging(as_json=not sys.stderr.isatty(), level=logging.INFO)
    # Columns and tables have come since some lakes were made: opening for writing brings them.
    Lake.open(lake_url)
    done = work(Lake.create(lake_url), run, step=name)
    metrics, outputs = done.row["metrics"], done.row["outputs"]
    if as_json:
        found = {"run": run, "metrics": json.loads(metrics), "outputs": json.loads(outputs)}
        click.echo(json.dumps(found))
        return
    for kind, what in json.loads(outputs).items():
        click.echo(f"{kind}: {what}")
    click.echo(f"{run}: {metrics}")


def _command(name: str) -> click.Command:
    @click.command(name, help=_ABOUT[name])
    @click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
    @click.option("--run", required=True, help="The row of the table runs to do.")
    @click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
    def step(lake_url: str, run: str, *, as_json: bool) -> None:
        _work(name, lake_url, run, as_json=as_json)

    return step


for _name in TAKES:
    command.add_command(_command(_name))
