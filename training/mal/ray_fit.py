"""The training of MAL inside Ray Train: processes, restarts and storage by Ray, the rest by ``fit``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.mal.coco_file import CocoFile
from training.mal.spec import MalSpec
from training.ray_train import RayTrainResult, place_of_worker, run_workers
from training.samples import Sample


def fit_with_ray(
    spec: MalSpec,
    train: Sequence[Sample],
    results_dir: str | Path,
    *,
    name: str,
    val: CocoFile | None = None,
    num_workers: int = 1,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    max_failures: int = 2,
) -> RayTrainResult:
    """Train with ``num_workers`` processes (``strategy``: DDP or FSDP); checkpoints lie in ``results_dir``.

    ``results_dir`` is a folder that every node sees; Ray's own records are in its folder ``ray``. A worker
    that dies is started again at most ``max_failures`` times and goes on from the last checkpoint; so does a
    call with the same folder. Raises ``TrainingError`` where training failed, with what the worker said.
    """
    import ray

    folder = Path(results_dir).resolve()
    return run_workers(
        _worker,
        {
            "spec": spec,
            "train": ray.put(list(train)),
            "val": ray.put(val),
            "folder": str(folder),
            "threads": max(1, int(cpus_per_worker)),
        },
        name=name,
        storage_path=str(folder / "ray"),
        num_workers=num_workers,
        use_gpu=use_gpu,
        cpus_per_worker=cpus_per_worker,
        max_failures=max_failures,
    )


def _worker(settings: dict[str, Any]) -> None:
    """What each process runs. Results lie in shared storage, so that a process started again finds them."""
    import ray
    import torch
    from ray import train as ray_train

    from training.mal.loop import EpochReport, fit

    place = place_of_worker(settings["threads"])
    spec: MalSpec = settings["spec"]
    folder = Path(settings["folder"])

    def report(done: EpochReport) -> None:
        # Ray keeps metrics only beside a checkpoint: the last epoch's go with the final weights, below.
        if done.epoch < spec.train.num_epochs:
            ray_train.report(dict(done.metrics))

    outcome = fit(
        spec,
        ray.get(settings["train"]),
        folder,
        val=ray.get(settings["val"]),
        place=place,
        on_epoch=report,
        device=ray_train.torch.get_device(),
        workers=spec.dataset.num_workers_per_gpu if torch.cuda.is_available() else 0,
    )
    if place.rank != 0:
        ray_train.report(dict(outcome.metrics))
        return
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        os.link(outcome.checkpoint, Path(staging) / outcome.checkpoint.name)
        ray_train.report(dict(outcome.metrics), checkpoint=ray_train.Checkpoint.from_directory(staging))
