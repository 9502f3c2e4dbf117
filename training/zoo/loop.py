"""The training loop.

1. Classes, network, optimiser; or all of it from ``resume_from``, or from ``last.pt`` of the folder.
2. Each step: a batch, its losses, their gradients; after ``accumulate`` of them a move of the optimiser and
   of the moving average.
3. Each epoch: validation when due, ``last.pt``, ``best.pt`` where it got better, ``metrics.jsonl``,
   TensorBoard, ``on_epoch``.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from storage.errors import ConfigError, TrainingError
from training.mal.precision import autocast, loss_scaler
from training.place import Place
from training.samples import Sample
from training.spec_file import plain
from training.zoo.checkpoint import Checkpoint, checkpoint_bytes, parse_checkpoint, read_checkpoint
from training.zoo.data import BatchOrder, DetectionDataset, classes_of, collate
from training.zoo.detectors import build_detector, gives_masks
from training.zoo.evaluate import gathered, measured
from training.zoo.predict import predict
from training.zoo.registry import import_parts
from training.zoo.schedule import build_optimizer, learning_rate
from training.zoo.spec import ZooSpec
from training.zoo.work_dir import WorkDir

log = logging.getLogger(__name__)

LAST, BEST, METRICS = "last.pt", "best.pt", "metrics.jsonl"
_NOT_OF_THE_COURSE = ("resume_from", "load_from", "tensorboard", "keep_checkpoints", "metrics")


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """After an epoch (counted from 1), in every process."""

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """``last`` and ``best`` are the places of the checkpoints (best is None without validation)."""

    last: str
    best: str | None
    metrics: Mapping[str, float]
    epochs: int
    history: tuple[Mapping[str, float], ...] = field(default_factory=tuple)


def fit(
    spec: ZooSpec,
    train: Sequence[Sample],
    work_dir: str | Path,
    *,
    val: Sequence[Sample] = (),
    place: Place | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
    device: torch.device | str | None = None,
) -> FitResult:
    """Train a detector and leave checkpoints and metrics in ``work_dir``, a folder or URL.

    The same spec, samples, seed and processes give the same weights, also where the training was cut short
    between epochs and is continued; with other numbers of processes the batch and the rate follow. Raises
    ``ConfigError``, and ``TrainingError`` for data without objects, checkpoints of another training, and a
    loss that is not finite.
    """
    run = _Run(spec, train, val, WorkDir(work_dir), place or Place(), device)
    run.begin()
    while run.epoch < spec.train.epochs:
        began = time.monotonic()
        metrics = run.train_epoch(on_step)
        run.epoch += 1
        if val and (run.epoch == spec.train.epochs or run.epoch % spec.train.validate_every == 0):
            metrics |= run.validate()
        metrics["seconds"] = time.monotonic() - began
        run.keep(metrics)
        if on_epoch is not None:
            on_epoch(EpochReport(epoch=run.epoch, metrics=metrics))
    return run.result()


class _Run:
    """All that changes during a training."""

    def __init__(
        self,
        spec: ZooSpec,
        train: Sequence[Sample],
        val: Sequence[Sample],
        folder: WorkDir,
        place: Place,
        device: torch.device | str | None,
    ) -> None:
        import_parts(spec.model.imports)
        self._spec, self._folder, self._place = spec, folder, place
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.classes = classes_of(train, spec.data.classes)
        if spec.model.norm == "sync" and place.world > 1 and self._device.type != "cuda":
            raise ConfigError(
                "model.norm: sync needs GPUs where several processes train; take frozen or batch"
            )
        self._val = list(val)
        masks = gives_masks(spec.model)
        self._metrics = spec.train.metrics or (("bbox", "segm") if masks else ("bbox",))
        data = DetectionDataset(train, self.classes, spec.data, spec.model, masks=masks, seed=spec.train.seed)
        if spec.data.filter_empty:
            data.samples = tuple(one for one in data.samples if data.split(one)[0])
        if not len(data):
            raise TrainingError(
                "no training image with an object; expected some, or data.filter_empty: false"
            )
        self._data = data
        self._order = BatchOrder(
            len(data),
            spec.train.batch_size,
            seed=spec.train.seed,
            rank=place.rank,
            world=place.world,
            shapes=[one.height / one.width for one in data.samples] if spec.train.group_by_shape else None,
        )
        self._loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=self._order,
            collate_fn=collate,
            num_workers=spec.data.workers,
            persistent_workers=spec.data.workers > 0,
            pin_memory=self._device.type == "cuda",
            # Else it would take a number of those that the network's sampling draws from.
            generator=torch.Generator(),
        )
        torch.manual_seed(spec.train.seed)
        self._network = build_detector(spec.model, len(self.classes)).to(self._device)
        self._average: AveragedModel | None = None
        self._called: nn.Module = self._network
        self._optimizer = build_optimizer(self._network, spec.train)
        self._scaler = loss_scaler(self._device, enabled=spec.train.amp)
        self._updates_per_epoch = math.ceil(len(self._order) / spec.train.accumulate)
        self._board: Any = None
        self.epoch = 0
        self._best: float | None = None
        self._history: list[dict[str, float]] = []

    def begin(self) -> None:
        """Take the weights that there are to take, and make ready for several processes."""
        spec = self._spec.train
        if spec.resume_from:
            self._resume(read_checkpoint(spec.resume_from), spec.resume_from)
        elif (data := self._folder.read(LAST)) is not None:
            self._resume(parse_checkpoint(data, self._folder.path(LAST)), self._folder.path(LAST))
        elif spec.load_from:
            self._load(spec.load_from)
        if spec.ema and self._average is None:
            self._average = self._averaged()
        if self._place.world > 1:
            devices = [self._device] if self._device.type == "cuda" else None
            self._called = DistributedDataParallel(self._network, device_ids=devices)
        if self._place.rank == 0:
            if spec.tensorboard:
                self._board = self._folder.board()
            count = sum(p.numel() for p in self._network.parameters())
            log.info(
                "training",
                extra={
                    "detector": self._spec.model.detector,
                    "parameters": count,
                    "images": len(self._data),
                    "classes": len(self.classes),
                    "epoch": self.epoch,
                },
            )

    def train_epoch(self, on_step: Callable[[int, Mapping[str, float]], None] | None) -> dict[str, float]:
        """One pass over the samples."""
        spec = self._spec.train
        self._order.epoch = self.epoch
        self._data.set_epoch(self.epoch)
        # Every epoch draws anew from its own seed, so that a continued training draws the same.
        torch.manual_seed(spec.seed + 1_000_003 * self.epoch + self._place.rank)
        self._network.train()
        sums: dict[str, float] = {}
        steps, waited, rate = len(self._order), 0.0, 0.0
        for step, (images, targets, seconds) in enumerate(self._batches()):
            waited += seconds
            update = self.epoch * self._updates_per_epoch + step // spec.accumulate
            rate = learning_rate(spec, update, self._updates_per_epoch, self._place.world)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            last = (step + 1) % spec.accumulate == 0 or step + 1 == steps
            with self._apart(move=last):
                losses = self._step(images, targets, step, move=last)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            if on_step is not None:
                on_step(self.epoch * steps + step, losses)
            if self._board is not None:
                for name, value in losses.items():
                    self._board.add_scalar(f"step/{name}", value, self.epoch * steps + step)
        return {
            "epoch": self.epoch + 1,
            **self._shared({name: value / steps for name, value in sums.items()}),
            "learning_rate": rate,
            "waiting_s": waited,
        }

    def _batches(self) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]], float]]:
        """Batches on the device, and the seconds that each was waited for."""
        began = time.monotonic()
        for images, targets in self._loader:
            here = [image.to(self._device, non_blocking=True) for image in images]
            there = [
                {name: value.to(self._device, non_blocking=True) for name, value in target.items()}
                for target in targets
            ]
            yield here, there, time.monotonic() - began
            began = time.monotonic()

    def _apart(self, *, move: bool) -> AbstractContextManager[Any]:
        """Processes need not share gradients that more are added to."""
        called = self._called
        return called.no_sync() if isinstance(called, DistributedDataParallel) and not move else nullcontext()

    def _step(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], step: int, *, move: bool
    ) -> dict[str, float]:
        spec = self._spec.train
        with autocast(self._device, enabled=spec.amp):
            losses: dict[str, Tensor] = self._called(images, targets)
            loss: Tensor = sum(losses.values())  # type: ignore[assignment]
        values = {name: float(value.detach()) for name, value in losses.items()} | {
            "loss": float(loss.detach())
        }
        if not math.isfinite(values["loss"]):
            parts = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch + 1}, step {step} ({parts}); lower train.lr "
                f"(the rate was {self._optimizer.param_groups[0]['lr']:.3g}), raise train.warmup_steps, or "
                "set train.clip_norm",
                epoch=self.epoch + 1,
            )
        self._scaler.scale(loss / spec.accumulate).backward()
        if move:
            if spec.clip_norm:
                self._scaler.unscale_(self._optimizer)
                nn.utils.clip_grad_norm_(self._network.parameters(), spec.clip_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            if self._average is not None:
                self._average.update_parameters(self._network)
        return values

    def _shared(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over all processes."""
        if self._place.world == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self._device)
        dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self._place.world).tolist(), strict=True))

    def validate(self) -> dict[str, float]:
        """The same metrics in every process, each having looked at its share of the images."""
        network = self._average.module if self._average is not None else self._network
        mine = range(self._place.rank, len(self._val), self._place.world)
        pairs = predict(
            network,
            (self._val[i] for i in mine),
            batch_size=self._spec.train.batch_size,
            device=self._device,
        )
        found = gathered([(i, one) for i, (_, one) in zip(mine, pairs, strict=True)], self._place.world)
        report = measured([(self._val[i], one) for i, one in found], self.classes, metrics=self._metrics)
        return dict(report.coco.metrics)

    def keep(self, metrics: dict[str, float]) -> None:
        """Write down the epoch. Weights come last: what they know of is there already."""
        self._history.append(metrics)
        judged = metrics.get("segm_mAP", metrics.get("bbox_mAP"))
        better = judged is not None and (self._best is None or judged > self._best)
        if better:
            self._best = judged
        if self._place.rank == 0:
            self._write(metrics, better=better)
        if self._place.world > 1:
            dist.barrier()

    def _write(self, metrics: dict[str, float], *, better: bool) -> None:
        lines = "".join(json.dumps(one) + "\n" for one in self._history)
        data = checkpoint_bytes(self._checkpoint(metrics))
        if better:
            self._folder.write(BEST, checkpoint_bytes(replace(self._checkpoint(metrics), training={})))
        if keep := self._spec.train.keep_checkpoints:
            self._folder.write(f"epoch_{self.epoch:04d}.pt", data)
            for name in self._folder.names("epoch_*.pt")[:-keep]:
                self._folder.remove(name)
        self._folder.write(METRICS, lines.encode())
        self._folder.write(LAST, data)
        if self._board is not None:
            for name, value in metrics.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, self.epoch)
            self._board.flush()
            self._folder.sync_board()
        log.info("epoch", extra={name: round(value, 5) for name, value in metrics.items()})

    def _checkpoint(self, metrics: Mapping[str, float]) -> Checkpoint:
        trained = self._network.state_dict()
        averaged = self._average.module.state_dict() if self._average is not None else trained
        training = {
            "epoch": self.epoch,
            "course": self._course(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
            "history": [dict(one) for one in self._history],
        }
        if self._average is not None:
            training |= {"network": trained, "averaged": int(self._average.n_averaged)}
        return Checkpoint(
            spec=self._spec, classes=self.classes, weights=averaged, metrics=metrics, training=training
        )

    def _resume(self, found: Checkpoint, url: str) -> None:
        state = found.training
        if not state:
            raise TrainingError(
                f"{url}: weights only, which no training can go on from; name it as train.load_from"
            )
        if state.get("course") != self._course():
            raise TrainingError(
                f"{url}: of a training with another spec, other images or other classes; take another "
                "results folder, or name it as train.load_from to begin with its weights"
            )
        try:
            self._network.load_state_dict(dict(state.get("network", found.weights)))
            if "averaged" in state:
                self._average = self._averaged()
                self._average.module.load_state_dict(dict(found.weights))
                self._average.n_averaged.fill_(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self.epoch, self._best = int(state["epoch"]), state["best"]
            self._history = [dict(one) for one in state["history"]]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise TrainingError(f"{url}: not a whole checkpoint: {type(error).__name__}: {error}") from None

    def _load(self, url: str) -> None:
        found = read_checkpoint(url)
        own = self._network.state_dict()
        fits = {
            name: value
            for name, value in found.weights.items()
            if name in own and own[name].shape == value.shape
        }
        if not fits:
            raise ConfigError(
                f"{url}: no tensor fits {self._spec.model.detector}; expected a checkpoint of such a detector"
            )
        self._network.load_state_dict(fits, strict=False)
        log.info("weights loaded", extra={"checkpoint": url, "taken": len(fits), "of": len(own)})

    def _averaged(self) -> AveragedModel:
        average = AveragedModel(
            self._network, multi_avg_fn=get_ema_multi_avg_fn(self._spec.train.ema), use_buffers=True
        )
        return average.requires_grad_(requires_grad=False)

    def _course(self) -> str:
        """What decides the course of a training, as text."""
        spec = plain(self._spec)
        spec["train"] = {k: v for k, v in spec["train"].items() if k not in _NOT_OF_THE_COURSE}
        spec["data"].pop("workers")
        # They are where a training begins; going on, nothing of them is left but the name of a file.
        spec["model"].pop("backbone_weights")
        names = [one.id for one in self._data.samples]
        return json.dumps([spec, self.classes, len(names), names[:1], names[-1:]], sort_keys=True)

    def result(self) -> FitResult:
        """What is there at the end."""
        if self._board is not None:
            self._board.close()
            self._folder.sync_board()
        return FitResult(
            last=self._folder.path(LAST),
            best=self._folder.path(BEST) if self._best is not None else None,
            metrics=self._history[-1] if self._history else {},
            epochs=self.epoch,
            history=tuple(self._history),
        )
