"""ResNet backbones as DetectNet_v2 has them: stride 16, biases beside batch normalisation, no stem pooling.

Residual networks after He et al. 2015 (arXiv 1512.03385), with these differences: the stem's max-pool is left
out, so the four stages have strides 2, 2, 2, 1; every convolution has a bias; the first convolution of a
block carries its stride (also in bottlenecks). Layer names follow TAO's (``conv1``, ``bn_conv1``,
``block_1a.conv_1`` …).
"""

from __future__ import annotations

import string
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from storage.errors import ConfigError

# depth -> (blocks in each stage, convolutions in a block)
_DEPTHS = {
    10: ((1, 1, 1, 1), 2),
    18: ((2, 2, 2, 2), 2),
    34: ((3, 4, 6, 3), 2),
    50: ((3, 4, 6, 3), 3),
    101: ((3, 4, 23, 3), 3),
}
_STAGE_WIDTHS = (64, 128, 256, 512)
_STAGE_STRIDES = (2, 2, 2, 1)
_BN_EPSILON = 1e-3
BN_MOMENTUM = 0.01  # the share of the new value; TAO says 0.99 for that of the old one


class ResNet(nn.Module):
    """Images ``[B, channels, H, W]`` to features ``[B, out_channels, H/16, W/16]``.

    ``widths`` gives the output channels of convolutions by layer name where they differ from the table (a
    pruned network). ``dropout_rate`` is not used by this family, as in TAO.
    """

    def __init__(
        self,
        num_layers: int = 18,
        *,
        channels: int = 3,
        all_projections: bool = False,
        use_batch_norm: bool = True,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if num_layers not in _DEPTHS:
            known = ", ".join(map(str, _DEPTHS))
            raise ConfigError(
                f"model_config.num_layers is {num_layers}; expected one of {known} for resnet",
                key="num_layers",
                found=num_layers,
            )
        widths = dict(widths or {})
        blocks, convolutions = _DEPTHS[num_layers]
        width = widths.pop("conv1", 64)
        self.conv1 = _convolution(channels, width, 7, 2)
        self.bn_conv1 = _normalisation(width, use=use_batch_norm)
        self.block_names: list[str] = []
        for stage, (count, stage_width, stage_stride) in enumerate(
            zip(blocks, _STAGE_WIDTHS, _STAGE_STRIDES, strict=True), start=1
        ):
            for index in range(count):
                name = f"block_{stage}{_letters(index)}"
                outputs = [stage_width] * convolutions
                if convolutions == 3:
                    outputs[-1] *= 4
                outputs = [widths.pop(f"{name}.conv_{n}", out) for n, out in enumerate(outputs, start=1)]
                project = index == 0 or all_projections
                shortcut = widths.pop(f"{name}.conv_shortcut", outputs[-1]) if project else width
                _check_addition(name, shortcut, outputs[-1])
                block = Block(
                    width,
                    outputs,
                    stride=stage_stride if index == 0 else 1,
                    project=project,
                    use_batch_norm=use_batch_norm,
                )
                self.add_module(name, block)
                self.block_names.append(name)
                width = outputs[-1]
        if widths:
            raise ConfigError(f"widths of layers that this network lacks: {', '.join(sorted(widths))}")
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn_conv1(self.conv1(images)))
        for name in self.block_names:
            features = self.get_submodule(name)(features)
        return features

    def stage(self, number: int) -> list[nn.Module]:
        """The layers of freeze block ``number``: 0 is the stem, 1 to 4 the stages."""
        if number == 0:
            return [self.conv1, self.bn_conv1]
        return [self.get_submodule(name) for name in self.block_names if name.startswith(f"block_{number}")]

    def layer_widths(self) -> dict[str, int]:
        """Output channels of every convolution by name: what ``widths`` takes."""
        return {name: m.out_channels for name, m in self.named_modules() if isinstance(m, nn.Conv2d)}


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, or of 1x1, 3x3 and 1x1; ReLU after the addition."""

    def __init__(
        self, inputs: int, outputs: list[int], *, stride: int, project: bool, use_batch_norm: bool
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(outputs) == 2 else (1, 3, 1)
        self.length = len(outputs)
        width = inputs
        for number, (out, kernel) in enumerate(zip(outputs, kernels, strict=True), start=1):
            self.add_module(f"conv_{number}", _convolution(width, out, kernel, stride if number == 1 else 1))
            self.add_module(f"bn_{number}", _normalisation(out, use=use_batch_norm))
            width = out
        self.projects = project
        if project:
            self.conv_shortcut = _convolution(inputs, width, 1, stride)
            self.bn_shortcut = _normalisation(width, use=use_batch_norm)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = self.bn_shortcut(self.conv_shortcut(features)) if self.projects else features
        for number in range(1, self.length + 1):
            features = self.get_submodule(f"bn_{number}")(self.get_submodule(f"conv_{number}")(features))
            if number < self.length:
                features = torch.relu(features)
        return torch.relu(features + shortcut)


def _check_addition(block: str, shortcut: int, last: int) -> None:
    if shortcut != last:
        raise ConfigError(
            f"{block}: {shortcut} channels in the shortcut, {last} in the last convolution; expected the "
            "same number"
        )


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _normalisation(width: int, *, use: bool) -> nn.Module:
    return nn.BatchNorm2d(width, eps=_BN_EPSILON, momentum=BN_MOMENTUM) if use else nn.Identity()


def _letters(index: int) -> str:
    """0 to a, 25 to z, 26 to aa: depth 101 has 23 blocks in a stage."""
    first, last = divmod(index, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]
