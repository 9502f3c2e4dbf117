"""VGG 16 and 19 (Simonyan and Zisserman 2014, arXiv 1409.1556) without their classifier, at stride 16.

Without pooling the first convolution of the groups 2 to 5 has stride 2, with pooling a max-pool follows the
groups 1 to 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from storage.errors import ConfigError
from training.detectnet_v2.backbones.backbone import Backbone, Unit, letters

_DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class Vgg(Backbone):
    """Freeze blocks 1 to 5 are the groups of convolutions."""

    def __init__(
        self, num_layers: int, *, channels: int = 3, use_pooling: bool = False, use_batch_norm: bool = False
    ) -> None:
        super().__init__()
        if num_layers not in _DEPTHS:
            raise ConfigError(
                f"model_config.num_layers is {num_layers}; expected one of 16, 19 for vgg",
                key="num_layers",
                found=num_layers,
            )
        self.layers = nn.Sequential()
        freeze_ids: dict[int, list[str]] = {}
        width = channels
        for group, (count, outputs) in enumerate(zip(_DEPTHS[num_layers], _WIDTHS, strict=True), start=1):
            names = [f"block_{group}{letters(index)}" for index in range(count)]
            freeze_ids[group] = [f"layers.{name}" for name in names]
            for index, name in enumerate(names):
                stride = 2 if index == 0 and group > 1 and not use_pooling else 1
                unit = Unit(width, outputs, 3, stride=stride, use_batch_norm=use_batch_norm)
                self.layers.add_module(name, unit)
                width = outputs
            if use_pooling and group < 5:
                self.layers.add_module(f"pool_{group}", nn.MaxPool2d(2))
        self.freeze_ids = freeze_ids
        self.out_channels = width

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features
