"""The training of DetectNet_v2 inside Ray Train: processes and restarts by Ray, the rest by ``fit``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.detectnet_v2.spec import TrainSpec
from training.ray_train import RayTrainResult, place_of_worker, run_workers
from training.samples import Sample


def fit_with_ray(
    spec: TrainSpec,
    train: Sequence[Sample],
    val: Sequence[Sample],
    storage_path: str | Path,
    *,
    name: str,
    num_workers: int = 1,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    threads_per_worker: int | None = None,
    max_failures: int = 2,
    results_dir: str | Path | None = None,
    model_name: str = "model",
    loaders: int = 0,
) -> RayTrainResult:
    """Train with ``num_workers`` processes under Ray Train and keep everything in ``storage_path/name``.

    ``storage_path`` is an absolute folder that every node sees, and so is ``results_dir`` (default: the
    folder ``results`` in it), where the loop leaves its checkpoints and metrics. A worker that dies is
    started again at most ``max_failures`` times and goes on from the last checkpoint; so does a call with the
    same ``name``. The checkpoint holds ``<model_name>.pt``, and ``best.pt`` where validation chose one. Each
    worker reads pictures in ``loaders`` more processes. Raises ``TrainingError`` where training failed, with
    what the worker said.
    """
    import ray

    folder = Path(storage_path).resolve() / name
    settings = {
        "spec": spec,
        "train": ray.put(list(train)),
        "val": ray.put(list(val)),
        "results_dir": str(Path(results_dir).resolve() if results_dir else folder / "results"),
        "threads": threads_per_worker or max(1, int(cpus_per_worker)),
        "model_name": model_name,
        "loaders": loaders,
    }
    return run_workers(
        _worker,
        settings,
        name=name,
        storage_path=str(folder.parent),
        num_workers=num_workers,
        use_gpu=use_gpu,
        cpus_per_worker=cpus_per_worker,
        max_failures=max_failures,
    )


def _worker(settings: dict[str, Any]) -> None:
    """What each process runs. Results lie in shared storage, so that a process started again finds them."""
    import ray
    from ray import train as ray_train

    from training.detectnet_v2.loop import EpochReport, fit

    place = place_of_worker(settings["threads"])
    results = Path(settings["results_dir"])
    epochs = settings["spec"].training_config.num_epochs

    def report(done: EpochReport) -> None:
        # Ray keeps metrics only beside a checkpoint: the last epoch's go with the final weights, below.
        if done.epoch < epochs:
            ray_train.report(dict(done.metrics))

    outcome = fit(
        settings["spec"],
        ray.get(settings["train"]),
        ray.get(settings["val"]),
        results,
        place=place,
        on_epoch=report,
        device=ray_train.torch.get_device(),
        workers=settings["loaders"],
        name=settings["model_name"],
    )
    metrics = dict(outcome.metrics) | {"best_map50": outcome.best_map50, "epochs": outcome.epochs}
    if place.rank != 0:
        ray_train.report(metrics)
        return
    with tempfile.TemporaryDirectory(dir=results) as staging:
        for path in (outcome.model_path, outcome.best_path):
            if path is not None:
                os.link(path, Path(staging) / path.name)
        ray_train.report(metrics, checkpoint=ray_train.Checkpoint.from_directory(staging))
