"""Heads: torchvision's, by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssdlite import SSDLiteHead

from training.zoo.registry import HEADS


@dataclass(frozen=True, kw_only=True)
class HeadInput:
    """What a head is built for: channels and anchors of each level, classes with the background."""

    channels: tuple[int, ...]
    anchors: tuple[int, ...]
    classes: int
    resolution: int = 7
    """Side of the map that is cut out for an object."""


@HEADS.register("two_mlp")
def two_mlp(into: HeadInput) -> nn.Module:
    """Two layers of 1,024: the box head of Faster R-CNN."""
    return TwoMLPHead(into.channels[0] * into.resolution**2, 1024)


@HEADS.register("conv_mlp")
def conv_mlp(into: HeadInput) -> nn.Module:
    """Four convolutions with batch norms and a layer of 1,024."""
    size = (into.channels[0], into.resolution, into.resolution)
    return FastRCNNConvFCHead(size, [256] * 4, [1024], norm_layer=nn.BatchNorm2d)


@HEADS.register("mask_conv")
def mask_conv(into: HeadInput) -> nn.Module:
    """Four convolutions: the mask head of Mask R-CNN."""
    return MaskRCNNHeads(into.channels[0], [256] * 4, 1)


@HEADS.register("retina")
def retina(into: HeadInput) -> nn.Module:
    """Classes and boxes at every anchor, focal loss."""
    return RetinaNetHead(into.channels[0], into.anchors[0], into.classes)


@HEADS.register("retina_norm")
def retina_norm(into: HeadInput) -> nn.Module:
    """The same with group norms, which makes training from few images calmer."""
    return RetinaNetHead(
        into.channels[0], into.anchors[0], into.classes, norm_layer=partial(nn.GroupNorm, 32)
    )


@HEADS.register("fcos")
def fcos(into: HeadInput) -> nn.Module:
    """Classes, distances and centre-ness at every point."""
    return FCOSHead(into.channels[0], into.anchors[0], into.classes)


@HEADS.register("ssdlite")
def ssdlite(into: HeadInput) -> nn.Module:
    """Depthwise convolutions at every level."""
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    return SSDLiteHead(list(into.channels), list(into.anchors), into.classes, norm)
