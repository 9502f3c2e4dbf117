"""``dropmill dataset masks``: masks for all boxes of a lake's data set; only what changed is worked on."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropmill.logs import set_up_logging
from storage.errors import ConfigError, DropmillError

if TYPE_CHECKING:
    from dropmill.masks_config import MasksConfig
    from dropmill.masks_stage import Masked
    from storage.lake import Lake

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("masks")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--dataset", required=True, help="Make masks for this data set.")
@click.option("--checkpoint", type=_FILE, help="A checkpoint of MAL (else GrabCut, which needs none).")
@click.option("--encoder", type=_FILE, help="Promptable segmentation: the encoder (ONNX).")
@click.option("--decoder", type=_FILE, help="Promptable segmentation: the decoder (ONNX).")
@click.option("--name", default="promptable", help="Promptable segmentation: the model's name.")
@click.option("--workers", type=click.IntRange(1), help="Processes that hold the model.")
@click.option("--pictures", default=8, show_default=True, help="Images to draw with their masks; 0: none.")
@click.option("--ray-address", help="A Ray cluster (else that of the job this runs in, else one is started).")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def masks(
    lake_url: str,
    *,
    dataset: str,
    checkpoint: Path | None,
    encoder: Path | None,
    decoder: Path | None,
    name: str,
    workers: int | None,
    pictures: int,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Give every box of a data set in a lake a mask; what has one of this model's version is left alone."""
    from pydantic import ValidationError

    from dropmill.masks_config import MasksConfig
    from storage.lake import Lake

    set_up_logging(as_json=not sys.stderr.isatty(), level=logging.INFO)
    # Masks have come since some lakes were made: opening for writing brings their columns.
    Lake.open(lake_url)
    lake = Lake.create(lake_url)
    try:
        config = MasksConfig(
            checkpoint=checkpoint and checkpoint.resolve(),
            encoder=encoder and encoder.resolve(),
            decoder=decoder and decoder.resolve(),
            name=name,
            workers=workers,
        )
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"])) from error
    row = _new_run(lake, dataset, config)
    done = _work(lake, row, config, ray_address)
    files = _draw(lake, row, done, pictures) if pictures and done.images else 0
    found = {
        "run": row["run"],
        "images": done.images,
        "masks": done.masks,
        "without_mask": done.without_mask,
        "model": done.model,
        "model_version": done.model_version,
        "pictures": files,
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{row['run']}: {done.masks} masks on {done.images} images by {done.model} {done.model_version}; "
        f"{done.without_mask} boxes without one (see findings)"
    )
    if files:
        click.echo(f"{files} pictures in {lake.url}/artifacts/runs/{row['run']}/pictures")


def _work(lake: Lake, row: dict[str, Any], config: MasksConfig, ray_address: str | None) -> Masked:
    """Do the run; its row says how it ended."""
    import ray

    from dropmill.masks_stage import mask_lake
    from ingest.tasks import start_ray

    start_ray(ray_address or os.environ.get("RAY_ADDRESS"))
    try:
        gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        shown = _Progress()
        done = mask_lake(lake, row["dataset"], config, run=row["run"], use_gpu=gpus > 0, progress=shown.show)
    except Exception as error:
        _end(lake, row, "failed", {}, str(error))
        if isinstance(error, DropmillError):
            raise
        raise DropmillError(f"run {row['run']}: {type(error).__name__}: {error}") from error
    finally:
        ray.shutdown()
    metrics = {"images": done.images, "masks": done.masks, "without_mask": done.without_mask}
    _end(lake, row, "succeeded", metrics, None)
    return done


class _Progress:
    """A bar on a terminal; elsewhere the log has its lines."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, done: int, of: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(length=of, label="images", file=sys.stderr)
        self._bar.update(done - self._bar.pos)


def _draw(lake: Lake, row: dict[str, Any], done: Masked, size: int) -> int:
    from dropmill.mask_pictures import draw_masks

    return draw_masks(lake, row["dataset"], done.model, done.model_version, row["run"], size=size)


def _new_run(lake: Lake, dataset: str, config: MasksConfig) -> dict[str, Any]:
    known = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM images").to_pylist()]
    if dataset not in known:
        raise ConfigError(f"{lake.url}: no image in data set {dataset!r}; data sets: {sorted(known)}")
    now = datetime.now(UTC)
    row = {
        "run": f"by-hand-{now:%Y%m%d-%H%M%S-%f}",
        "pipeline": "by hand",
        "step": "dataset masks",
        "dataset": dataset,
        # Not "submitted": a service on this lake would take it for one of its own.
        "state": "running",
        "snapshot": json.dumps(lake.snapshot()),
        "parameters": config.model_dump_json(exclude_none=True),
        "metrics": "{}",
        "outputs": "{}",
        "submitted_at": now,
    }
    _put(lake, row)
    return row


def _end(lake: Lake, row: dict[str, Any], state: str, metrics: dict[str, Any], error: str | None) -> None:
    ended = {"state": state, "metrics": json.dumps(metrics), "error": error, "ended_at": datetime.now(UTC)}
    _put(lake, {**row, **ended})


def _put(lake: Lake, row: dict[str, Any]) -> None:
    import pyarrow as pa

    from storage import schemas

    lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])
