"""Backbones: torchvision's ResNets, MobileNets and EfficientNets, and every timm model that gives features.

All give maps of strides 4, 8, 16 and 32, in this order, and say their ``channels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from storage.errors import ConfigError, UnknownKeyError
from training.zoo.registry import BACKBONES
from training.zoo.spec import ModelSpec
from training.zoo.weights import load_weights

STRIDES = (4, 8, 16, 32)
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2")
_SEQUENCES = (
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s",
)  # fmt: skip


class Stages(nn.Module):
    """Blocks that run one after the other; the maps after some of them are given out."""

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int], gives: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self._gives = frozenset(gives)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``images [N, 3, H, W]`` to maps."""
        maps = []
        for number, stage in enumerate(self.stages):
            images = stage(images)
            if number in self._gives:
                maps.append(images)
        return maps


class TimmFeatures(nn.Module):
    """A timm model's maps of the four strides."""

    def __init__(self, model: nn.Module, places: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.channels = tuple(channels)
        self._places = tuple(places)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``images [N, 3, H, W]`` to maps."""
        maps = self.model(images)
        return [maps[place] for place in self._places]


def build_backbone(spec: ModelSpec) -> nn.Module:
    """The backbone that a spec names, with its weights, its norms, and its frozen stages."""
    if spec.backbone.startswith("timm:"):
        backbone: nn.Module = _timm(spec)
    elif spec.backbone in BACKBONES:
        backbone = BACKBONES[spec.backbone](spec)
    else:
        raise UnknownKeyError("model.backbone", spec.backbone, [*BACKBONES, "timm:<name>"])
    channels = getattr(backbone, "channels", None)
    if not channels or len(channels) != len(STRIDES):
        raise ConfigError(
            f"backbone {spec.backbone!r}: its channels are {channels}; expected four, for the maps of "
            "strides 4, 8, 16 and 32"
        )
    set_norm(backbone, spec.norm)
    _freeze(backbone, spec.frozen_stages)
    return backbone


def freeze_stage(stage: nn.Module) -> None:
    """Keep a stage as it is: its weights, and the statistics of its norms."""
    set_norm(stage, "frozen")
    stage.requires_grad_(requires_grad=False)


def set_norm(module: nn.Module, norm: str) -> None:
    """Make the batch norms of a module ``frozen`` or ``sync``; ``batch`` is what they are."""
    make = {"frozen": _frozen, "sync": _synchronised}.get(norm)
    if make is None:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _whole(make(child), child))
        else:
            set_norm(child, norm)


def _resnet(spec: ModelSpec) -> nn.Module:
    import torchvision

    network = getattr(torchvision.models, spec.backbone)(weights=None)
    _load(network, spec)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    return Stages([stem, *stages], _channels([stem, *stages])[1:], range(1, 5))


def _sequence(spec: ModelSpec) -> nn.Module:
    import torchvision

    network = getattr(torchvision.models, spec.backbone)(weights=None)
    _load(network, spec)
    blocks = list(network.features)
    sides = [64 // size for size in _sides(blocks)]
    # A stage ends with the last block before the stride grows.
    ends = [max(i for i, stride in enumerate(sides) if stride == wanted) for wanted in (2, *STRIDES)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    stages = [nn.Sequential(*blocks[a : b + 1]) for a, b in zip(starts, ends, strict=True)]
    return Stages(stages, _channels(stages)[1:], range(1, 5))


for _name in _RESNETS:
    BACKBONES.register(_name)(_resnet)
for _name in _SEQUENCES:
    BACKBONES.register(_name)(_sequence)


def _timm(spec: ModelSpec) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ConfigError("timm's backbones need timm: pip install dropmill[train]") from error
    name = spec.backbone.removeprefix("timm:")
    if not timm.is_model(name):
        raise UnknownKeyError("model.backbone", name, timm.list_models())
    try:
        model: Any = timm.create_model(name, pretrained=False, features_only=True)
    except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"timm:{name} gives no feature maps: {error}; take a convolutional model") from None
    reductions = model.feature_info.reduction()
    missing = [stride for stride in STRIDES if stride not in reductions]
    if missing:
        raise ConfigError(f"timm:{name}: strides {reductions}; expected 4, 8, 16 and 32 among them")
    _load(model, spec)
    places = [reductions.index(stride) for stride in STRIDES]
    return TimmFeatures(model, places, [model.feature_info.channels()[place] for place in places])


def _load(network: nn.Module, spec: ModelSpec) -> None:
    if spec.backbone_weights:
        load_weights(network, spec.backbone_weights)


@torch.no_grad()
def _shapes(blocks: Sequence[nn.Module]) -> list[torch.Size]:
    shapes = []
    value = torch.zeros(1, 3, 64, 64)
    for block in blocks:
        training = block.training
        value = block.eval()(value)
        block.train(training)
        shapes.append(value.shape)
    return shapes


def _channels(blocks: Sequence[nn.Module]) -> list[int]:
    return [shape[1] for shape in _shapes(blocks)]


def _sides(blocks: Sequence[nn.Module]) -> list[int]:
    return [shape[3] for shape in _shapes(blocks)]


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    still = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    tensors: dict[str, Any] = {
        key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"
    }
    still.load_state_dict(tensors)
    return still


def _synchronised(norm: nn.BatchNorm2d) -> nn.Module:
    shared = nn.SyncBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    shared.load_state_dict(norm.state_dict())
    return shared


def _whole(instead: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """What takes the place of a norm: timm's also activate."""
    after = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    return nn.Sequential(instead, *after) if after else instead


def _freeze(backbone: nn.Module, count: int) -> None:
    if not count:
        return
    stages = list(getattr(backbone, "stages", []))
    if not stages:
        raise ConfigError(
            f"frozen_stages: {count}, but this backbone has no list `stages`; expected 0, or one of "
            "torchvision's backbones"
        )
    for stage in stages[:count]:
        freeze_stage(stage)
