"""The training inside Ray Train: processes, restarts and storage by Ray, everything else by ``fit``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.errors import TrainingError
from training.ray_train import RayTrainResult, failure_cause
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
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    place = str(work_dir) if "://" in str(work_dir) else str(Path(work_dir).resolve())
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "spec": spec,
            "train": ray.put(list(train)),
            "val": ray.put(list(val)),
            "work_dir": place,
            "threads": max(1, int(cpus_per_worker)),
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]  # two numbers are not in its annotation
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(ray_dir or f"{place}/ray"),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise failure_cause(error) from error
    if result.checkpoint is None or result.metrics is None:
        raise TrainingError(f"{place}: Ray Train ended without a checkpoint; look at its logs there")
    return RayTrainResult(checkpoint_dir=Path(result.checkpoint.path), metrics=dict(result.metrics))


def _worker(settings: dict[str, Any]) -> None:
    """What each process runs. Results lie in shared storage, so that a process started again finds them."""
    import ray
    import torch
    from ray import train as ray_train

    from training.mal.parallel import Place
    from training.zoo.loop import BEST, LAST, EpochReport, fit
    from training.zoo.work_dir import WorkDir

    torch.set_num_threads(settings["threads"])
    context = ray_train.get_context()
    place = Place(rank=context.get_world_rank(), world=context.get_world_size())
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
