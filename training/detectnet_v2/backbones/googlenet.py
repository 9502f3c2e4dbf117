"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842, table 1) without its last pooling: stride 16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.detectnet_v2.backbones.backbone import Backbone, Unit

# 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(Backbone):
    """Freeze block 0 is the stem (three convolutions), 1 to 9 are the inception modules."""

    def __init__(self, *, channels: int = 3, use_batch_norm: bool = True) -> None:
        super().__init__()
        self.stem_1 = Unit(channels, 64, 7, stride=2, use_batch_norm=use_batch_norm)
        self.stem_2 = Unit(64, 64, 1, use_batch_norm=use_batch_norm)
        self.stem_3 = Unit(64, 192, 3, use_batch_norm=use_batch_norm)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        freeze_ids = {0: ["stem_1", "stem_2", "stem_3"]}
        width = 192
        for number, (name, widths) in enumerate(_INCEPTIONS.items(), start=1):
            self.add_module(f"inception_{name}", Inception(width, widths, use_batch_norm=use_batch_norm))
            freeze_ids[number] = [f"inception_{name}"]
            width = widths[0] + widths[2] + widths[4] + widths[5]
        self.freeze_ids = freeze_ids
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.stem_3(self.stem_2(self.pool(self.stem_1(images)))))
        for name in _INCEPTIONS:
            if name == "4a":
                features = self.pool(features)
            features = self.get_submodule(f"inception_{name}")(features)
        return features


class Inception(nn.Module):
    """Four ways side by side, joined along the channels."""

    def __init__(
        self, inputs: int, widths: tuple[int, int, int, int, int, int], *, use_batch_norm: bool
    ) -> None:
        super().__init__()
        one, reduce_3, three, reduce_5, five, projection = widths
        self.way_1 = Unit(inputs, one, 1, use_batch_norm=use_batch_norm)
        self.reduce_3 = Unit(inputs, reduce_3, 1, use_batch_norm=use_batch_norm)
        self.way_3 = Unit(reduce_3, three, 3, use_batch_norm=use_batch_norm)
        self.reduce_5 = Unit(inputs, reduce_5, 1, use_batch_norm=use_batch_norm)
        self.way_5 = Unit(reduce_5, five, 5, use_batch_norm=use_batch_norm)
        self.pool = nn.MaxPool2d(3, 1, padding=1)
        self.projection = Unit(inputs, projection, 1, use_batch_norm=use_batch_norm)

    def forward(self, features: Tensor) -> Tensor:
        ways = (
            self.way_1(features),
            self.way_3(self.reduce_3(features)),
            self.way_5(self.reduce_5(features)),
            self.projection(self.pool(features)),
        )
        return torch.cat(ways, dim=1)
