"""Trained networks on disk: the whole structure, its spec and weights, and what is needed to go on training.

One torch file that loads without pickle's powers (``weights_only``). The channels of a pruned network follow
from the shapes of its weights; ``widths`` says them for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.errors import TrainingError
from training.detectnet_v2.channels import fit_channels, layer_widths
from training.detectnet_v2.model import DetectNetV2, build_model
from training.detectnet_v2.qat import is_quantised, prepare_qat
from training.detectnet_v2.spec import TrainSpec, parse_spec, spec_text
from training.tensor_file import load_tensors, save_tensors

_FORMAT = "dropmill.detectnet_v2"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds. ``training`` is empty in a file that is only for use, not for going on."""

    spec: TrainSpec
    widths: Mapping[str, int]
    weights: Mapping[str, Tensor]
    quantised: bool = False
    """Made by quantisation-aware training."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    model: DetectNetV2,
    spec: TrainSpec,
    *,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write atomically: ``path`` is either the old file or the whole new one, also after a crash."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "spec": spec_text(spec),
        "widths": layer_widths(model),
        "quantised": is_quantised(model),
        "weights": {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
        "metrics": dict(metrics or {}),
        "training": dict(training or {}),
    }
    save_tensors(path, content)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of ``save_checkpoint``; ``TrainingError`` for anything else, and nothing in it is run."""
    content = load_tensors(path)
    if content.get("format") != _FORMAT:
        found = ", ".join(map(str, list(content)[:4]))
        raise TrainingError(f"{path}: holds {found or 'nothing'}; expected a trained DetectNet_v2")
    if content.get("version") != _VERSION:
        raise TrainingError(f"{path}: version {content.get('version')!r}; expected {_VERSION}")
    parts = {key: content.get(key) for key in ("widths", "weights", "metrics", "training")}
    if not isinstance(content.get("spec"), str) or not all(isinstance(part, dict) for part in parts.values()):
        raise TrainingError(f"{path}: parts are missing; expected spec, {', '.join(parts)}")
    return Checkpoint(
        spec=parse_spec(content["spec"], f"{path}:spec"),
        widths=content["widths"],
        weights=content["weights"],
        quantised=content.get("quantised") is True,
        metrics=content["metrics"],
        training=content["training"],
    )


def is_checkpoint(path: str | Path) -> bool:
    """Whether a torch file is one of ``save_checkpoint``; ``TrainingError`` where it is no torch file."""
    return load_tensors(path).get("format") == _FORMAT


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[DetectNetV2, TrainSpec]:
    """The network of a checkpoint, ready for inference, and its spec."""
    checkpoint = load_checkpoint(path)
    return restored(checkpoint, path).to(device).eval(), checkpoint.spec


def restored(checkpoint: Checkpoint, path: str | Path) -> DetectNetV2:
    """The network that a checkpoint was made of, with its weights and, where pruned, its widths."""
    model = build_model(checkpoint.spec)
    fit_channels(model, checkpoint.weights, channels=model.channels)
    if checkpoint.quantised:
        prepare_qat(model)
    restore_weights(model, checkpoint, path)
    return model


def restore_weights(model: DetectNetV2, checkpoint: Checkpoint, path: str | Path) -> None:
    """Put all weights into ``model``, or ``TrainingError`` where one is missing, too many or of another
    shape.
    """
    try:
        model.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise TrainingError(f"{path}: weights do not fit the network: {error}") from None
