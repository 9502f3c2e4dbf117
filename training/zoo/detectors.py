"""Detectors by name, put together of a backbone, a neck and a head.

Images go in as ``[3, H, W]`` in [0, 1] of any size, targets as torchvision's: ``boxes [n, 4]`` corners in
pixels, ``labels [n]`` from 1 (0 is the background), for Mask R-CNN ``masks [n, H, W]``, ``ignore [k, 4]``.
In training mode losses by name come out, else boxes, labels, scores (and masks) of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

from storage.errors import ConfigError
from training.zoo.backbones import build_backbone
from training.zoo.heads import HeadInput
from training.zoo.ignore import (
    IgnoringFcos,
    IgnoringRetinaNet,
    IgnoringRoiHeads,
    IgnoringRpn,
    IgnoringSsd,
    Resize,
)
from training.zoo.necks import Pyramid
from training.zoo.registry import DETECTORS, HEADS, NECKS, import_parts
from training.zoo.spec import ModelSpec

_MEAN = [0.485, 0.456, 0.406]
_STD = [0.229, 0.224, 0.225]
_RATIOS = (0.5, 1.0, 2.0)


def build_detector(spec: ModelSpec, classes: int) -> nn.Module:
    """The detector that a spec names, for ``classes`` classes beside the background.

    Raises ``UnknownKeyError`` for parts that are not registered, ``ConfigError`` for such as do not fit.
    """
    # It registers itself; transformers is imported only where it is built.
    import training.zoo.transformer  # noqa: F401

    import_parts(spec.imports)
    if classes < 1:
        raise ConfigError("a detector of no class; expected data.classes, or objects to take them from")
    builder = DETECTORS[spec.detector]
    return cast("nn.Module", builder(spec, classes))


def gives_masks(spec: ModelSpec) -> bool:
    """Whether the detector finds masks, and needs them to learn: one of your own says so by an attribute
    ``gives_masks`` of the function that is registered.
    """
    own = spec.detector in DETECTORS and getattr(DETECTORS[spec.detector], "gives_masks", False)
    return spec.detector == "mask_rcnn" or bool(own)


@DETECTORS.register("faster_rcnn")
def faster_rcnn(spec: ModelSpec, classes: int) -> nn.Module:
    """Faster R-CNN (Ren et al., arXiv 1506.01497) with a feature pyramid."""
    return _two_stages(FasterRCNN, spec, classes)


@DETECTORS.register("mask_rcnn")
def mask_rcnn(spec: ModelSpec, classes: int) -> nn.Module:
    """Mask R-CNN (He et al., arXiv 1703.06870) with a feature pyramid."""
    into = HeadInput(channels=(spec.neck_channels,), anchors=(), classes=classes + 1, resolution=14)
    return _two_stages(MaskRCNN, spec, classes, mask_head=HEADS["mask_conv"](into))


@DETECTORS.register("retinanet")
def retinanet(spec: ModelSpec, classes: int) -> nn.Module:
    """RetinaNet (Lin et al., arXiv 1708.02002)."""
    body = _pyramid(spec, "fpn_p3_p7")
    sides = _sides(spec, 5, (32, 64, 128, 256, 512))
    # Three sizes an octave, as in the paper.
    anchors = AnchorGenerator(
        tuple(tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in sides),
        (_RATIOS,) * 5,
    )
    head = _head(spec, "retina", (body.out_channels,), (anchors.num_anchors_per_location()[0],), classes)
    network = IgnoringRetinaNet(
        body, classes + 1, anchor_generator=anchors, head=head, **_common(spec, "score_thresh", "nms_thresh")
    )
    return _resizing(network, spec)


@DETECTORS.register("fcos")
def fcos(spec: ModelSpec, classes: int) -> nn.Module:
    """FCOS (Tian et al., arXiv 1904.01355)."""
    body = _pyramid(spec, "fpn_p3_p7")
    strides = tuple((side,) for side in _sides(spec, 5, (8, 16, 32, 64, 128)))
    anchors = AnchorGenerator(strides, ((1.0,),) * 5)
    head = _head(spec, "fcos", (body.out_channels,), (1,), classes)
    network = IgnoringFcos(
        body, classes + 1, anchor_generator=anchors, head=head, **_common(spec, "score_thresh", "nms_thresh")
    )
    return _resizing(network, spec)


@DETECTORS.register("ssdlite")
def ssdlite(spec: ModelSpec, classes: int) -> nn.Module:
    """SSD (Liu et al., arXiv 1512.02325) with depthwise heads, for a square input."""
    body = _pyramid(spec, "extras")
    anchors = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    counts = tuple(anchors.num_anchors_per_location())
    head = _head(spec, "ssdlite", tuple(body.out_channels), counts, classes)
    size = (spec.input_size, spec.input_size)
    network = IgnoringSsd(
        body, anchors, size, classes + 1, head=head, **_common(spec, "score_thresh", "nms_thresh")
    )
    network.transform = Resize(
        spec.input_size, spec.input_size, _MEAN, _STD, size_divisible=1, fixed_size=size
    )
    return cast("nn.Module", network)


def _two_stages(kind: Any, spec: ModelSpec, classes: int, **more: Any) -> nn.Module:
    body = _pyramid(spec, "fpn")
    sides = _sides(spec, 5, (32, 64, 128, 256, 512))
    network = kind(
        body,
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), (_RATIOS,) * 5),
        box_head=_head(spec, "two_mlp", (body.out_channels,), (), classes),
        **_common(spec, "box_score_thresh", "box_nms_thresh", "box_detections_per_img"),
        **more,
    )
    rpn, roi = network.rpn, network.roi_heads
    network.rpn = IgnoringRpn(
        rpn.anchor_generator, rpn.head, 0.7, 0.3, 256, 0.5,
        dict(rpn._pre_nms_top_n), dict(rpn._post_nms_top_n), 0.7,  # noqa: SLF001
    )  # fmt: skip
    masks = [getattr(roi, name) for name in ("mask_roi_pool", "mask_head", "mask_predictor")]
    network.roi_heads = IgnoringRoiHeads(
        roi.box_roi_pool, roi.box_head, roi.box_predictor, 0.5, 0.5, 512, 0.25, None,
        roi.score_thresh, roi.nms_thresh, roi.detections_per_img, *masks,
    )  # fmt: skip
    return _resizing(network, spec)


def _pyramid(spec: ModelSpec, neck: str) -> Any:
    backbone = build_backbone(spec)
    return Pyramid(backbone, NECKS[spec.neck or neck](backbone.channels, spec))


def _head(
    spec: ModelSpec, default: str, channels: tuple[int, ...], anchors: tuple[int, ...], classes: int
) -> nn.Module:
    into = HeadInput(channels=channels, anchors=anchors, classes=classes + 1)
    head: nn.Module = HEADS[spec.head or default](into)
    return head


def _sides(spec: ModelSpec, levels: int, default: Sequence[int]) -> tuple[int, ...]:
    sides = spec.anchor_sizes or tuple(default)
    if len(sides) != levels or min(sides) < 1:
        raise ConfigError(
            f"model.anchor_sizes: {list(sides)}; {spec.detector} needs {levels} of at least 1 pixel"
        )
    return tuple(sides)


def _common(spec: ModelSpec, score: str, nms: str, most: str = "detections_per_img") -> dict[str, Any]:
    return {score: spec.score_threshold, nms: spec.nms_threshold, most: spec.max_detections}


def _resizing(network: Any, spec: ModelSpec) -> nn.Module:
    network.transform = Resize(spec.short_side, spec.long_side, _MEAN, _STD)
    return cast("nn.Module", network)
