"""Regions where nothing is to be learnt: difficult objects, crowds, DontCare.

A prediction that matches no object, but lies to more than half of its own area in such a region, is neither
right nor wrong: it is left out of the loss. Targets have these regions as ``ignore [k, 4]``, in pixels of
the image, corners; the network resizes them together with the boxes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import box_iou

_SHARE = 0.5
_CERTAIN = 100.0  # a logit whose loss and gradient are 0 in single precision

Target = dict[str, Tensor]


def inside(boxes: Tensor, regions: Tensor | None) -> Tensor:
    """Which of ``boxes [n, 4]`` lie to more than half of their area in one of ``regions [k, 4]``: ``[n]``."""
    if regions is None or not len(regions) or not len(boxes):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    return (both > _SHARE * area[:, None]).any(dim=1)


class Resize(GeneralizedRCNNTransform):
    """torchvision's, which also resizes ``ignore``, and takes a short side that was drawn for the sample."""

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """One image ``[3, H, W]`` and its target."""
        before = image.shape[-2:]
        drawn = target.pop("short_side", None) if target is not None else None
        if drawn is None or self.fixed_size is not None:
            image, target = super().resize(image, target)
        else:
            sides: Any = getattr(self, "min_size")  # noqa: B009  (torchvision does not say its type)
            self.min_size = (int(drawn),)
            image, target = super().resize(image, target)
            self.min_size = sides
        if target is not None and "ignore" in target:
            target["ignore"] = resize_boxes(target["ignore"], before, image.shape[-2:])
        return image, target


class IgnoringRpn(RegionProposalNetwork):
    """Anchors in ignored regions are no negative samples."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (1, 0, and -1 for what is not looked at) and boxes of each image's anchors."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & inside(anchor, target.get("ignore"))] = -1
        return labels, boxes


class IgnoringRoiHeads(RoIHeads):
    """Proposals in ignored regions are no negative samples."""

    def select_training_samples(self, proposals: list[Tensor], targets: list[Target] | None) -> Any:
        """Torchvision's choice among the proposals."""
        self._regions = [target.get("ignore") for target in targets or []]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Matched objects and labels (-1 for what is not looked at) of each image's proposals."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, proposal, regions in zip(labels, proposals, self._regions, strict=True):
            label[(label == 0) & inside(proposal, regions)] = -1
        return matched, labels


class IgnoringRetinaNet(RetinaNet):
    """Anchors in ignored regions have no classification loss."""

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Torchvision's losses."""
        busy = [
            self.proposal_matcher(box_iou(target["boxes"], anchor)) >= 0
            if len(target["boxes"])
            else torch.zeros(len(anchor), dtype=torch.bool, device=anchor.device)
            for anchor, target in zip(anchors, targets, strict=True)
        ]
        outputs = _silenced(targets, head_outputs, anchors, busy, background=None)
        return super().compute_loss(targets, outputs, anchors)


class IgnoringFcos(FCOS):
    """Points whose cell lies in an ignored region have no classification loss."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
    ) -> dict[str, Tensor]:
        """Torchvision's losses."""
        busy = [_in_any(anchor, target["boxes"]) for anchor, target in zip(anchors, targets, strict=True)]
        outputs = _silenced(targets, head_outputs, anchors, busy, background=None)
        return super().compute_loss(targets, outputs, anchors, num_anchors_per_level)


class IgnoringSsd(SSD):
    """Default boxes in ignored regions are never among the hard negatives."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Torchvision's losses."""
        busy = [matched >= 0 for matched in matched_idxs]
        outputs = _silenced(targets, head_outputs, anchors, busy, background=0)
        return super().compute_loss(targets, outputs, anchors, matched_idxs)


def _silenced(
    targets: list[Target],
    outputs: dict[str, Tensor],
    anchors: list[Tensor],
    busy: list[Tensor],
    *,
    background: int | None,
) -> dict[str, Tensor]:
    """Make what lies in ignored regions certainly background, so that it costs nothing; but not what is
    ``busy`` with an object.
    """
    if not any(len(target.get("ignore", ())) for target in targets):
        return outputs
    quiet = torch.stack(
        [
            inside(anchor, target.get("ignore")) & ~taken
            for anchor, target, taken in zip(anchors, targets, busy, strict=True)
        ]
    )
    logits = outputs["cls_logits"]
    certain = logits.new_full((logits.shape[-1],), -_CERTAIN)
    if background is not None:
        certain[background] = _CERTAIN
    return outputs | {"cls_logits": torch.where(quiet[:, :, None], certain, logits)}


def _in_any(points: Tensor, boxes: Tensor) -> Tensor:
    """Which cells have their centre in a box: FCOS gives objects to no others."""
    centre = (points[:, None, :2] + points[:, None, 2:]) / 2
    return ((centre > boxes[None, :, :2]) & (centre < boxes[None, :, 2:])).all(dim=2).any(dim=1)
