"""Weights to start from, of a backbone or a whole detector: a local file, matched by name and shape."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.channels import fit_channels, layer_widths
from training.detectnet_v2.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, restore_weights
from training.detectnet_v2.model import DetectNetV2, build_model
from training.detectnet_v2.spec import TrainSpec
from training.tensor_file import load_tensors

logger = logging.getLogger(__name__)

# Containers in which training programs put their state dicts.
_CONTAINERS = ("weights", "state_dict", "model")
_TORCHVISION_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn|downsample)(?:\.)?(\d)?\.(\w+)")


@dataclass(frozen=True)
class LoadReport:
    """The network's tensors that were loaded, and left as they were; and the file's that were not used."""

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]


def initial_model(spec: TrainSpec) -> DetectNetV2:
    """The network before the first step: random from the spec's seed, then from ``pretrained_model_file``.

    With ``load_graph``, and for every pruned checkpoint, widths and weights are the checkpoint's; its heads
    too where it has the same classes. Else weights are taken by name and shape, as ``load_pretrained`` does.
    """
    torch.manual_seed(spec.random_seed)
    config = spec.model_config
    path = config.pretrained_model_file
    if not path:
        if config.freeze_blocks or config.load_graph:
            key = "freeze_blocks" if config.freeze_blocks else "load_graph"
            raise ConfigError(
                f"model_config.{key} is set; expected a pretrained_model_file beside it", key=key
            )
        return build_model(spec)
    model = build_model(spec)
    if config.load_graph or is_checkpoint(path):
        checkpoint = load_checkpoint(path)
        if config.load_graph or _is_pruned(checkpoint):
            _take_graph(model, checkpoint, spec, path)
            return model
    load_pretrained(model, path)
    return model


def load_pretrained(model: DetectNetV2, path: str | Path) -> LoadReport:
    """Copy what fits from a torch file into ``model``; heads only where their shapes agree.

    Known are this project's names (with or without ``backbone.``) and torchvision's ResNet names.
    torchvision's convolutions have no bias: ours stay zero there, which is the same function. Where no name
    fits, tensors are taken in their order if all shapes of the backbone agree, as with the published weights
    of EfficientNet-Lite0. Raises ``TrainingError`` where the file cannot be read or nothing in it fits.
    """
    source = _state_dict(load_tensors(path))
    own = dict(model.state_dict())
    candidates = {target: name for name in source if (target := _own_name(name, own)) is not None}
    fitting = {
        target: name
        for target, name in candidates.items()
        if source[name].shape == own[target].shape and torch.isfinite(source[name].float()).all()
    }
    # Heads fit heads of any backbone; without what they read from they are worth nothing.
    fitting = fitting if any(name.startswith("backbone.") for name in fitting) else _by_order(source, own)
    if not fitting:
        shown = ", ".join(list(source)[:4])
        raise TrainingError(
            f"{path}: none of its {len(source)} tensors ({shown} …) fits the backbone; expected names such "
            "as block_1a.conv_1.weight, or those of torchvision's ResNet, with the same shapes"
        )
    with torch.no_grad():
        for target, name in fitting.items():
            own[target].copy_(source[name])
    report = LoadReport(
        loaded=tuple(fitting),
        kept=tuple(name for name in own if name not in fitting and not name.endswith("num_batches_tracked")),
        unused=tuple(name for name in source if name not in fitting.values()),
    )
    logger.info(
        "pretrained path=%s loaded=%d kept=%d unused=%d",
        path,
        len(report.loaded),
        len(report.kept),
        len(report.unused),
    )
    backbone = [name for name in own if name.startswith("backbone.") and own[name].dim()]
    taken = sum(name in fitting for name in backbone)
    if 2 * taken < len(backbone):
        logger.warning(
            "%s: only %d of the backbone's %d tensors were taken; the others stay random",
            path,
            taken,
            len(backbone),
        )
    for name in report.kept:
        logger.info("pretrained kept=%s reason=%s", name, "shape" if name in candidates else "absent")
    return report


def _by_order(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """The backbone's tensors to those of the file at the same places; none where one shape is another.

    Counters of batches are left out: not every program keeps them. What the file has behind the backbone, its
    head, is not used, and the norm that is put behind timm's networks is not in it.
    """
    mine = [
        name
        for name, tensor in own.items()
        if name.startswith("backbone.") and not name.startswith("backbone.norm.") and tensor.dim()
    ]
    theirs = [name for name, tensor in source.items() if tensor.dim()]
    pairs = list(zip(mine, theirs, strict=False))
    agree = len(theirs) >= len(mine) and all(
        own[target].shape == source[name].shape and torch.isfinite(source[name]).all()
        for target, name in pairs
    )
    return dict(pairs) if agree else {}


def _is_pruned(checkpoint: Checkpoint) -> bool:
    with torch.device("meta"):
        whole = layer_widths(build_model(checkpoint.spec))
    return any(whole.get(name) != width for name, width in checkpoint.widths.items())


def _take_graph(model: DetectNetV2, checkpoint: Checkpoint, spec: TrainSpec, path: str) -> None:
    """Give ``model`` the widths and weights of a checkpoint of the same family."""
    for key in ("arch", "num_layers", "all_projections", "use_pooling", "use_batch_norm"):
        wanted, found = getattr(spec.model_config, key), getattr(checkpoint.spec.model_config, key)
        if wanted != found:
            raise ConfigError(
                f"model_config.{key} is {wanted}, and the graph in {path} has {found}; "
                f"set {key}: {found}, or train from scratch without load_graph",
                key=key,
                found=wanted,
            )
    same_heads = checkpoint.spec.classes == spec.classes
    weights = {
        name: tensor
        for name, tensor in checkpoint.weights.items()
        if same_heads or not name.startswith("output_")
    }
    if not same_heads:
        for head in (model.output_cov, model.output_bbox):
            source = checkpoint.weights.get("output_cov.weight")
            if isinstance(source, Tensor) and source.dim() == 4:
                head.in_channels = source.shape[1]
                head.weight = torch.nn.Parameter(
                    head.weight.new_empty(head.out_channels, source.shape[1], 1, 1)
                )
                torch.nn.init.xavier_uniform_(head.weight)
        logger.info("pretrained path=%s classes=%s heads=random", path, ",".join(checkpoint.spec.classes))
    fit_channels(model, weights, channels=model.channels)
    # Ranges of an earlier quantisation-aware training are measured anew.
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".input_range")}
    restore_weights(model, Checkpoint(spec=spec, widths={}, weights=model.state_dict() | weights), path)
    logger.info("pretrained path=%s graph=loaded widths=%s", path, sum(checkpoint.widths.values()))


def _state_dict(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def _own_name(name: str, own: Mapping[str, Tensor]) -> str | None:
    for candidate in (name, f"backbone.{name}", f"backbone.{_from_torchvision(name)}"):
        if candidate in own:
            return candidate
    return None


def _from_torchvision(name: str) -> str:
    """``layer2.0.downsample.1.bias`` gives ``block_2a.bn_shortcut.bias``."""
    if name.startswith("bn1."):
        return "bn_conv1." + name.removeprefix("bn1.")
    match = _TORCHVISION_BLOCK.fullmatch(name)
    if match is None:
        return name
    stage, block, part, number, tensor = match.groups()
    letter = chr(ord("a") + int(block)) if int(block) < 26 else "a" + chr(ord("a") + int(block) - 26)
    if part == "downsample":
        return f"block_{stage}{letter}.{'conv' if number == '0' else 'bn'}_shortcut.{tensor}"
    return f"block_{stage}{letter}.{part}_{number}.{tensor}"
