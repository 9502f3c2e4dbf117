"""What every backbone is, and the layers that TAO's families are made of."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

BN_MOMENTUM = 0.01  # the share of the new value; TAO says 0.99 for that of the old one
_BN_EPSILON = 1e-3


class Backbone(nn.Module, ABC):
    """Images ``[B, channels, H, W]`` to features ``[B, out_channels, H/16, W/16]``; H and W are multiples of
    16.

    ``freeze_ids`` are the numbers that ``freeze_blocks`` may hold, each with the names of its layers.
    """

    out_channels: int
    freeze_ids: Mapping[int, Sequence[str]]

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The features of ``images``."""

    def stage(self, number: int) -> list[nn.Module]:
        """The layers of freeze block ``number``."""
        return [self.get_submodule(name) for name in self.freeze_ids[number]]


class Unit(nn.Module):
    """A convolution, normalised where ``use_batch_norm``, then ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        use_batch_norm: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, kernel, stride, groups=groups, bias=bias)
        self.bn = normalisation(outputs, use=use_batch_norm)
        self.activation = nn.ReLU() if activate else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.activation(self.bn(self.conv(features)))
        return found


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int, *, groups: int = 1, bias: bool = True
) -> nn.Conv2d:
    """With symmetric padding, and weights after He et al. 2015 (arXiv 1502.01852, equation 14)."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def normalisation(width: int, *, use: bool) -> nn.Module:
    """TAO's batch normalisation, or nothing."""
    return nn.BatchNorm2d(width, eps=_BN_EPSILON, momentum=BN_MOMENTUM) if use else nn.Identity()


def letters(index: int) -> str:
    """0 to a, 25 to z, 26 to aa: depth 101 has 23 blocks in a stage."""
    first, last = divmod(index, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]
