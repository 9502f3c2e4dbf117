"""The network of MAL: one crop around one box in, the logits of one mask out.

1. The backbone makes a map of the crop.
2. The K head makes of its mean over space one vector for each object.
3. The V head makes a larger map; the size of the box decides at which scale.
4. The product of vector and map is the mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.mal.backbones import Backbone, build_backbone, freeze
from training.mal.spec import MalSpec, ModelSpec

SMALL, MEDIUM = 32.0**2, 96.0**2
"""Largest areas of boxes, in pixels, that count as small and as medium."""
_VECTOR = 256
_SCALES = (0.5, 1.0, 2.0)


class MalNetwork(nn.Module):
    """Crops ``[B, 3, S, S]`` (normalised) and areas of boxes ``[B]`` to logits ``[B, 1, S / 4, S / 4]``."""

    def __init__(self, spec: ModelSpec, *, crop_size: int) -> None:
        super().__init__()
        self.spec, self.crop_size = spec, crop_size
        self.mask_size = crop_size // 4
        self.backbone: Backbone = build_backbone(spec.arch, crop_size=crop_size, drop_path=spec.vit_dpr)
        channels = self.backbone.out_channels
        self.k_head = nn.Sequential(
            nn.Linear(channels, _VECTOR), nn.ReLU(), nn.Linear(_VECTOR, spec.mask_head_out_channel)
        )
        widths = [channels, *[spec.mask_head_hidden_channel] * (spec.mask_head_num_convs - 1)]
        self.v_head = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(widths, [*widths[1:], spec.mask_head_out_channel], strict=True)
        )
        for conv in self.v_head:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        freeze(self.backbone, spec.frozen_stages)

    def forward(self, crops: Tensor, areas: Tensor) -> Tensor:
        features = self.backbone(crops)
        vectors = self.k_head(features.mean((2, 3)))
        if self.spec.not_adjust_scale:
            return self._masks(features, vectors, self.spec.mask_scale_ratio_pre)
        groups = size_groups(areas)
        logits = vectors.new_zeros(len(crops), 1, self.mask_size, self.mask_size)
        for group, scale in enumerate(_SCALES):
            members = (groups == group).nonzero().squeeze(1)
            if len(members):
                found = self._masks(features[members], vectors[members], scale)
                logits = logits.index_copy(0, members, found.to(logits.dtype))
        return logits

    def _masks(self, features: Tensor, vectors: Tensor, scale: float) -> Tensor:
        if scale != 1:
            features = _resized(features, [max(1, round(side * scale)) for side in features.shape[-2:]])
        for number, conv in enumerate(self.v_head, 1):
            if number == len(self.v_head):
                ratio = self.spec.mask_scale_ratio
                features = _resized(features, [max(1, round(side * ratio)) for side in features.shape[-2:]])
            features = functional.relu(conv(features))
        logits = torch.einsum("bc,bchw->bhw", vectors, features)[:, None]
        return _resized(logits, [self.mask_size, self.mask_size])


def build_network(spec: MalSpec) -> MalNetwork:
    """The network of a spec; random weights, drawn from torch's generator as it stands."""
    return MalNetwork(spec.model, crop_size=spec.dataset.crop_size)


def size_groups(areas: Tensor) -> Tensor:
    """0 for small boxes, 1 for medium, 2 for large, of areas in pixels; the limits belong to the smaller."""
    limits = torch.tensor([SMALL, MEDIUM], device=areas.device, dtype=torch.float64)
    return torch.bucketize(areas.double(), limits)


def _resized(features: Tensor, size: list[int]) -> Tensor:
    if list(features.shape[-2:]) == size:
        return features
    return functional.interpolate(features, size, mode="bilinear", align_corners=False)
