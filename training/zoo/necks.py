"""Necks: from a backbone's maps to the levels that heads look at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from training.zoo.registry import NECKS
from training.zoo.spec import ModelSpec


class Fpn(nn.Module):
    """A feature pyramid (Lin et al., arXiv 1612.03144) over the maps from ``first`` on."""

    def __init__(self, channels: Sequence[int], out: int, extra: ExtraFPNBlock, *, first: int = 0) -> None:
        super().__init__()
        self.out_channels = out
        self._first = first
        self.fpn = FeaturePyramidNetwork(list(channels[first:]), out, extra_blocks=extra)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Levels by name: "0" is the finest."""
        named = OrderedDict((str(number), value) for number, value in enumerate(maps[self._first :]))
        levels: dict[str, Tensor] = self.fpn(named)
        return levels


class Extras(nn.Module):
    """The maps of strides 16 and 32 and four smaller ones, for SSD (Sandler et al., arXiv 1801.04381)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = (512, 256, 256, 128)
        self.out_channels = [*channels[2:], *widths]
        before = (channels[-1], *widths[:-1])
        self.extra = nn.ModuleList(_halved(a, b) for a, b in zip(before, widths, strict=True))

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Six levels by name."""
        levels = list(maps[2:])
        for block in self.extra:
            levels.append(block(levels[-1]))
        return OrderedDict((str(number), level) for number, level in enumerate(levels))


@NECKS.register("fpn")
def fpn(channels: Sequence[int], spec: ModelSpec) -> nn.Module:
    """Strides 4 to 32, and 64 by subsampling: what the two-stage detectors take."""
    return Fpn(channels, spec.neck_channels, LastLevelMaxPool())


@NECKS.register("fpn_p3_p7")
def fpn_p3_p7(channels: Sequence[int], spec: ModelSpec) -> nn.Module:
    """Strides 8 to 32, and 64 and 128 by convolutions: what RetinaNet and FCOS take."""
    out = spec.neck_channels
    return Fpn(channels, out, LastLevelP6P7(out, out), first=1)


@NECKS.register("extras")
def extras(channels: Sequence[int], spec: ModelSpec) -> nn.Module:  # noqa: ARG001
    """Strides 16 to 512, for SSD."""
    return Extras(channels)


class Pyramid(nn.Module):
    """A backbone with its neck: images to levels."""

    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.out_channels = neck.out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``images [N, 3, H, W]`` to levels by name."""
        levels: dict[str, Tensor] = self.neck(self.backbone(images))
        return levels


def _halved(channels: int, out: int) -> nn.Sequential:
    middle = out // 2

    def norm(width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width, eps=0.001, momentum=0.03), nn.ReLU6()]

    return nn.Sequential(
        nn.Conv2d(channels, middle, 1, bias=False),
        *norm(middle),
        nn.Conv2d(middle, middle, 3, stride=2, padding=1, groups=middle, bias=False),
        *norm(middle),
        nn.Conv2d(middle, out, 1, bias=False),
        *norm(out),
    )
