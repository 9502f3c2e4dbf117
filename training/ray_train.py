"""Training loops inside Ray Train: processes and restarts by Ray, the rest by the loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import DropmillError, TrainingError
from training.place import Place


@dataclass(frozen=True, kw_only=True)
class RayTrainResult:
    """The files of the checkpoint that the first worker reported last, and the metrics beside it."""

    checkpoint_dir: Path
    metrics: dict[str, Any]


def run_workers(
    worker: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any],
    *,
    name: str,
    storage_path: str,
    num_workers: int | tuple[int, int] = 1,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    max_failures: int = 2,
) -> RayTrainResult:
    """Run ``worker(settings)`` in ``num_workers`` processes; two numbers are the fewest and the most.

    Ray's records are in ``storage_path/name``, a folder that every node sees or a URL. Where a worker dies,
    or a node is taken away, all are started again, at most ``max_failures`` times; what was done before is
    theirs to find. Raises the worker's own ``DropmillError``, or a ``TrainingError`` with the last message.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        worker,
        train_loop_config=dict(settings),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]  # two numbers are not in its annotation
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_worker},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise _cause(error) from error
    if result.checkpoint is None or result.metrics is None:
        raise TrainingError(
            f"{storage_path}/{name}: Ray Train ended without a checkpoint; look at its logs there"
        )
    return RayTrainResult(checkpoint_dir=Path(result.checkpoint.path), metrics=dict(result.metrics))


def place_of_worker(threads: int) -> Place:
    """The place of this worker, which computes with ``threads`` threads from here on."""
    import torch
    from ray import train

    torch.set_num_threads(threads)
    context = train.get_context()
    return Place(rank=context.get_world_rank(), world=context.get_world_size())


def _cause(error: BaseException) -> DropmillError:
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
