"""What MAL sees with: plain vision transformers, or any convolutional model of timm for small machines."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from storage.errors import ConfigError

# Patch side, channels, depth, heads.
_TRANSFORMERS = {
    "vit-deit-tiny/16": (16, 192, 12, 3),
    "vit-deit-small/16": (16, 384, 12, 6),
    "vit-mae-base/16": (16, 768, 12, 12),
    "vit-mae-large/16": (16, 1024, 24, 16),
    "vit-mae-huge/14": (14, 1280, 32, 16),
}
_STRIDES = (8, 16, 32)
_MERGED_CHANNELS = 128
_GROUPS = 8


class Backbone(nn.Module):
    """Images ``[B, 3, H, W]``, normalised, to a map ``[B, out_channels, h, w]``.

    ``stages`` are the parts that ``frozen_stages`` counts: the embedding (stem), then the blocks.
    """

    net: Any
    out_channels: int
    stages: Sequence[nn.Module]


def build_backbone(arch: str, *, crop_size: int, drop_path: float = 0.0) -> Backbone:
    """The backbone of a spec's ``model.arch``, with random weights.

    ``vit-…/16`` as the documentation names them; any other name is a convolutional model of timm. Raises
    ``ConfigError``.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"model.arch {arch!r} needs the package timm: pip install 'dropmill[train]'"
        ) from error
    if arch in _TRANSFORMERS:
        patch, channels, depth, heads = _TRANSFORMERS[arch]
        return Transformer(patch, channels, depth, heads, crop_size=crop_size, drop_path=drop_path)
    if arch.startswith("fan_"):
        raise ConfigError(
            f"model.arch {arch!r}: the FAN networks are not built here; expected one of "
            f"{', '.join(_TRANSFORMERS)}, or a convolutional model of timm such as efficientnet_lite0"
        )
    known = [*_TRANSFORMERS, *timm.list_models()]
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_TRANSFORMERS)}"
        raise ConfigError(f"model.arch {arch!r} is unknown, to timm too; {hint}", key="model.arch")
    return Convolutional(arch)


class Transformer(Backbone):
    """A plain ViT: the tokens of the last block, normalised, as a map of ``crop / patch`` a side."""

    def __init__(
        self, patch: int, channels: int, depth: int, heads: int, *, crop_size: int, drop_path: float
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.patch, self.out_channels = patch, channels
        side = max(patch, round(crop_size / patch) * patch)
        self.net = VisionTransformer(
            img_size=side,
            patch_size=patch,
            embed_dim=channels,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            drop_path_rate=drop_path,
        )
        self.stages = [self.net.patch_embed, *self.net.blocks]

    def forward(self, images: Tensor) -> Tensor:
        size = [max(self.patch, round(side / self.patch) * self.patch) for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            # Patches of 14 do not fill 512 pixels.
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        tokens: Tensor = self.net.forward_features(images)[:, self.net.num_prefix_tokens :]
        height, width = (side // self.patch for side in size)
        return tokens.transpose(1, 2).reshape(len(images), self.out_channels, height, width)


class Convolutional(Backbone):
    """Features of strides 8, 16 and 32, each projected to 128 channels, added up at stride 8, normalised.

    Without the norm, which transformers end with as well, the first masks are full and nothing is learnt.
    """

    def __init__(self, arch: str) -> None:
        super().__init__()
        import timm

        try:
            whole: Any = timm.create_model(arch, features_only=True, pretrained=False)
            levels = whole.feature_info.reduction()
            wanted = tuple(levels.index(stride) for stride in _STRIDES)
            self.net = timm.create_model(arch, features_only=True, pretrained=False, out_indices=wanted)
        except (RuntimeError, AttributeError, AssertionError, ValueError, TypeError) as error:
            raise ConfigError(
                f"model.arch {arch!r}: timm gives {error}; expected features of strides 8, 16 and 32",
                key="model.arch",
            ) from error
        self.out_channels = _MERGED_CHANNELS
        self.project = nn.ModuleList(
            nn.Conv2d(channels, _MERGED_CHANNELS, 1) for channels in self.net.feature_info.channels()
        )
        self.norm = nn.GroupNorm(_GROUPS, _MERGED_CHANNELS)
        self.stages = list(self.net.children())

    def forward(self, images: Tensor) -> Tensor:
        levels = self.net(images)
        merged: Tensor = self.project[-1](levels[-1])
        for project, level in zip(self.project[-2::-1], levels[-2::-1], strict=True):
            merged = functional.interpolate(merged, level.shape[-2:], mode="nearest")
            merged = merged + project(level)
        normalised: Tensor = self.norm(merged)
        return normalised


def freeze(backbone: Backbone, stages: Sequence[int]) -> None:
    """Take ``stages`` out of training; numbers below 0 name none. Raises ``ConfigError`` beyond the last."""
    for stage in stages:
        if stage >= len(backbone.stages):
            raise ConfigError(
                f"model.frozen_stages: {stage}; the backbone has stages 0 to {len(backbone.stages) - 1}",
                key="model.frozen_stages",
            )
        if stage >= 0:
            for parameter in backbone.stages[stage].parameters():
                parameter.requires_grad_(False)
