"""The widths of a network's layers: pruned networks have others than their family's table says."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from storage.errors import TrainingError


def layer_widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution by its name."""
    return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def fit_channels(model: nn.Module, weights: Mapping[str, Tensor], *, channels: int) -> None:
    """Give the convolutions and normalisations of ``model`` the channels that ``weights`` have, in place.

    ``weights`` is a state dict of a network with the same layers; the values are not taken, and what has the
    right shape stays as it is. ``channels`` are those of the images. Raises ``TrainingError`` where the
    shapes do not make a network.
    """
    changed = False
    for name, module in model.named_modules():
        weight = weights.get(f"{name}.weight")
        if not isinstance(weight, Tensor) or not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        if weight.shape == module.weight.shape:
            continue
        changed = True
        if isinstance(module, nn.BatchNorm2d):
            _fit_normalisation(module, weight)
        else:
            _fit_convolution(name, module, weight)
    if changed:
        _try(model, channels)


def _fit_convolution(name: str, layer: nn.Conv2d, weight: Tensor) -> None:
    if weight.dim() != 4 or weight.shape[2:] != layer.weight.shape[2:] or not weight.numel():
        raise TrainingError(
            f"layer {name}: weights of shape {tuple(weight.shape)}; expected a kernel of "
            f"{tuple(layer.weight.shape[2:])}"
        )
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels
    layer.out_channels = weight.shape[0]
    if depthwise:
        layer.groups = weight.shape[0]
    layer.in_channels = weight.shape[1] * layer.groups
    layer.weight = nn.Parameter(layer.weight.new_zeros(weight.shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_zeros(layer.out_channels))


def _fit_normalisation(layer: nn.BatchNorm2d, weight: Tensor) -> None:
    width = weight.shape[0]
    layer.num_features = width
    layer.weight = nn.Parameter(layer.weight.new_ones(width))
    layer.bias = nn.Parameter(layer.bias.new_zeros(width))
    if layer.running_mean is not None and layer.running_var is not None:
        layer.running_mean = layer.running_mean.new_zeros(width)
        layer.running_var = layer.running_var.new_ones(width)


def _try(model: nn.Module, channels: int) -> None:
    """Send a picture through that has a shape and no pixels."""
    twin = copy.deepcopy(model).to("meta").eval()
    try:
        twin(torch.empty(1, channels, 64, 64, device="meta"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"the layers' widths do not fit one another: {error}") from None
