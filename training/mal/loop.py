"""The training loop of MAL.

1. Boxes to learn from, student (perhaps pretrained), teacher as its copy, AdamW; or all of it from the
   newest checkpoint of the results folder.
2. Each step: crops, masks of student and teacher, the two losses, a step of the student, and the teacher
   moved towards it.
3. Each epoch: validation and checkpoint when due, a metrics line, ``on_epoch``.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from storage.errors import TrainingError
from training.mal.checkpoint import LATEST, Checkpoint, epoch_path, load_checkpoint, save_checkpoint
from training.mal.coco_file import CocoFile
from training.mal.data import BoxDataset, CropBatch, collate, normalised
from training.mal.evaluate import Overlap, evaluate, mask_metrics
from training.mal.labeler import MalLabeler
from training.mal.losses import ema_update, mal_loss
from training.mal.network import MalNetwork, build_network
from training.mal.parallel import CropOrder, wrap
from training.mal.precision import autocast, loss_scaler
from training.mal.pretrained import load_pretrained
from training.mal.schedule import learning_rate
from training.mal.spec import MalSpec
from training.mal.whole_state import model_state, optimizer_state, restore_model, restore_optimizer
from training.place import Place
from training.samples import Sample
from training.spec_file import plain

log = logging.getLogger(__name__)

_NOT_OF_THE_COURSE = ("results_dir", "evaluate", "inference", "encryption_key", "wandb", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """After an epoch (counted from 1), in every process; ``checkpoint`` in the first, when it was written."""

    epoch: int
    metrics: Mapping[str, float]
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """``checkpoint`` is ``mal_model_latest.pth``; ``metrics`` are those of the last epoch."""

    checkpoint: Path
    metrics: Mapping[str, float]
    epochs: int
    history: tuple[Mapping[str, float], ...] = field(default_factory=tuple)


def fit(
    spec: MalSpec,
    train: Sequence[Sample],
    results_dir: str | Path,
    *,
    val: CocoFile | None = None,
    place: Place | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    device: torch.device | str | None = None,
    workers: int = 0,
) -> FitResult:
    """Train on the boxes of ``train`` and leave checkpoints and ``metrics.jsonl`` in ``results_dir``.

    The same spec, samples, seed and number of processes give the same weights, also when the training was
    interrupted and is continued. ``val`` is a file with true masks. Raises ``ConfigError``, and
    ``TrainingError`` for data without boxes, checkpoints of another training, and a loss that is not finite.
    """
    run = _Run(spec, train, Path(results_dir), val, place or Place(), device, workers)
    run.resume()
    history: list[Mapping[str, float]] = []
    while run.epoch < spec.train.num_epochs:
        began = time.monotonic()
        metrics = run.train_epoch()
        run.epoch += 1
        last = run.epoch == spec.train.num_epochs
        if val is not None and (last or run.epoch % spec.train.validate_every == 0):
            metrics |= run.validate(val)
        metrics["seconds"] = time.monotonic() - began
        history.append(metrics)
        path = run.save(metrics, due=last or run.epoch % spec.train.save_every == 0)
        if on_epoch is not None:
            on_epoch(EpochReport(epoch=run.epoch, metrics=metrics, checkpoint=path))
    return FitResult(
        checkpoint=Path(results_dir) / LATEST, metrics=run.metrics, epochs=run.epoch, history=tuple(history)
    )


class _Run:
    """All that changes during a training."""

    def __init__(
        self,
        spec: MalSpec,
        train: Sequence[Sample],
        folder: Path,
        val: CocoFile | None,
        place: Place,
        device: torch.device | str | None,
        workers: int,
    ) -> None:
        self._spec, self._folder, self._place, self._val = spec, folder, place, val
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._data = BoxDataset(train, spec)
        self._order = CropOrder(self._data.images(), seed=spec.train.seed, place=place)
        self._loader: DataLoader[Any] = DataLoader(
            self._data,
            batch_size=spec.train.batch_size,
            sampler=self._order,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self._device.type == "cuda",
        )
        torch.manual_seed(spec.train.seed)
        self._student = build_network(spec)
        self._pretrained = bool(spec.train.pretrained_model_path)
        if spec.train.pretrained_model_path:
            load_pretrained(self._student, spec.train.pretrained_model_path)
        self._student = self._student.to(self._device).to(memory_format=torch.channels_last)
        self._teacher = copy.deepcopy(self._student).eval().requires_grad_(requires_grad=False)
        self._called = wrap(self._student, self._teacher, spec.strategy, place)
        self._optimizer = torch.optim.AdamW(
            [parameter for parameter in self._student.parameters() if parameter.requires_grad],
            lr=0.0,
            betas=(spec.train.optim_betas[0], spec.train.optim_betas[1]),
            eps=spec.train.optim_eps,
            weight_decay=spec.train.wd,
        )
        self._scaler = loss_scaler(self._device, enabled=spec.train.use_amp)
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        if place.rank == 0:
            count = sum(parameter.numel() for parameter in self._student.parameters())
            log.info(
                "mal",
                extra={
                    "arch": spec.model.arch,
                    "parameters": count,
                    "boxes": len(self._data),
                    "boxes_passed": self._data.passed,
                },
            )

    def train_epoch(self) -> dict[str, float]:
        """One pass over the boxes of this process."""
        spec = self._spec.train
        self._data.epoch = self._order.epoch = self.epoch
        torch.manual_seed(spec.seed + 1_000_003 * self.epoch + self._place.rank)
        self._learn()
        sums = torch.zeros(3, dtype=torch.float64)
        steps, rate = len(self._loader), 0.0
        for step, batch in enumerate(self._loader):
            rate = learning_rate(self.epoch + step / steps, spec, processes=self._place.world)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            last_of_round = (step + 1) % spec.accum_grad_batches == 0 or step + 1 == steps
            sums += torch.tensor(self._step(batch.to(self._device), step, update=last_of_round)).double()
        if self._place.world > 1:
            shared = sums.to(self._device)
            dist.all_reduce(shared)
            sums = shared.cpu() / self._place.world
        loss, mil, crf = (sums / steps).tolist()
        return {"epoch": self.epoch + 1, "loss": loss, "mil": mil, "crf": crf, "learning_rate": rate}

    def _step(self, batch: CropBatch, step: int, *, update: bool) -> tuple[float, float, float]:
        spec = self._spec.train
        seen = normalised(batch.student)
        with autocast(self._device, enabled=spec.use_amp):
            logits = self._called(seen, batch.areas)
            with torch.no_grad():
                other = self._teacher(normalised(batch.teacher), batch.areas)
        student, teacher = logits.float().sigmoid(), other.float().sigmoid()
        loss, parts = mal_loss(student, teacher, batch.box, seen, spec, epoch=self.epoch, step=step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {self.epoch + 1}, step {step}; lower train.lr (the rate "
                f"was {self._optimizer.param_groups[0]['lr']:.3g}) or set train.use_amp: False",
                epoch=self.epoch + 1,
            )
        self._scaler.scale(loss / spec.accum_grad_batches).backward()
        if update:
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            ema_update(self._teacher, self._student, self._spec.model.teacher_momentum)
        return value, parts["mil"], parts["crf"]

    def _learn(self) -> None:
        self._student.train()
        if self._pretrained:
            # Statistics of a whole pretraining are better than those of a batch of a few crops.
            for module in self._student.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                    module.eval()

    def validate(self, val: CocoFile) -> dict[str, float]:
        """The same metrics in every process, each having looked at its share of the images."""
        network = self._student if self._place.world == 1 else self._whole_student()
        labeler = MalLabeler(
            [network], self._spec, batch_size=self._spec.train.batch_size, device=self._device
        )
        found = evaluate(labeler, val, images=val.images[self._place.rank :: self._place.world])
        if self._place.world > 1:
            parts: list[list[Overlap]] = [[] for _ in range(self._place.world)]
            dist.all_gather_object(parts, found)
            found = [one for part in parts for one in part]
        return mask_metrics(found)

    def _whole_student(self) -> MalNetwork:
        weights: list[Any] = [model_state(self._student)]
        dist.broadcast_object_list(weights, src=0)
        network = build_network(self._spec)
        network.load_state_dict(weights[0])
        return network.to(self._device).eval()

    def save(self, metrics: dict[str, float], *, due: bool) -> Path | None:
        """The metrics line, and the checkpoint if it is due; its path in the first process."""
        self.metrics = metrics
        path = epoch_path(self._folder, self.epoch) if due else None
        if due:
            state = {
                "epoch": self.epoch,
                "course": self._course(),
                "optimizer": optimizer_state(self._student, self._optimizer),
                "scaler": self._scaler.state_dict(),
            }
            student, teacher = model_state(self._student), model_state(self._teacher)
        if self._place.rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
            log.info("epoch", extra={name: round(value, 6) for name, value in metrics.items()})
            if path is not None:
                save_checkpoint(
                    path,
                    Checkpoint(
                        spec=self._spec, student=student, teacher=teacher, metrics=metrics, training=state
                    ),
                )
                _link(path, self._folder / LATEST)
        if due and self._place.world > 1:
            dist.barrier()
        return path if self._place.rank == 0 else None

    def resume(self) -> None:
        """Go on from the checkpoint that the spec names, else from the newest of the results folder."""
        named = self._spec.train.resume_training_checkpoint_path
        path = Path(named) if named else self._folder / LATEST
        if not named and not path.is_file():
            return
        found = load_checkpoint(path)
        state = dict(found.training)
        if state.get("course") != self._course():
            raise TrainingError(
                f"{path}: of a training with another spec, other boxes or another number of processes; take "
                "another results_dir, or name its weights as train.pretrained_model_path"
            )
        try:
            restore_model(self._student, found.student)
            restore_model(self._teacher, found.teacher)
            restore_optimizer(self._student, self._optimizer, state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self.epoch = int(state["epoch"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise TrainingError(f"{path}: not a whole checkpoint: {type(error).__name__}: {error}") from None
        self.metrics = dict(found.metrics)
        if self._place.rank == 0:
            log.info("resumed", extra={"checkpoint": str(path), "epoch": self.epoch})

    def _course(self) -> str:
        """What decides the course of a training, as text."""
        spec = {key: value for key, value in plain(self._spec).items() if key not in _NOT_OF_THE_COURSE}
        spec["train"] = {k: v for k, v in spec["train"].items() if k != "resume_training_checkpoint_path"}
        return json.dumps([spec, self._place.world, self._data.fingerprint()], sort_keys=True)


def _link(path: Path, name: Path) -> None:
    """Give a file a second name, without a moment in which that name is missing."""
    partial = name.with_name(f".{name.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    os.link(path, partial)
    partial.replace(name)
