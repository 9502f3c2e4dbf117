"""A network for use alone: normalisation as a part of the convolutions before it, and channels last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from training.mal.network import MalNetwork


def fold(network: MalNetwork) -> MalNetwork:
    """Change ``network`` in place to one that gives the same masks (but for rounding) with less work.

    It cannot be trained any more, and its weights have other names; what has no batch normalisation stays.
    """
    network.eval()
    for conv, name in _pairs(network).items():
        owner_name, _, attribute = name.rpartition(".")
        normalisation: Any = network.get_submodule(name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            normalisation.running_mean,
            normalisation.running_var,
            normalisation.eps,
            normalisation.weight,
            normalisation.bias,
        )
        # timm's layer has the activation within itself.
        rest = getattr(normalisation, "act", nn.Identity())
        setattr(network.get_submodule(owner_name), attribute, rest)
    return network.to(memory_format=torch.channels_last)


def _pairs(network: MalNetwork) -> dict[nn.Conv2d, str]:
    """For each convolution the name of the normalisation that reads its output, found by sending a crop
    through.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: dict[nn.Conv2d, str] = {}
    names = {module: name for name, module in network.named_modules()}

    def after(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[id(out)] = (module, out)  # held, so that no other tensor gets its number
        elif id(given[0]) in outputs:
            found[outputs[id(given[0])][0]] = names[module]

    hooks = [
        module.register_forward_hook(after)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        with torch.no_grad():
            place = next(network.parameters()).device
            side = network.crop_size
            network(torch.zeros(1, 3, side, side, device=place), torch.ones(1, device=place))
    finally:
        for hook in hooks:
            hook.remove()
    return found
