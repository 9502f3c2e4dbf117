"""What every backbone is, and the layers that TAO's families are made of."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch.nn.functional as F  # noqa: N812
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
        found: Tensor = self.activation(normalised(self.conv, self.bn, features))
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


def normalised(conv: nn.Module, bn: nn.Module, features: Tensor) -> Tensor:
    """``bn(conv(features))``; while ``bn`` learns, without the work for a bias that has no effect.

    Statistics of the batch take a bias away again, so that the gradient of the cost by it is zero (Ioffe and
    Szegedy 2015, arXiv 1502.03167, section 3.2). Only the running mean holds it.
    """
    if type(conv) is not nn.Conv2d or conv.bias is None or type(bn) is not nn.BatchNorm2d or not bn.training:
        found: Tensor = bn(conv(features))
        return found
    assert bn.running_mean is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    found = F.conv2d(features, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    # The bias takes part with a gradient of zero: processes that train together wait for each parameter's.
    shift = bn.bias + 0 * conv.bias
    found = F.batch_norm(found, bn.running_mean, bn.running_var, bn.weight, shift, True, bn.momentum, bn.eps)
    bn.num_batches_tracked.add_(1)
    # ``data``: the backward pass holds the running mean, without reading it.
    bn.running_mean.data.add_(conv.bias.detach(), alpha=bn.momentum)
    return found


def letters(index: int) -> str:
    """0 to a, 25 to z, 26 to aa: depth 101 has 23 blocks in a stage."""
    first, last = divmod(index, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]
