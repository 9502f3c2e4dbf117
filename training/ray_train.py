"""The training loop inside Ray Train: processes, restarts and storage by Ray, everything else by ``fit``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import DropmillError, TrainingError
from training.detectnet_v2.spec import TrainSpec
from training.samples import Sample


@dataclass(frozen=True, kw_only=True)
class RayTrainResult:
    """``checkpoint_dir`` holds ``model.pt``, and ``best.pt`` where validation chose one; ``metrics`` are the
    last.
    """

    checkpoint_dir: Path
    metrics: dict[str, Any]


def train_with_ray(
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
) -> RayTrainResult:
    """Train with ``num_workers`` processes under Ray Train and keep everything in ``storage_path/name``.

    ``storage_path`` is an absolute folder that every node sees, and so is ``results_dir`` (default: the
    folder ``results`` in it), where the loop leaves its checkpoints and metrics. A worker that dies is
    started again at most ``max_failures`` times and goes on from the last checkpoint; so does a call with the
    same ``name``. Raises ``TrainingError`` where training failed, with what the worker said.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = Path(storage_path).resolve() / name
    settings = {
        "spec": spec,
        "train": ray.put(list(train)),
        "val": ray.put(list(val)),
        "results_dir": str(Path(results_dir).resolve() if results_dir else folder / "results"),
        "threads": threads_per_worker or max(1, int(cpus_per_worker)),
    }
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus_per_worker}
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise failure_cause(error) from error
    if result.checkpoint is None or result.metrics is None:
        raise TrainingError(f"{folder}: Ray Train ended without a checkpoint; look at its logs there")
    return RayTrainResult(checkpoint_dir=Path(result.checkpoint.path), metrics=dict(result.metrics))


def _train_worker(settings: dict[str, Any]) -> None:
    """What each process runs. Results lie in shared storage, so that a process started again finds them."""
    import ray
    import torch
    from ray import train as ray_train

    from training.detectnet_v2.loop import Distributed, EpochReport, fit

    torch.set_num_threads(settings["threads"])
    context = ray_train.get_context()
    place = Distributed(rank=context.get_world_rank(), world=context.get_world_size())
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
        distributed=place,
        on_epoch=report,
        device=ray_train.torch.get_device(),
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


def failure_cause(error: BaseException) -> DropmillError:
    """Our own error where Ray wrapped one, else a ``TrainingError`` with the innermost message."""
    inner: BaseException = error
    seen = {id(inner)}
    while True:
        if isinstance(inner, DropmillError):
            return inner
        failures = list(getattr(inner, "worker_failures", {}).values())
        following = failures[0] if failures else (inner.__cause__ or getattr(inner, "cause", None))
        if not isinstance(following, BaseException) or id(following) in seen:
            return TrainingError(f"training failed: {type(inner).__name__}: {inner}")
        inner = following
        seen.add(id(inner))
