"""Checkpoints: spec, classes, weights, and what a training needs to go on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ConfigError, UnknownKeyError
from training.spec_file import bind, plain
from training.zoo.detectors import build_detector
from training.zoo.spec import ZooSpec
from training.zoo.work_dir import WorkDir

_FORMAT = "dropmill-zoo"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """``weights`` are those to find with: the moving average where there is one. ``training`` has the rest:
    trained weights, optimiser, scaler, epoch, history.
    """

    spec: ZooSpec
    classes: tuple[str, ...]
    weights: Mapping[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """The file: plain containers and tensors, which ``weights_only`` reads."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "spec": plain(checkpoint.spec),
            "classes": list(checkpoint.classes),
            "weights": dict(checkpoint.weights),
            "metrics": dict(checkpoint.metrics),
            "training": dict(checkpoint.training),
        },
        buffer,
    )
    return buffer.getvalue()


def read_checkpoint(url: str) -> Checkpoint:
    """Read a checkpoint from a path or URL. Raises ``ConfigError`` for what is none."""
    folder, _, name = str(url).rpartition("/")
    data = WorkDir(folder or ".").read(name)
    if data is None:
        raise ConfigError(f"{url}: no such file; expected a checkpoint such as best.pt")
    return parse_checkpoint(data, str(url))


def parse_checkpoint(data: bytes, url: str) -> Checkpoint:
    """``read_checkpoint`` for bytes; ``url`` is only used in errors."""
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # A broken file makes torch raise whatever it happens to.
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"{url}: no checkpoint: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigError(f"{url}: not a checkpoint of `dropmill model`; expected best.pt or last.pt")
    if content.get("version") != _VERSION:
        raise ConfigError(
            f"{url}: version {content.get('version')}; expected {_VERSION}: written by another Dropmill"
        )
    try:
        return Checkpoint(
            spec=bind(ZooSpec, content["spec"], url),
            classes=tuple(str(name) for name in content["classes"]),
            weights=content["weights"],
            metrics=content["metrics"],
            training=content["training"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{url}: not a whole checkpoint: {type(error).__name__}: {error}") from None


def load_detector(
    url: str, device: torch.device | str = "cpu", *, imports: Sequence[str | Path] | None = ()
) -> tuple[nn.Module, Checkpoint]:
    """The trained detector of a checkpoint, ready to find; its backbone's own weights are not needed.

    Files that register parts are run where ``imports`` names them: a checkpoint may come from anybody, and
    says itself which those are. None trusts the checkpoint. Raises ``ConfigError``.
    """
    checkpoint = read_checkpoint(url)
    said = checkpoint.spec.model
    files = said.imports if imports is None else tuple(map(str, imports))
    try:
        network = build_detector(replace(said, backbone_weights="", imports=files), len(checkpoint.classes))
    except UnknownKeyError as error:
        if files or not said.imports:
            raise
        raise ConfigError(
            f"{url}: {error}; it was trained with parts from {', '.join(said.imports)}, which no checkpoint "
            "gets to run by itself: name the file, as --imports FILE"
        ) from None
    try:
        network.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise ConfigError(f"{url}: the weights do not fit the spec that is beside them: {error}") from None
    return network.eval().to(device), checkpoint
