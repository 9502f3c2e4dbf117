"""ResNet backbones as DetectNet_v2 has them: stride 16, biases beside batch normalisation.

Residual networks after He et al. 2015 (arXiv 1512.03385), with these differences: the stem's max-pool is left
out, so the four stages have strides 2, 2, 2, 1; every convolution has a bias; the first convolution of a
block carries its stride (also in bottlenecks). With pooling the max-pool takes the stride of the first stage.
Layer names follow TAO's (``conv1``, ``bn_conv1``, ``block_1a.conv_1`` …).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from storage.errors import ConfigError
from training.detectnet_v2.backbones.backbone import Backbone, convolution, letters, normalisation, normalised

# depth -> (blocks in each stage, convolutions in a block)
_DEPTHS = {
    10: ((1, 1, 1, 1), 2),
    18: ((2, 2, 2, 2), 2),
    34: ((3, 4, 6, 3), 2),
    50: ((3, 4, 6, 3), 3),
    101: ((3, 4, 23, 3), 3),
}
_STAGE_WIDTHS = (64, 128, 256, 512)


class ResNet(Backbone):
    """Freeze block 0 is the stem, 1 to 4 are the stages."""

    def __init__(
        self,
        num_layers: int = 18,
        *,
        channels: int = 3,
        all_projections: bool = False,
        use_pooling: bool = False,
        use_batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_layers not in _DEPTHS:
            known = ", ".join(map(str, _DEPTHS))
            raise ConfigError(
                f"model_config.num_layers is {num_layers}; expected one of {known} for resnet",
                key="num_layers",
                found=num_layers,
            )
        blocks, convolutions = _DEPTHS[num_layers]
        self.conv1 = convolution(channels, 64, 7, 2)
        self.bn_conv1 = normalisation(64, use=use_batch_norm)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if use_pooling else nn.Identity()
        self.freeze_ids = {0: ["conv1", "bn_conv1"]}
        self.block_names: list[str] = []
        width = 64
        strides = (1 if use_pooling else 2, 2, 2, 1)
        for stage, (count, stage_width, stride) in enumerate(
            zip(blocks, _STAGE_WIDTHS, strides, strict=True), start=1
        ):
            outputs = [stage_width] * convolutions
            if convolutions == 3:
                outputs[-1] *= 4
            names = [f"block_{stage}{letters(index)}" for index in range(count)]
            for index, name in enumerate(names):
                block = Block(
                    width,
                    outputs,
                    stride=stride if index == 0 else 1,
                    project=index == 0 or all_projections,
                    use_batch_norm=use_batch_norm,
                )
                self.add_module(name, block)
                width = outputs[-1]
            self.freeze_ids[stage] = names
            self.block_names += names
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(torch.relu_(normalised(self.conv1, self.bn_conv1, images)))
        for name in self.block_names:
            features = self.get_submodule(name)(features)
        return features


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
            self.add_module(f"conv_{number}", convolution(width, out, kernel, stride if number == 1 else 1))
            self.add_module(f"bn_{number}", normalisation(out, use=use_batch_norm))
            width = out
        self.projects = project
        if project:
            self.conv_shortcut = convolution(inputs, width, 1, stride)
            self.bn_shortcut = normalisation(width, use=use_batch_norm)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features
        if self.projects:
            shortcut = normalised(self.conv_shortcut, self.bn_shortcut, features)
        for number in range(1, self.length + 1):
            conv, bn = self.get_submodule(f"conv_{number}"), self.get_submodule(f"bn_{number}")
            features = normalised(conv, bn, features)
            if number < self.length:
                features = torch.relu_(features)
        return torch.relu_(features + shortcut)
