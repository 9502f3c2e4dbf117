"""``dropmill replay``: annotations from labels once more."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dropmill.by_hand import committer_of
from dropmill.cli.lane import configuration, lane_options
from dropmill.logs import set_up_logging
from dropmill.replay import replay
from ingest.batch import Batch, Counts
from storage.lake import Lake


@click.command("replay")
@lane_options
@click.option("--dataset", required=True, help="The data set whose samples are derived again.")
@click.option(
    "--from-version",
    type=click.IntRange(0),
    help="Only those with labels that came after this version of `labels`.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def command(
    config_path: Path | None, bucket: str | None, lake_url: str | None, *, dataset: str,
    from_version: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Derive annotations again from `labels`, by the rules of today, without reading the bucket.

    The service must not run meanwhile: it and this command would be two committers of one lane.
    """
    set_up_logging(as_json=False)
    config = configuration(config_path, bucket, lake_url)
    done = {"batches": 0, "samples": 0}

    def count(batch: Batch, _counts: Counts, left: int) -> None:
        done["batches"] += 1
        done["samples"] += len(batch.events)
        if not as_json and left:
            click.echo(f"{done['samples']} groups done, {left} left", err=True)

    with committer_of(config, reads=False) as committer:
        lake = Lake.open(config.lake, config.lake_access.options())
        counts = replay(lake, committer, dataset, from_version=from_version, on_batch=count)
    result = {**done, "annotations": counts.annotations, "findings": counts.findings}
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(
            f"{done['samples']} groups of {dataset} derived again in {done['batches']} batches; "
            f"{counts.annotations:+} annotations, {counts.findings:+} findings"
        )
    return 0
