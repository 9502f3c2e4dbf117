"""The training inside Ray Train: processes, restarts and storage by Ray, everything else by ``fit``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.ray_train import RayTrainResult, place_of_worker, run_workers
from training.samples import Sample
from training.zoo.spec import ZooSpec


def fit_with_ray(
    spec: ZooSpec,
    train: Sequence[Sample],
    work_dir: str | Path,
    *,
    name: str,
    val: Sequence[Sample] = (),
    num_workers: int | tuple[int, int] = 1,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    max_failures: int = 3,
    ray_dir: str | Path | None = None,
) -> RayTrainResult:
    """Train with ``num_workers`` processes; two numbers are the fewest and the most of an elastic training.

    ``work_dir`` is a folder that every node sees, or a URL; ``ray_dir`` (default: ``ray`` in it) is for
    Ray's own records. A worker that dies, or a node that is taken away, starts all workers again from the
    last checkpoint, at most ``max_failures`` times; preempted nodes do not count. Batch and learning rate
    follow the processes that there are. So does a call with the same folder go on. Raises ``TrainingError``
    where training failed, with what the worker said.
    """
    import ray

    place = str(work_dir) if "://" in str(work_dir) else str(Path(work_dir).resolve())
    return run_workers(
        _worker,
        {
            "spec": spec,
            "train": ray.put(list(train)),
            "val": ray.put(list(val)),
            "work_dir": place,
            "threads": max(1, int(cpus_per_worker)),
        },
        name=name,
        storage_path=str(ray_dir or f"{place}/ray"),
        num_workers=num_workers,
        use_gpu=use_gpu,
        cpus_per_worker=cpus_per_worker,
        max_failures=max_failures,
    )


def _worker(settings: dict[str, Any]) -> None:
    """What each process runs. Results lie in shared storage, so that a process started again finds them."""
    import ray
    from ray import train as ray_train

    from training.zoo.loop import BEST, LAST, EpochReport, fit
    from training.zoo.work_dir import WorkDir

    place = place_of_worker(settings["threads"])
    spec: ZooSpec = settings["spec"]

    def report(done: EpochReport) -> None:
        # Ray keeps metrics only beside a checkpoint: the last epoch's go with the final weights, below.
        if done.epoch < spec.train.epochs:
            ray_train.report(dict(done.metrics))

    outcome = fit(
        spec,
        ray.get(settings["train"]),
        settings["work_dir"],
        val=ray.get(settings["val"]),
        place=place,
        on_epoch=report,
        device=ray_train.torch.get_device(),
    )
    if place.rank != 0:
        ray_train.report(dict(outcome.metrics))
        return
    folder = WorkDir(settings["work_dir"])
    with tempfile.TemporaryDirectory() as staging:
        for name in (LAST, BEST):
            if (data := folder.read(name)) is not None:
                (Path(staging) / name).write_bytes(data)
        ray_train.report(dict(outcome.metrics), checkpoint=ray_train.Checkpoint.from_directory(staging))
