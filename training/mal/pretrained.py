"""Weights to start from: by name and shape, or, where a file has other names, by order and shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from storage.errors import TrainingError
from training.mal.backbones import Backbone, Transformer
from training.mal.network import MalNetwork
from training.tensor_file import load_tensors

log = logging.getLogger(__name__)

_CONTAINERS = ("student", "teacher", "state_dict", "model", "weights")
_PREFIXES = ("module.", "model.", "student.", "encoder.", "backbone.", "net.")
_POSITIONS = "pos_embed"


def load_pretrained(network: MalNetwork, path: str) -> int:
    """Take what fits from a torch file (path or URL): a whole MAL, or a backbone. Returns how many tensors.

    Position embeddings of another grid are resized. A convolutional file with other names, as torchvision's
    for timm's networks, is taken by order where all its shapes agree. Raises ``TrainingError`` where less
    than half of the backbone fits.
    """
    source = _state_dict(load_tensors(path))
    whole = network.state_dict()
    if set(whole) <= set(source) and all(source[name].shape == whole[name].shape for name in whole):
        network.load_state_dict({name: source[name] for name in whole})
        log.info("pretrained whole", extra={"path": path, "tensors": len(whole)})
        return len(whole)
    own = network.backbone.net.state_dict()
    fitting = _by_name(network.backbone, own, source)
    if len(fitting) < len(own) / 2:
        fitting = _by_order(own, source) or fitting
    if len(fitting) < len(own) / 2:
        shown = ", ".join(list(source)[:3])
        raise TrainingError(
            f"{path}: {len(fitting)} of the {len(own)} tensors of {network.spec.arch} are in it ({shown} …); "
            "expected weights of that network (train.pretrained_model_path)"
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    log.info("pretrained backbone", extra={"path": path, "tensors": len(fitting), "of": len(own)})
    return len(fitting)


def _by_name(
    backbone: Backbone, own: Mapping[str, Tensor], source: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    short = {_short(name): tensor for name, tensor in source.items()}
    if isinstance(backbone, Transformer) and _POSITIONS in short and _POSITIONS in own:
        short[_POSITIONS] = _resized_positions(backbone, short[_POSITIONS], own[_POSITIONS])
    return {name: short[name] for name in own if name in short and short[name].shape == own[name].shape}


def _by_order(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors in their order, as far as all shapes agree: a classifier may follow."""
    mine = [(name, tensor) for name, tensor in own.items() if tensor.dim()]
    theirs = [tensor for tensor in source.values() if tensor.dim()]
    pairs = list(zip(mine, theirs, strict=False))
    if len(theirs) < len(mine) or any(one.shape != other.shape for (_, one), other in pairs):
        return {}
    return {name: other for (name, _), other in pairs}


def _resized_positions(backbone: Transformer, given: Tensor, wanted: Tensor) -> Tensor:
    if given.shape == wanted.shape or given.dim() != 3 or given.shape[2] != wanted.shape[2]:
        return given
    from timm.layers.pos_embed import resample_abs_pos_embed

    side = round((wanted.shape[1] - backbone.net.num_prefix_tokens) ** 0.5)
    resized: Tensor = resample_abs_pos_embed(
        given, [side, side], num_prefix_tokens=backbone.net.num_prefix_tokens
    )
    return resized


def _state_dict(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _short(name: str) -> str:
    shortened = True
    while shortened:
        shortened = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, shortened = name.removeprefix(prefix), True
    return name
