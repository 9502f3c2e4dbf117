"""Weights from a local file into a network: by name and shape, else by their order."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ConfigError

log = logging.getLogger(__name__)

_CONTAINERS = ("model", "state_dict", "weights")
_MIN_SHARE = 0.5


@dataclass(frozen=True)
class Loaded:
    """Names of the network's tensors that were taken, and of those that stay as they were."""

    taken: tuple[str, ...]
    kept: tuple[str, ...]


def load_weights(network: nn.Module, path: str | Path) -> Loaded:
    """Copy what fits. Where no half of the tensors has a namesake of its shape, but all shapes agree in
    their order, they are taken in that order.

    Raises ``ConfigError`` for a file that is no weights, and for one that fits neither way.
    """
    found = read_tensors(path)
    own = network.state_dict()
    named = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    # A scalar such as a count of batches says nothing of whether a file fits.
    wanted = [key for key, value in own.items() if value.ndim]
    if wanted and sum(key in named for key in wanted) < _MIN_SHARE * len(wanted):
        ordered = [value for value in found.values() if value.ndim]
        # Heads differ in their classes: what comes last may be left over on either side.
        count = min(len(ordered), len(wanted))
        fits = [ordered[i].shape == own[wanted[i]].shape for i in range(count)]
        first_wrong = fits.index(False) if False in fits else count
        if first_wrong < 0.9 * len(wanted):
            raise ConfigError(
                f"{path}: {len(named)} of {len(wanted)} tensors fit by name, and by order the first that "
                f"does not is number {first_wrong + 1}; expected weights of this network"
            )
        named = dict(zip(wanted[:first_wrong], ordered[:first_wrong], strict=True))
    network.load_state_dict(named, strict=False)
    kept = tuple(key for key in wanted if key not in named)
    log.info("weights loaded", extra={"file": str(path), "taken": len(named), "kept": len(kept)})
    return Loaded(tuple(named), kept)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a torch file, a safetensors file or a checkpoint of ours; nothing else is unpickled."""
    try:
        if str(path).endswith(".safetensors"):
            return dict(importlib.import_module("safetensors.torch").load_file(str(path)))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ConfigError(f"{path}: safetensors is not installed: pip install dropmill[zoo]") from error
    # A broken file makes torch raise whatever it happens to.
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"{path}: no file of weights: {type(error).__name__}: {error}") from None
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError(f"{path}: no tensors in it; expected a state dict")
    return tensors
