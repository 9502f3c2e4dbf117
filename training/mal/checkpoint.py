"""Checkpoints of MAL: spec, student, teacher, and what is needed to go on. They load without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from storage.errors import TrainingError
from training.mal.network import MalNetwork, build_network
from training.mal.spec import MalSpec
from training.spec_file import bind, plain
from training.tensor_file import load_tensors, save_tensors

LATEST = "mal_model_latest.pth"
_FORMAT, _VERSION = "dropmill.mal", 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds. ``training`` has the optimiser and the epochs done."""

    spec: MalSpec
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def epoch_path(folder: Path, epoch: int) -> Path:
    """Where the checkpoint after ``epoch`` epochs lies."""
    return folder / f"model_epoch_{epoch:03d}.pth"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: ``path`` is either the old file or the whole new one, also after a crash."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "spec": json.dumps(plain(checkpoint.spec)),
        "student": dict(checkpoint.student),
        "teacher": dict(checkpoint.teacher),
        "metrics": dict(checkpoint.metrics),
        "training": dict(checkpoint.training),
    }
    save_tensors(path, content)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of :func:`save_checkpoint`; ``TrainingError`` for anything else. Nothing in it is run."""
    content = load_tensors(path)
    if content.get("format") != _FORMAT or content.get("version") != _VERSION:
        found = ", ".join(map(str, list(content)[:4]))
        raise TrainingError(
            f"{path}: holds {found or 'nothing'}; expected a checkpoint of `dropmill model mal train` "
            f"(weights of other programs go into train.pretrained_model_path)"
        )
    parts = {key: content.get(key) for key in ("student", "teacher", "metrics", "training")}
    if not isinstance(content.get("spec"), str) or not all(isinstance(part, dict) for part in parts.values()):
        raise TrainingError(f"{path}: parts are missing; expected spec, {', '.join(parts)}")
    try:
        said = json.loads(content["spec"])
    except ValueError as error:
        raise TrainingError(f"{path}: its spec is no JSON: {error}") from None
    return Checkpoint(spec=bind(MalSpec, said, f"{path}:spec"), **parts)  # type: ignore[arg-type]


def restored(checkpoint: Checkpoint, part: str, path: str | Path) -> MalNetwork:
    """The ``student`` or ``teacher`` of a checkpoint, ready for inference."""
    network = build_network(checkpoint.spec)
    restore(network, getattr(checkpoint, part), path)
    return network.eval().requires_grad_(False)


def restore(network: MalNetwork, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Put all weights into a network; ``TrainingError`` where one is missing, too many or misshapen."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise TrainingError(f"{path}: weights do not fit the network: {error}") from None
