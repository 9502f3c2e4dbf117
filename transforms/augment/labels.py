"""The labels of an output, from its plan alone: no pixel is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transforms.augment.boxes import Floats, cover, move_boxes
from transforms.augment.hidden import hide
from transforms.augment.masks import move_segmentation
from transforms.augment.plan import Layer, Plan
from transforms.augment.sample import LabelledImage, Objects, Placed, objects_of


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which objects remain, and what is said of them."""

    min_visibility: float = 0.1
    min_size: float = 1.0
    """Pixels of either side."""
    masks: bool = True
    refine: bool = False
    """Boxes are the extents of masks, where there are masks."""


def labels_of(plan: Plan, images: Mapping[str, LabelledImage], keep: Keep) -> Placed:
    """The objects of all layers of a plan that can still be seen.

    Objects that pasted instances or erased rectangles hide are less visible, and masks are without what a
    pasted instance hides; regions to ignore stay as long as
    any part of them is in view.
    """
    parts = [_of_layer(plan, layer, images[layer.sample], keep) for layer in plan.layers]
    pairs = list(zip(plan.layers, parts, strict=True))
    seen = [
        hide(
            part,
            [(layer, later) for layer, later in pairs[i + 1 :] if layer.instance is not None],
            plan.width,
            plan.height,
        )
        for i, part in enumerate(parts)
    ]
    return _kept([part for part, _ in seen], [hidden for _, hidden in seen], plan, keep)


def _of_layer(plan: Plan, layer: Layer, image: LabelledImage, keep: Keep) -> Placed:
    objects = image.objects if layer.instance is None else _one(image.objects, layer)
    numbers = range(len(objects)) if layer.instance is None else [layer.instance]
    matrix = layer.affine()
    window = (float(layer.window[0]), float(layer.window[1]), float(layer.window[2]), float(layer.window[3]))
    moved = move_boxes(objects.boxes, matrix, window)
    boxes, visible = moved.boxes.copy(), moved.visible.copy()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    outlines: list[str | None] = [None] * len(objects)
    if keep.masks or keep.refine:
        for i, text in enumerate(objects.segmentations):
            if text is None or not visible[i] > 0:
                continue
            shape = move_segmentation(text, matrix, window, plan.width, plan.height)
            if shape is None:
                # The box is still in view where its object is not.
                visible[i] = 0.0 if keep.refine else visible[i]
                continue
            outlines[i] = shape.segmentation
            areas[i] = shape.area
            if keep.refine:
                boxes[i] = shape.box
    return Placed(
        boxes=boxes,
        categories=objects.categories,
        ignore=objects.ignore,
        sources=tuple((layer.sample, number) for number in numbers),
        segmentations=tuple(outlines),
        visible=visible,
        covered=np.zeros(len(objects)),
        areas=areas,
    )


def _one(objects: Objects, layer: Layer) -> Objects:
    """The instance of a pasted layer. Without a mask of its own, the box is around what was cut."""
    number = layer.instance or 0
    return objects_of(
        objects.boxes[number : number + 1],
        objects.categories[number : number + 1],
        [bool(objects.ignore[number])],
        objects.rows[number : number + 1],
        [objects.segmentations[number]],
    )


def _kept(parts: list[Placed], hidden: list[Floats], plan: Plan, keep: Keep) -> Placed:
    boxes = np.concatenate([part.boxes for part in parts])
    covered = np.concatenate(hidden)
    if plan.erased and len(boxes):
        erased = cover(np.nan_to_num(boxes), np.asarray(plan.erased, np.float64)).sum(axis=1)
        covered = np.minimum(covered + erased, 1.0)
    visible = np.concatenate([part.visible for part in parts]) * (1 - covered)
    ignore = np.concatenate([part.ignore for part in parts])
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (np.nan_to_num(sides) >= keep.min_size).all(axis=1)
    stays = (visible > 0) & np.where(ignore, True, (visible >= keep.min_visibility) & large)
    places = np.flatnonzero(stays).tolist()
    categories = [name for part in parts for name in part.categories]
    sources = [source for part in parts for source in part.sources]
    outlines = [text for part in parts for text in part.segmentations]
    return Placed(
        boxes=boxes[stays],
        categories=tuple(categories[i] for i in places),
        ignore=ignore[stays],
        sources=tuple(sources[i] for i in places),
        segmentations=tuple(outlines[i] if keep.masks else None for i in places),
        visible=visible[stays],
        covered=covered[stays],
        areas=np.concatenate([part.areas for part in parts])[stays],
        facts={"objects": len(boxes), "dropped": len(boxes) - len(places)},
    )
