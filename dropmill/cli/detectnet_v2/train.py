"""``train``: on TFRecords, on shards, or on the tables of a lake."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli.detectnet_v2 import options
from dropmill.extras import require
from dropmill.logs import set_up_logging
from storage.errors import ConfigError
from storage.lake import Lake

if TYPE_CHECKING:
    from dropmill.pipelines.steps_config import TrainConfig
    from training.detectnet_v2.spec import TrainSpec
    from training.samples import Sample


@click.command("train")
@options.experiment_spec(required=False)
@click.option(
    "-r", "--results_dir", type=options.PATH, help="With the spec's own data: folder of the results."
)
@click.option("--shards", help="With -e and -r: train on the shards in this folder or URL.")
@click.option("-n", "--model_name", default="model", show_default=True, help="Of the weights, with -r.")
@click.option("--lake", "lake_url", help="Train on the tables of this lake, and write results there.")
@click.option("--dataset", help="Train on this data set, as the tables are now.")
@click.option("--epochs", type=click.IntRange(1), help="Without a spec: epochs.")
@click.option("--batch-size", type=click.IntRange(1), help="Without a spec: images a step and worker.")
@click.option("--input-width", type=click.IntRange(32), help="Without a spec: width of the network's input.")
@click.option("--input-height", type=click.IntRange(32), help="Without a spec: its height.")
@click.option("--pretrained", type=options.FILE, help="A checkpoint whose weights are taken.")
@click.option(
    "--gpus", "workers", default=1, show_default=True, type=click.IntRange(1), help="Processes, one a GPU."
)
@click.option("--use_amp", is_flag=True, help="Mixed precision, as cost_scaling.enabled.")
@click.option("--loaders", type=click.IntRange(0), help="With -r: processes that read pictures.")
@click.option("--ray-address", help="A Ray cluster (else that of the job this runs in, else one is started).")
@options.without_meaning
@options.as_json
def train(
    spec_file: Path | None,
    results_dir: Path | None,
    shards: str | None,
    model_name: str,
    lake_url: str | None,
    dataset: str | None,
    epochs: int | None,
    batch_size: int | None,
    input_width: int | None,
    input_height: int | None,
    pretrained: Path | None,
    workers: int,
    loaders: int | None,
    ray_address: str | None,
    *,
    use_amp: bool,
    as_json: bool,
) -> None:
    """Train a detector: with -e and -r on the data of a spec, with --lake on a data set of a lake.

    The same command goes on from the last checkpoint. On a lake the model is also evaluated, exported and
    compiled, and it is all written down in the tables.
    """
    require("train")
    if lake_url is None:
        _train_files(
            spec_file, results_dir, shards, model_name, pretrained, workers, loaders, ray_address,
            use_amp=use_amp, as_json=as_json,
        )  # fmt: skip
        return
    if shards is not None:
        raise click.UsageError("--shards goes with -e and -r")
    if dataset is None:
        raise click.UsageError("--lake goes with --dataset")
    from dropmill.pipelines.steps_config import TrainConfig

    set_up_logging(as_json=not sys.stderr.isatty(), level=logging.INFO)
    config = TrainConfig(
        spec=spec_file and spec_file.resolve(),
        epochs=epochs,
        batch_size=batch_size,
        input_width=input_width,
        input_height=input_height,
        pretrained=pretrained and pretrained.resolve(),
        workers=workers,
    )
    if ray_address is not None:
        os.environ["RAY_ADDRESS"] = ray_address
    _train_lake(lake_url, dataset, config, as_json=as_json)


def _train_lake(lake_url: str, dataset: str, config: TrainConfig, *, as_json: bool) -> None:
    """Train, export and measure, each a run of its own that is done here and now."""
    from dropmill.pipelines.work import work_by_hand

    Lake.open(lake_url)
    lake = Lake.create(lake_url)
    parameters = config.model_dump(mode="json", exclude_none=True)
    runs = work_by_hand(lake, dataset, [("train", parameters), ("export", {}), ("evaluate", {})])
    metrics = {step.row["step"]: json.loads(step.row["metrics"]) for step in runs}
    if as_json:
        click.echo(json.dumps({"runs": [step.name for step in runs], "metrics": metrics}))
        return
    for step in runs:
        click.echo(f"{step.name}: files in {lake.url}/artifacts/runs/{step.name}")
    measured = metrics["evaluate"]
    click.echo(f"mAP50 {measured['mAP50']:.3f} on {measured['images']:.0f} images; see `dropmill status`")


def _train_files(
    spec_file: Path | None,
    results_dir: Path | None,
    shards: str | None,
    model_name: str,
    pretrained: Path | None,
    workers: int,
    loaders: int | None,
    ray_address: str | None,
    *,
    use_amp: bool,
    as_json: bool,
) -> None:
    if spec_file is None or results_dir is None:
        raise click.UsageError("give -e and -r, or --lake with --dataset")
    from training.detectnet_v2.dataset import check_classes
    from training.detectnet_v2.idle_keys import idle_keys
    from training.detectnet_v2.spec import load_spec, log_notices

    # Its own progress goes to the terminal; what else happens is logged.
    options.quiet_logging()
    spec = load_spec(spec_file)
    log_notices(str(spec_file), idle_keys(spec))
    if use_amp:
        scaling = replace(spec.training_config.cost_scaling, enabled=True)
        spec = replace(spec, training_config=replace(spec.training_config, cost_scaling=scaling))
    if pretrained is not None:
        spec = replace(spec, model_config=replace(spec.model_config, pretrained_model_file=str(pretrained)))
    sources = options.samples_of(spec, spec_file, None, None, shards)
    check_classes(spec, sources.train, sources.val)
    if workers > 1 or ray_address is not None:
        metrics, weights = _with_ray(
            spec, sources.train, sources.val, results_dir, workers, ray_address, model_name, loaders or 0
        )
    else:
        metrics, weights = _in_this_process(
            spec, sources.train, sources.val, results_dir, model_name, loaders
        )
    if as_json:
        click.echo(json.dumps({"weights": str(weights), "metrics": metrics}))
        return
    measured = f"mAP50 {metrics['val_map50']:.3f}, " if "val_map50" in metrics else ""
    click.echo(
        f"{measured}cost {metrics.get('cost', 0.0):.4g} after epoch {metrics.get('epoch', 0):.0f}: {weights}"
    )


def _in_this_process(
    spec: TrainSpec,
    train_samples: list[Sample],
    val: list[Sample],
    folder: Path,
    name: str,
    loaders: int | None,
) -> tuple[dict[str, float], Path]:
    from dropmill.cli.detectnet_v2.progress import TrainingProgress
    from training.detectnet_v2.loop import fit

    if loaders is None:
        import torch

        # Beside a GPU pictures are read by other processes; on a CPU these would only take its cores away.
        loaders = min(8, len(os.sched_getaffinity(0)) - 1) if torch.cuda.is_available() else 0
    with TrainingProgress() as progress:
        result = fit(
            spec,
            train_samples,
            val,
            folder,
            on_epoch=progress.epoch,
            on_step=progress.step,
            workers=loaders,
            name=name,
        )
    trainable, fixed = result.parameters
    click.echo(f"Total params: {trainable + fixed:,}", err=True)
    click.echo(f"Trainable params: {trainable:,}", err=True)
    click.echo(f"Non-trainable params: {fixed:,}", err=True)
    return dict(result.metrics), result.model_path


def _with_ray(
    spec: TrainSpec,
    train_samples: list[Sample],
    val: list[Sample],
    folder: Path,
    workers: int,
    ray_address: str | None,
    name: str,
    loaders: int,
) -> tuple[dict[str, float], Path]:
    import ray

    from dropmill.follow import Follow
    from ingest.tasks import start_ray
    from training.detectnet_v2.ray_fit import fit_with_ray

    address = ray_address or os.environ.get("RAY_ADDRESS")
    # Each worker asks for a CPU. Where there are fewer they share them, instead of waiting for ever.
    start_ray(address, num_cpus=max(workers, os.cpu_count() or 1))
    try:
        if address is None and 0 < _gpus() < workers:
            raise ConfigError(f"--gpus is {workers}, and this machine shows {_gpus():g}")
        with Follow(folder / "metrics.jsonl"):
            result = fit_with_ray(
                spec,
                train_samples,
                val,
                folder / "ray",
                name="train",
                num_workers=workers,
                use_gpu=_gpus() > 0,
                results_dir=folder,
                model_name=name,
                loaders=loaders,
            )
    finally:
        ray.shutdown()
    return dict(result.metrics), folder / "weights" / f"{name}.pt"


def _gpus() -> float:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0)
