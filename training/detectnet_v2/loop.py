"""The training loop.

1. Data sets, network (perhaps pretrained), Adam, weights of the objectives; or all of it from the newest
   checkpoint of the results folder.
2. Each epoch: steps in an order drawn from (seed, epoch); objective weights adapted; validation when due.
3. Checkpoint, metrics line, ``on_epoch``.
4. At the end ``weights/model.pt`` (the last epoch) and ``weights/best.pt`` (the best validated one).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from storage.errors import TrainingError
from training.detectnet_v2 import validate
from training.detectnet_v2.checkpoint import load_checkpoint, restore_weights, save_checkpoint
from training.detectnet_v2.cost import TargetBatch
from training.detectnet_v2.dataset import DetectionDataset, EpochOrder, collate
from training.detectnet_v2.model import parameter_counts
from training.detectnet_v2.precision import Precision
from training.detectnet_v2.schedule import EarlyStopping
from training.detectnet_v2.spec import TrainSpec
from training.detectnet_v2.step import Stepper
from training.detectnet_v2.visualise import Visualiser
from training.place import Place
from training.samples import Sample

logger = logging.getLogger(__name__)

_DEFAULT_CHECKPOINT_INTERVAL = 10
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """After an epoch (counted from 1), in every process; ``checkpoint`` in the first one only, when it was
    written.
    """

    epoch: int
    metrics: Mapping[str, float]
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """After a step (counted from 1 in its epoch), in the first process only."""

    epoch: int
    epochs: int
    step: int
    steps: int
    cost: float
    images_per_second: float
    """Of all processes, since the epoch began."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """``model_path`` holds the last epoch, ``best_path`` the best validated one (None without validation
    samples).

    ``metrics`` are those of the last epoch and ``best_map50`` of the best; ``history`` has one entry per
    epoch that this call trained. Parameter counts are trainable and fixed.
    """

    model_path: Path
    best_path: Path | None
    metrics: Mapping[str, float]
    best_map50: float | None
    epochs: int
    parameters: tuple[int, int]
    precision: Precision
    history: tuple[Mapping[str, float], ...] = field(default_factory=tuple)


def fit(
    spec: TrainSpec,
    train: Sequence[Sample],
    val: Sequence[Sample],
    results_dir: str | Path,
    *,
    place: Place | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    resume: bool = True,
    device: torch.device | str | None = None,
    workers: int = 0,
    name: str = "model",
) -> FitResult:
    """Train a detector and leave its weights, checkpoints and ``metrics.jsonl`` in ``results_dir``.

    The same spec, samples and seed give the same weights, also when the run was interrupted and is continued
    from a checkpoint (on the same kind of machine). ``workers`` are processes that read images; the weights
    of the last epoch get ``name``. Raises
    ``ConfigError`` for a spec that cannot be trained, ``TrainingError`` for data without objects, checkpoints
    of another run, and a cost that is not finite.
    """
    run = _Run(spec, train, val, Path(results_dir), place or Place(), device, workers, name)
    if resume:
        run.resume()
    history: list[Mapping[str, float]] = []
    while not run.over():
        started = time.monotonic()
        metrics = run.train_epoch(on_step)
        run.epoch += 1
        if run.validation_is_due():
            metrics |= run.validate()
        metrics["seconds"] = time.monotonic() - started
        run.note(metrics)
        history.append(metrics)
        checkpoint = run.save(metrics)
        if on_epoch is not None:
            on_epoch(EpochReport(epoch=run.epoch, metrics=metrics, checkpoint=checkpoint))
    return run.finish(history)


class _Run:
    """All that changes during a training."""

    def __init__(
        self,
        spec: TrainSpec,
        train: Sequence[Sample],
        val: Sequence[Sample],
        results_dir: Path,
        place: Place,
        device: torch.device | str | None,
        workers: int,
        name: str,
    ) -> None:
        self._name = name
        self._spec, self._dir, self._place = spec, results_dir, place
        self._device = _device(device)
        self._data = DetectionDataset(train, spec, train=True)
        self._val, self._val_data = list(val), DetectionDataset(val, spec, train=False)
        self._order = EpochOrder(len(train), seed=spec.random_seed, rank=place.rank, world=place.world)
        self._loader = DataLoader(
            self._data,
            batch_size=spec.training_config.batch_size_per_gpu,
            sampler=self._order,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self._device.type == "cuda",
        )
        self._stepper = Stepper(spec, self._device, world=place.world)
        self.model = self._stepper.model
        self._fingerprint = _fingerprint(train, place.world)
        self._steps = len(self._loader)
        self._best: float | None = None
        self._stopping = EarlyStopping(spec)
        self._visualiser: Visualiser | None = Visualiser(spec, results_dir) if place.rank == 0 else None
        self._last_metrics: dict[str, float] = {}
        self.epoch = 0  # epochs done
        if place.rank == 0:
            trainable, fixed = parameter_counts(self.model)
            logger.info("model total=%d trainable=%d non_trainable=%d", trainable + fixed, trainable, fixed)
            logger.info("data train=%d val=%d precision=%s", len(train), len(val), self._stepper.precision)

    def train_epoch(self, on_step: Callable[[StepReport], None] | None = None) -> dict[str, float]:
        """One pass over the samples of this process."""
        self._stepper.train()
        self._data.epoch = self._order.epoch = self.epoch
        epoch_costs = torch.zeros(len(self._spec.classes), 2, device=self._device)
        rate = total = waited = 0.0
        images = 0
        began = asked = time.monotonic()
        for step, (pixels, target) in enumerate(self._loader):
            waited += time.monotonic() - asked
            rate = self._stopping.rate(self.epoch + step / self._steps)
            costs, cost = self._step(pixels, target, rate)
            epoch_costs += costs
            total += cost
            images += len(pixels) * self._place.world
            asked = time.monotonic()
            speed = images / (asked - began)
            if self._visualiser is not None:
                number = self.epoch * self._steps + step
                self._visualiser.step(
                    number, {"cost": cost, "learning_rate": rate, "images_per_second": speed}
                )
                if on_step is not None:
                    on_step(self._report(step + 1, cost, speed))
        seconds = time.monotonic() - began
        if self._place.world > 1:
            dist.all_reduce(epoch_costs)
        means = (epoch_costs / self._steps / self._place.world).cpu()
        metrics = {"epoch": float(self.epoch + 1), "cost": total / self._steps, "learning_rate": rate}
        metrics |= {"images_per_second": images / seconds, "data_wait_share": waited / seconds}
        for name, (cov, bbox) in zip(self._spec.classes, means.tolist(), strict=True):
            metrics |= {f"cost_cov/{name}": cov, f"cost_bbox/{name}": bbox}
        self._stepper.weights.update(epoch_costs)
        return metrics

    def _step(self, pixels: Tensor, target: TargetBatch, rate: float) -> tuple[Tensor, float]:
        try:
            return self._stepper.step(pixels, target, rate)
        except TrainingError as error:
            found, _, place = error.message.partition(" at ")
            raise TrainingError(
                f"{found} in epoch {self.epoch + 1} at {place}; lower it, or switch mixed precision "
                "(cost_scaling.enabled) off",
                epoch=self.epoch + 1,
            ) from None

    def validation_is_due(self) -> bool:
        """At the first validation epoch, every period after it, and at the end."""
        config = self._spec.evaluation_config
        since = self.epoch - config.first_validation_epoch
        period = config.validation_period_during_training
        last = self.over()
        return bool(self._val) and (last or (since >= 0 and since % period == 0))

    def over(self) -> bool:
        """Whether there is no further epoch."""
        return self._stopping.over(self.epoch)

    def note(self, metrics: dict[str, float]) -> None:
        """Let early stopping and the visualiser know how an epoch went."""
        self._stopping.look(self.epoch, map50=metrics.get("val_map50"), cost=metrics.get("val_cost"))
        if self._visualiser is None:
            return
        self._visualiser.epoch(self.epoch, metrics)
        if self._visualiser.wants_pictures(self.epoch):
            data = self._val_data if self._val else self._data
            pixels = [data[index][0] for index in range(min(len(data), 8))]
            self.model.eval()
            self._visualiser.pictures(self.epoch, self.model, torch.stack(pixels))

    def _report(self, step: int, cost: float, speed: float) -> StepReport:
        return StepReport(
            epoch=self.epoch + 1,
            epochs=self._spec.training_config.num_epochs,
            step=step,
            steps=self._steps,
            cost=cost,
            images_per_second=speed,
        )

    def validate(self) -> dict[str, float]:
        """The same metrics in every process, each having looked at its share of the samples."""
        self.model.eval()
        outputs = validate.run(
            self._stepper.predict,
            self._val,
            self._val_data,
            self._spec,
            grid=self.model,
            rank=self._place.rank,
            world=self._place.world,
        )
        if self._place.world > 1:
            parts: list[Any] = [None] * self._place.world
            dist.all_gather_object(parts, outputs)
            outputs = parts[0]
            for part in parts[1:]:
                outputs.merge(part)
        return validate.metrics_of(outputs, self._spec, self._stepper.weights)

    def save(self, metrics: dict[str, float]) -> Path | None:
        """Write what is due after an epoch; the path of the checkpoint, if one was due."""
        self._last_metrics = metrics
        map50 = metrics.get("val_map50")
        better = map50 is not None and (self._best is None or map50 > self._best)
        if better:
            self._best = map50
        if self._place.rank != 0:
            return None
        self._dir.mkdir(parents=True, exist_ok=True)
        with (self._dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        logger.info(
            "epoch=%d %s", self.epoch, " ".join(f"{k}={v:.6g}" for k, v in metrics.items() if k != "epoch")
        )
        if better:
            save_checkpoint(self._dir / "weights" / "best.pt", self.model, self._spec, metrics=metrics)
        interval = self._spec.training_config.checkpoint_interval or _DEFAULT_CHECKPOINT_INTERVAL
        if self.epoch % interval and not self.over():
            return None
        path = self._dir / "checkpoints" / f"epoch-{self.epoch:05d}.pt"
        save_checkpoint(path, self.model, self._spec, metrics=metrics, training=self._state())
        for old in sorted(path.parent.glob("epoch-*.pt"))[:-_KEPT_CHECKPOINTS]:
            old.unlink()
        return path

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "best": self._best,
            "stopping": self._stopping.state(),
            "fingerprint": self._fingerprint,
            **self._stepper.state(),
        }

    def resume(self) -> None:
        """Go on from the newest checkpoint of the results folder, if there is one."""
        found = sorted((self._dir / "checkpoints").glob("epoch-*.pt"))
        if not found:
            return
        path = found[-1]
        checkpoint = load_checkpoint(path)
        state = checkpoint.training
        if checkpoint.spec != self._spec:
            raise TrainingError(f"{path}: trained with another spec; use another results folder or no resume")
        if state.get("fingerprint") != self._fingerprint:
            raise TrainingError(
                f"{path}: trained with other samples or another number of processes; use another "
                "results folder or no resume"
            )
        try:
            restore_weights(self.model, checkpoint, path)
            self._stepper.restore(dict(state))
            self._best = state["best"]
            self._stopping.restore(state["stopping"])
            self.epoch = int(state["epoch"])
        except (KeyError, ValueError, TypeError) as error:
            raise TrainingError(f"{path}: not a whole checkpoint: {type(error).__name__}: {error}") from None
        self._last_metrics = dict(checkpoint.metrics)
        if self._place.rank == 0:
            logger.info("resume epoch=%d checkpoint=%s", self.epoch, path)

    def finish(self, history: Sequence[Mapping[str, float]]) -> FitResult:
        """Write the last weights and say what came out."""
        if self._visualiser is not None:
            self._visualiser.close()
        model_path, best_path = self._dir / "weights" / f"{self._name}.pt", self._dir / "weights" / "best.pt"
        if self._place.rank == 0:
            save_checkpoint(model_path, self.model, self._spec, metrics=self._last_metrics)
        if self._place.world > 1:
            dist.barrier()
        return FitResult(
            model_path=model_path,
            best_path=best_path if self._best is not None else None,
            metrics=self._last_metrics,
            best_map50=self._best,
            epochs=self.epoch,
            parameters=parameter_counts(self.model),
            precision=self._stepper.precision,
            history=tuple(history),
        )


def _device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _fingerprint(samples: Sequence[Sample], world: int) -> str:
    """What, beside the spec, decides the course of a training."""
    digest = hashlib.blake2b(f"{world}".encode(), digest_size=16)
    for sample in samples:
        digest.update(f"\n{sample.id}\t{sample.width}x{sample.height}\t{sample.categories}".encode())
        digest.update(sample.boxes.tobytes())
        digest.update(sample.ignore.tobytes())
    return digest.hexdigest()
