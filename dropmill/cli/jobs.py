"""``dropmill jobs``: the runs of pipelines, their logs, and how to start, stop and retry them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from dropmill.cli.lane import lake_of, lake_options, service_option
from dropmill.cli.tables import print_rows
from storage.errors import ConfigError, JobError, UnknownKeyError

if TYPE_CHECKING:
    from dropmill.config import Config
    from ingest.triggers import Pipeline
    from storage.lake import Lake

_POLL_S = 1.0

_ray = click.option(
    "--ray",
    "address",
    help="The dashboard of another Ray cluster than the one that the run was given to.",
)


@click.group("jobs")
def command() -> None:
    """Runs of pipelines. A service on the lake submits what is started or retried here."""


@command.command("list")
@lake_options
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def list_runs(config_path: Path | None, lake_url: str | None, *, as_json: bool) -> None:
    """All runs of a lake, the newest first."""
    rows = lake_of(config_path, lake_url).sql(
        """SELECT run, pipeline, step, dataset, state, attempt, labelled_images, metrics ->> 'mAP50' AS mAP50,
                  submitted_at, ended_at, error
           FROM runs ORDER BY max(submitted_at) OVER (PARTITION BY coalesce(execution, run)) DESC,
                              execution, position DESC, submitted_at DESC"""
    )
    if as_json:
        click.echo(rows.json())
    else:
        print_rows(rows, Console(width=None if sys.stdout.isatty() else 200))


@command.command("logs")
@click.argument("run")
@lake_options
@_ray
def logs(run: str, config_path: Path | None, lake_url: str | None, address: str | None) -> None:
    """What the job of RUN's last attempt has written, as long as its cluster lives."""
    from ingest.jobs import Jobs
    from ingest.progress import job_of

    row = _row(lake_of(config_path, lake_url), run)
    click.echo(Jobs(_cluster_of(row, address)).log(job_of(row)), nl=False)


@command.command("stop")
@click.argument("run")
@lake_options
@_ray
def stop(run: str, config_path: Path | None, lake_url: str | None, address: str | None) -> None:
    """Call RUN off, and the steps after it; its job is ended."""
    from ingest import progress
    from ingest.jobs import Jobs
    from ingest.plans import write_runs

    lake = lake_of(config_path, lake_url)
    row = _row(lake, run)
    # The row first: the job could end meanwhile, and what has ended is not stopped.
    write_runs(lake, progress.stop(_rows(lake, row), run, datetime.now(UTC)))
    if row["state"] == "submitted":
        try:
            jobs, job = Jobs(_cluster_of(row, address)), progress.job_of(row)
            # A job that comes to the cluster only now finds that its run was called off.
            if jobs.state(job) is not progress.JobState.UNKNOWN:
                jobs.stop(job)
        except JobError as error:
            raise JobError(f"run {run} is marked as stopped, but its job was not reached: {error}") from error
    click.echo(f"{run}: stopped")


@command.command("retry")
@click.argument("run")
@lake_options
def retry(run: str, config_path: Path | None, lake_url: str | None) -> None:
    """Let RUN, which is over, be done again, and the steps after it with it."""
    from ingest import progress
    from ingest.plans import write_runs

    lake = lake_of(config_path, lake_url)
    changed = progress.retry(_rows(lake, _row(lake, run)), run, datetime.now(UTC))
    write_runs(lake, changed)
    for row in changed:
        click.echo(f"{row['run']}: {row['state']}, attempt {row['attempt']}")


@command.command("start")
@click.argument("pipeline")
@service_option
@click.option("--dataset", help="The data set, where the pipeline is for all.")
@click.option("--anew", is_flag=True, help="Also where the same was done on the same data.")
@click.option(
    "--follow", is_flag=True, help="Without a service: submit its jobs from here, until it is over."
)
def start(pipeline: str, config_path: Path, dataset: str | None, *, anew: bool, follow: bool) -> int:
    """Start PIPELINE now, on the tables as they are, whatever its `when` says."""
    from dropmill.config import load_config
    from ingest.triggers import start_by_hand
    from storage.lake import Lake

    config = load_config(config_path)
    chosen = _pipeline(config, pipeline)
    if dataset is not None and chosen.dataset not in (None, dataset):
        raise ConfigError(f"pipeline {pipeline} is for the data set {chosen.dataset}, not for {dataset}")
    name = dataset or chosen.dataset
    if name is None:
        raise click.UsageError(f"pipeline {pipeline} is for every data set: say which with --dataset")
    Lake.open(config.lake, config.lake_access.options())
    lake = Lake.create(config.lake, config.lake_access.options())
    rows = start_by_hand(lake, chosen, name, anew=anew)
    for row in rows:
        click.echo(row["run"])
    if not follow:
        return 0
    return 0 if _follow(config, lake, str(rows[0]["execution"]), click.echo) else 1


def _follow(config: Config, lake: Lake, execution: str, tell: Callable[[str], None]) -> bool:
    """Do what a service does for an execution, until it is over; whether all of it succeeded."""
    import ray

    from ingest.jobs import Jobs
    from ingest.progress import OPEN
    from ingest.tasks import start_ray
    from ingest.triggers import Triggers

    address = start_ray(config.ray.address, num_cpus=config.ray.num_cpus, jobs=True)
    try:
        if address is None:
            raise ConfigError(f"ray: the cluster at {config.ray.address} has no dashboard that takes jobs")
        triggers = Triggers(lake, Jobs(address, runtime_env=config.runtime_env()), [])
        told: dict[str, str] = {}
        while True:
            triggers.look_after()
            rows = lake.sql(
                "SELECT run, state, error FROM runs WHERE execution = $1 ORDER BY position",
                parameters=[execution],
            ).to_pylist()
            for row in rows:
                if row["state"] != "planned" and told.get(row["run"]) != row["state"]:
                    told[row["run"]] = row["state"]
                    tell(f"{row['run']}: {row['state']}" + (f": {row['error']}" if row["error"] else ""))
            if all(row["state"] not in OPEN for row in rows):
                return all(row["state"] == "succeeded" for row in rows)
            time.sleep(_POLL_S)
    finally:
        ray.shutdown()


def _pipeline(config: Config, name: str) -> Pipeline:
    known = {pipeline.name: pipeline for pipeline in config.triggers()}
    if name not in known:
        raise UnknownKeyError("pipelines", name, known)
    return known[name]


def _row(lake: Lake, run: str) -> dict[str, Any]:
    rows = lake.sql("SELECT * FROM runs WHERE run = $1", parameters=[run]).to_pylist()
    if not rows:
        raise JobError(f"{lake.url}: no run {run!r} in the table runs; see `dropmill jobs list`")
    return dict(rows[0])


def _cluster_of(row: dict[str, Any], given: str | None) -> str:
    found = given or row.get("cluster")
    if not found:
        raise JobError(f"run {row['run']} is {row['state']}: no cluster has been given a job of it")
    return str(found)


def _rows(lake: Lake, row: dict[str, Any]) -> list[dict[str, Any]]:
    """A run with all of its execution."""
    if not row["execution"]:
        return [row]
    rows = lake.sql("SELECT * FROM runs WHERE execution = $1", parameters=[row["execution"]])
    return list(rows.to_pylist())
