"""``dropmill ingest``: one pass over a bucket."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click
import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dropmill.by_hand import lane_of
from dropmill.config import Config, QualityConfig, RayConfig, check_apart, load_config
from dropmill.logs import set_up_logging
from ingest.batch import Batch, Committer, Counts
from ingest.lease import checked_lane
from ingest.reconcile import Pass, reconcile
from ingest.set_findings import note_batch
from ingest.tasks import RayParser, start_ray
from storage.errors import ConfigError
from storage.lake import Lake
from storage.object_store import ObjectStore


@click.command("ingest")
@click.argument("bucket")
@click.option("--lake", "lake_url", required=True, help="Where the tables are; made where there are none.")
@click.option("--dataset", help="The whole bucket is this data set (else: its first-level folders).")
@click.option("--correct/--no-correct", default=True, show_default=True, help="Mend boxes that break a rule.")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A dropmill.yaml, of which `quality`, the limits of `ingest`, and the access to stores are taken.",
)
@click.option(
    "--label-order",
    multiple=True,
    metavar="FOLDER",
    help="Labels of this folder win where several speak of one image (may be repeated).",
)
@click.option(
    "--mapping",
    "mappings",
    multiple=True,
    metavar="[DATASET=]FILE",
    help="Class names of annotations: a YAML file of `target: [source, ...]`, for one data set or for all.",
)
@click.option(
    "--batch-objects",
    default=20_000,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Objects that are committed together.",
)
@click.option(
    "--lane",
    default="main",
    show_default=True,
    help="Buckets that share a lake take a lane each, unless each is one --dataset.",
)
@click.option("--ray-address", help="A Ray cluster (else Ray is started here).")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Log every batch.")
def command(
    bucket: str,
    lake_url: str,
    *,
    dataset: str | None,
    correct: bool,
    config_file: Path | None,
    label_order: tuple[str, ...],
    mappings: tuple[str, ...],
    batch_objects: int,
    lane: str,
    ray_address: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Bring the lake up to date with BUCKET, and exit.

    BUCKET is a folder or any fsspec URL. Only what is new, changed or gone is worked on: a second pass over
    the same bucket commits nothing. Exit status 1 says that objects of this pass were quarantined;
    `dropmill status` and the table `quarantine` tell why. Where a service or another pass has the lane,
    nothing is done.
    """
    set_up_logging(as_json=False, level=logging.INFO if verbose else logging.WARNING)
    given = load_config(config_file) if config_file else None
    config = _config(
        given,
        bucket=bucket,
        lake=lake_url,
        dataset=dataset,
        lane=checked_lane(lane),
        ray=RayConfig(address=ray_address),
        quality=_quality(given, correct, label_order, mappings),
    )
    store = config.bucket_store()
    if store.is_directory and not store.root.is_dir():
        raise ConfigError(f"bucket {bucket}: no such folder")
    # A mapping that cannot be read is said before anything is made.
    config.settings()
    with lane_of(config, create=True) as lake:
        start_ray(ray_address)
        try:
            done = _pass(store, lake, config, batch_objects)
        finally:
            ray.shutdown()
        if done.batches:
            note_batch(lake, config.suites(), rules=config.quality.rules.selection(), lane=config.lane)
    result = _result(done)
    if done.left:
        # The store did not give them, or they changed under our hands: the next pass takes them.
        click.echo(f"{len(done.left)} objects wait, such as {next(iter(done.left.values()))}", err=True)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result, lake)
    return 1 if done.counts.quarantined or done.left else 0


def _config(given: Config | None, *, bucket: str, lake: str, **said: Any) -> Config:
    """What the command line says, with limits and access of a file."""
    try:
        check_apart(ObjectStore.at(bucket), ObjectStore.at(lake))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    taken = (
        {name: getattr(given, name) for name in ("ingest", "bucket_access", "lake_access")} if given else {}
    )
    return Config(bucket=bucket, lake=lake, **taken, **said)


def _quality(
    given: Config | None, correct: bool, label_order: tuple[str, ...], mappings: tuple[str, ...]
) -> QualityConfig:
    """The rules of a file, or those that run by themselves; what the command line says wins."""
    quality = given.quality if given else QualityConfig()
    change: dict[str, Any] = {"label_order": label_order} if label_order else {}
    if mappings:
        change["mappings"] = dict(map(_mapping, mappings))
    return quality.model_copy(update={**change, "apply_correction": correct and quality.apply_correction})


def _mapping(word: str) -> tuple[str, Path]:
    """A data set (``*`` for all) and its file; a file whose own name has an equals sign is still a file."""
    dataset, equals, file = word.partition("=")
    return (dataset, Path(file)) if equals and not Path(word).exists() else ("*", Path(word))


def _pass(store: ObjectStore, lake: Lake, config: Config, batch_objects: int) -> Pass:
    rule = config.rule()
    committer = Committer(
        lake,
        RayParser(store, rule, config.limits()),
        rule=rule,
        settings=config.settings(),
        lane=config.lane,
    )
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        bar = progress.add_task("objects", total=None)

        def planned(events: int) -> None:
            progress.update(bar, total=(progress.tasks[0].completed or 0) + events)

        def committed(batch: Batch, _counts: Counts, _left: int) -> None:
            progress.advance(bar, len(batch.events))

        return reconcile(
            store, committer, rule, batch_objects=batch_objects, on_plan=planned, on_batch=committed
        )


def _result(done: Pass) -> dict[str, Any]:
    names = ("images", "labels", "annotations", "findings", "quarantined", "removed")
    return {
        "batches": done.batches,
        **{name: getattr(done.counts, name) for name in names},
        "seconds": round(done.seconds, 3),
    }


def _print(result: dict[str, Any], lake: Lake) -> None:
    if not result["batches"]:
        click.echo(f"nothing new; {lake.url} is up to date")
        return
    click.echo(", ".join(f"{value} {name}" for name, value in result.items() if name != "seconds"))
    click.echo(f"{result['seconds']} s; tables in {lake.url}/tables")
    if result["quarantined"]:
        click.echo(f'why: dropmill sql "SELECT key, error FROM quarantine" --lake {lake.url}')
