"""Quantisation-aware training: convolutions that compute with the int8 values they will have.

Weights are rounded per output channel, symmetric, *after* the scale of the normalisation that follows them:
that is the kernel an engine folds. A convolution's input is rounded with one scale, from a running mean of
its largest absolute value. Rounding passes gradients on, and stops them outside of the range (Jacob et al.
2018, arXiv 1712.05877, section 3). The heads stay in float, as in TAO.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from training.detectnet_v2.model import DetectNetV2

LEVELS = 127
_RANGE_MOMENTUM = 0.02
_HEADS = ("output_cov", "output_bbox")


class QuantisedConv(nn.Conv2d):
    """A convolution of rounded weights and inputs. ``input_range`` is the largest absolute input, 0 until
    one was seen.
    """

    input_range: Tensor

    def observe(self, features: Tensor) -> Tensor:
        """The input as int8 holds it; in training its range is measured first."""
        if self.training:
            with torch.no_grad():
                seen = features.detach().abs().amax().float()
                start = self.input_range == 0
                moved = self.input_range + _RANGE_MOMENTUM * (seen - self.input_range)
                self.input_range.copy_(torch.where(start, seen, moved))
        scale = (self.input_range / LEVELS).clamp_min(torch.finfo(torch.float32).tiny).reshape(())
        zero = torch.zeros((), dtype=torch.int32, device=scale.device)
        return torch.fake_quantize_per_tensor_affine(features.float(), scale, zero, -LEVELS - 1, LEVELS)

    def forward(self, features: Tensor) -> Tensor:
        folded = folding_scale(self.normalisation).view(-1, 1, 1, 1) if self.normalisation else None
        kernel = self.weight.float() if folded is None else self.weight.float() * folded
        rounded = round_weights(kernel)
        if folded is not None:
            rounded = rounded / torch.where(folded == 0, torch.ones_like(folded), folded)
        return self._conv_forward(self.observe(features), rounded, self.bias)

    @property
    def normalisation(self) -> nn.BatchNorm2d | None:
        """The normalisation that follows; it is a layer of its own in the network."""
        found: nn.BatchNorm2d | None = self.__dict__["follower"]
        return found


def prepare_qat(model: DetectNetV2) -> None:
    """Turn the convolutions of the backbone into ``QuantisedConv``, in place; names and weights stay."""
    followers = _followers(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, QuantisedConv) and name not in _HEADS:
            layer.__class__ = QuantisedConv
            # Not a submodule: the network has it already.
            layer.__dict__["follower"] = followers.get(layer)
            layer.register_buffer("input_range", torch.zeros(1, device=layer.weight.device))


def is_quantised(model: nn.Module) -> bool:
    """Whether ``prepare_qat`` was there."""
    return any(isinstance(layer, QuantisedConv) for layer in model.modules())


def folded_twin(model: DetectNetV2) -> tuple[DetectNetV2, dict[str, float]]:
    """A copy with ordinary convolutions and no normalisation behind them, and the input ranges by layer.

    The copy computes in float what ``model`` approaches; with the ranges, and its kernels rounded, it gives
    what ``model`` gives in evaluation.
    """
    twin = copy.deepcopy(model).cpu().eval()
    ranges = {}
    for name, layer in twin.named_modules():
        if not isinstance(layer, QuantisedConv):
            continue
        ranges[name] = float(layer.input_range)
        normalisation = layer.normalisation
        with torch.no_grad():
            bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
            if normalisation is not None:
                assert normalisation.running_mean is not None
                scale = folding_scale(normalisation)
                layer.weight.mul_(scale.view(-1, 1, 1, 1))
                bias = (bias - normalisation.running_mean) * scale + normalisation.bias
                # Nothing is left for it to do; what timm adds behind it (an activation) stays.
                normalisation.running_mean.zero_()
                assert normalisation.running_var is not None
                normalisation.running_var.fill_(1 - normalisation.eps)
                normalisation.weight.fill_(1)
                normalisation.bias.zero_()
            layer.bias = nn.Parameter(bias.clone())
        layer.__class__ = nn.Conv2d  # type: ignore[assignment]
        del layer.__dict__["follower"], layer._buffers["input_range"]  # noqa: SLF001
    return twin, ranges


def folding_scale(normalisation: nn.BatchNorm2d) -> Tensor:
    """What the running statistics multiply each channel with ``[C]``."""
    assert normalisation.running_var is not None
    return normalisation.weight / torch.sqrt(normalisation.running_var + normalisation.eps)


def weight_scales(kernel: Tensor) -> Tensor:
    """The step of each output channel's int8 values ``[outputs]``."""
    largest = kernel.detach().abs().flatten(1).amax(dim=1)
    return (largest / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)


def round_weights(kernel: Tensor) -> Tensor:
    """``kernel [outputs, …]`` with the values that int8 holds, channel by channel."""
    zeros = torch.zeros(len(kernel), dtype=torch.int32, device=kernel.device)
    scales = weight_scales(kernel)
    return torch.fake_quantize_per_channel_affine(kernel, scales, zeros, 0, -LEVELS - 1, LEVELS)


def _followers(model: DetectNetV2) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """For each convolution the normalisation that reads its output, found by sending a picture through."""
    outputs: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # an address may be given again only once its owner is gone
    found: dict[nn.Conv2d, nn.BatchNorm2d] = {}

    def remember(layer: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        outputs[id(output)] = layer
        kept.append(output)

    def match(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        if (source := outputs.get(id(inputs[0]))) is not None:
            found[source] = layer

    hooks = [m.register_forward_hook(remember) for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(match) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, model.channels, 32, 32, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
    return found
