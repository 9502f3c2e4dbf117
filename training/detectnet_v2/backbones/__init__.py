"""Backbones by the names that specs have for them."""

from __future__ import annotations

from storage.errors import ConfigError
from training.detectnet_v2.backbones.backbone import Backbone
from training.detectnet_v2.backbones.googlenet import GoogLeNet
from training.detectnet_v2.backbones.mobilenet import MobileNetV1, MobileNetV2
from training.detectnet_v2.backbones.resnet import ResNet
from training.detectnet_v2.backbones.timm_backbone import TimmBackbone
from training.detectnet_v2.backbones.vgg import Vgg
from training.detectnet_v2.spec import ModelConfig

__all__ = ["Backbone", "build_backbone"]

# TAO's names for families that timm has.
_TIMM_NAMES = {"darknet": "darknet53"}


def build_backbone(config: ModelConfig, channels: int) -> Backbone:
    """The backbone of ``model_config`` with random weights, for images of ``channels``.

    ``arch`` is resnet, vgg, googlenet, mobilenet_v1, mobilenet_v2, or the name of a model of timm such as
    efficientnet_lite0. Raises ``ConfigError`` for what does not exist.
    """
    normalise = config.use_batch_norm
    match config.arch:
        case "resnet":
            backbone: Backbone = ResNet(
                config.num_layers,
                channels=channels,
                all_projections=config.all_projections,
                use_pooling=config.use_pooling,
                use_batch_norm=normalise,
            )
        case "vgg":
            backbone = Vgg(
                config.num_layers, channels=channels, use_pooling=config.use_pooling, use_batch_norm=normalise
            )
        case "googlenet":
            backbone = GoogLeNet(channels=channels, use_batch_norm=normalise)
        case "mobilenet_v1":
            backbone = MobileNetV1(channels=channels, use_batch_norm=normalise)
        case "mobilenet_v2":
            backbone = MobileNetV2(channels=channels, use_batch_norm=normalise)
        case name:
            backbone = TimmBackbone(_TIMM_NAMES.get(name, name), channels=channels)
    if strange := [block for block in config.freeze_blocks if int(block) not in backbone.freeze_ids]:
        raise ConfigError(
            f"model_config.freeze_blocks has {strange[0]:g}; expected numbers from "
            f"{min(backbone.freeze_ids)} to {max(backbone.freeze_ids)} for {config.arch}",
            key="freeze_blocks",
            found=strange[0],
        )
    return backbone
