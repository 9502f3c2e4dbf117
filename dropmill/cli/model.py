"""``dropmill model``: training."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pyarrow as pa

from dropmill.extras import require
from dropmill.logs import set_up_logging
from storage import schemas
from storage.errors import ConfigError, DropmillError
from storage.lake import Lake


@click.group("model")
def command() -> None:
    """Train and export detectors."""


@command.group("detectnet_v2")
def detectnet_v2() -> None:
    """DetectNet_v2: a grid of coverage and boxes on a ResNet."""


@detectnet_v2.command("train")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--run", help="Do this row of the table runs (this is how the service starts its jobs).")
@click.option("--dataset", help="Train on this data set, as the tables are now.")
@click.option(
    "-e",
    "--experiment_spec_file",
    "spec",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A DetectNet_v2 training spec (else one is made from the data).",
)
@click.option("--epochs", type=click.IntRange(1), help="Without a spec: epochs.")
@click.option("--batch-size", type=click.IntRange(1), help="Without a spec: images a step and worker.")
@click.option("--input-width", type=click.IntRange(32), help="Without a spec: width of the network's input.")
@click.option("--input-height", type=click.IntRange(32), help="Without a spec: its height.")
@click.option(
    "--pretrained",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint whose backbone is taken.",
)
@click.option(
    "--gpus", "workers", default=1, show_default=True, type=click.IntRange(1), help="Processes, one a GPU."
)
@click.option("--ray-address", help="A Ray cluster (else that of the job this runs in, else one is started).")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def train(
    lake_url: str,
    *,
    run: str | None,
    dataset: str | None,
    spec: Path | None,
    epochs: int | None,
    batch_size: int | None,
    input_width: int | None,
    input_height: int | None,
    pretrained: Path | None,
    workers: int,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Train on the tables of a lake, evaluate, export ONNX, compile an engine, and write it all down."""
    from dropmill.config import TrainConfig

    if (run is None) == (dataset is None):
        raise click.UsageError("give either --dataset or --run")
    require("train")
    set_up_logging(as_json=not sys.stderr.isatty(), level=logging.INFO)
    lake = Lake.open(lake_url)
    mine = run is None
    if dataset is not None:
        config = TrainConfig(
            spec=spec and spec.resolve(),
            epochs=epochs,
            batch_size=batch_size,
            input_width=input_width,
            input_height=input_height,
            pretrained=pretrained and pretrained.resolve(),
            workers=workers,
        )
        run = _new_run(lake, dataset, config.model_dump(mode="json", exclude_none=True))
    assert run is not None
    metrics = _work(lake, run, ray_address, mine=mine)
    if as_json:
        click.echo(json.dumps({"run": run, "metrics": metrics}))
    else:
        click.echo(f"{run}: mAP50 {metrics.get('mAP50', 0.0):.3f}; files in {lake.url}/artifacts/runs/{run}")


def _work(lake: Lake, run: str, ray_address: str | None, *, mine: bool) -> dict[str, float]:
    """Do a run here. Its failure is written down where nobody else does so (``mine``)."""
    import os

    import ray

    from dropmill.training_run import TrainingRun
    from ingest.tasks import start_ray

    start_ray(ray_address or os.environ.get("RAY_ADDRESS"))
    try:
        work = TrainingRun(lake, run)
        try:
            return work.work(threads=len(os.sched_getaffinity(0)), use_gpu=_gpus() > 0)
        except Exception as error:
            if mine:
                work.fail(str(error))
            if isinstance(error, DropmillError):
                raise
            raise DropmillError(f"run {run}: {type(error).__name__}: {error}") from error
    finally:
        ray.shutdown()


def _gpus() -> float:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0)


def _new_run(lake: Lake, dataset: str, parameters: dict[str, object]) -> str:
    labelled = lake.sql(
        "SELECT count(*) AS n FROM images WHERE dataset = $1 AND labelled", parameters=[dataset]
    ).to_pylist()[0]["n"]
    if not labelled:
        known = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM images").to_pylist()]
        raise ConfigError(
            f"{lake.url}: no labelled image in data set {dataset!r}; data sets: {sorted(known)}"
        )
    now = datetime.now(UTC)
    row = {
        "run": f"by-hand-{now:%Y%m%d-%H%M%S-%f}",
        "pipeline": "by hand",
        "step": "model detectnet_v2 train",
        "dataset": dataset,
        # Not "submitted": a service on this lake would take it for one of its own.
        "state": "running",
        "snapshot": json.dumps(lake.snapshot()),
        "parameters": json.dumps(parameters),
        "metrics": "{}",
        "outputs": "{}",
        "labelled_images": labelled,
        "submitted_at": now,
    }
    lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])
    return str(row["run"])
