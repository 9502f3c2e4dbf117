"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) and v2 (Sandler et al. 2018, arXiv 1801.04381), cut at
stride 16. ReLU everywhere, as in TAO: no ReLU6.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.detectnet_v2.backbones.backbone import Backbone, Unit

# (output channels, stride) of the separable blocks
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5)
# (expansion, output channels, blocks, stride of the first)
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))


class MobileNetV1(Backbone):
    """Freeze block 0 is the stem, 1 to 11 are the depthwise separable blocks."""

    def __init__(self, *, channels: int = 3, use_batch_norm: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        self.layers.add_module(
            "conv1", Unit(channels, 32, 3, stride=2, bias=False, use_batch_norm=use_batch_norm)
        )
        freeze_ids = {0: ["layers.conv1"]}
        width = 32
        for number, (outputs, stride) in enumerate(_V1, start=1):
            block = nn.Sequential()
            block.add_module(
                "depthwise",
                Unit(width, width, 3, stride=stride, groups=width, bias=False, use_batch_norm=use_batch_norm),
            )
            block.add_module("pointwise", Unit(width, outputs, 1, bias=False, use_batch_norm=use_batch_norm))
            self.layers.add_module(f"block_{number}", block)
            freeze_ids[number] = [f"layers.block_{number}"]
            width = outputs
        self.freeze_ids = freeze_ids
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class MobileNetV2(Backbone):
    """Freeze block 0 is the stem, 1 to 13 are the inverted residuals."""

    def __init__(self, *, channels: int = 3, use_batch_norm: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        self.layers.add_module(
            "conv1", Unit(channels, 32, 3, stride=2, bias=False, use_batch_norm=use_batch_norm)
        )
        freeze_ids = {0: ["layers.conv1"]}
        width = 32
        for expansion, outputs, count, first_stride in _V2:
            for index in range(count):
                number = len(freeze_ids)
                block = InvertedResidual(
                    width,
                    outputs,
                    expansion=expansion,
                    stride=first_stride if index == 0 else 1,
                    use_batch_norm=use_batch_norm,
                )
                self.layers.add_module(f"block_{number}", block)
                freeze_ids[number] = [f"layers.block_{number}"]
                width = outputs
        self.freeze_ids = freeze_ids
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; added to the input where shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, stride: int, use_batch_norm: bool
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = (
            Unit(inputs, wide, 1, bias=False, use_batch_norm=use_batch_norm)
            if expansion > 1
            else nn.Identity()
        )
        self.depthwise = Unit(
            wide, wide, 3, stride=stride, groups=wide, bias=False, use_batch_norm=use_batch_norm
        )
        self.project = Unit(wide, outputs, 1, bias=False, use_batch_norm=use_batch_norm, activate=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + found if self.adds else found
