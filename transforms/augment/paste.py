"""Copy-paste: instances of one image laid into another, where they hide little.

After Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation,
CVPR 2021; here with a limit on what may be hidden, because boxes alone cannot say what is behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from transforms.augment.boxes import Floats, cover, move_points
from transforms.augment.draws import Draws
from transforms.augment.labels import Keep, labels_of
from transforms.augment.masks import ellipse
from transforms.augment.plan import Layer, Plan
from transforms.augment.sample import LabelledImage
from transforms.augment.spec import AugmentSpec

_TRIES = 12
_SMALLEST = 4.0  # pixels of either side
_MARGIN = 3.0  # pixels; a box that comes nearer to the edge is probably of an object that goes on


@dataclass(frozen=True, kw_only=True)
class Donors:
    """Instances that can be cut out, by category, in order, and their images."""

    by_category: Mapping[str, tuple[tuple[str, int], ...]]
    images: Mapping[str, LabelledImage]


def donors_of(images: Iterable[LabelledImage], *, without_mask: str = "ellipse") -> Donors:
    """The instances that are whole: within their image, no region to ignore, of 4 pixels and more.

    ``without_mask`` ``skip`` leaves those out that have no mask; ``ellipse`` cuts the ellipse in their box.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    known = {}
    for image in images:
        known[image.sample] = image
        objects = image.objects
        if not len(objects):
            continue
        boxes = objects.boxes
        far = np.array([image.width, image.height]) - _MARGIN
        whole = (boxes[:, :2] >= _MARGIN).all(axis=1) & (boxes[:, 2:] <= far).all(axis=1)
        whole &= ((boxes[:, 2:] - boxes[:, :2]) >= _SMALLEST).all(axis=1) & ~objects.ignore
        for i in np.flatnonzero(whole).tolist():
            if objects.segmentations[i] is not None or without_mask == "ellipse":
                found.setdefault(objects.categories[i], []).append((image.sample, i))
    return Donors(by_category={name: tuple(found[name]) for name in sorted(found)}, images=known)


def paste(
    spec: AugmentSpec, plan: Plan, donors: Donors, category: str, taken: Floats | None = None
) -> Plan | None:
    """``plan`` with one instance of ``category`` more; None where no place was found for it.

    ``taken [n, 4]`` are the boxes that are there; by default they are worked out from the plan.
    """
    instances = donors.by_category.get(category, ())
    if not instances:
        return None
    number = sum(layer.instance is not None for layer in plan.layers)
    draws = Draws(spec.random_seed, plan.sample, plan.copy)
    if taken is None:
        taken = labels_of(plan, donors.images, Keep(min_visibility=0.0, masks=False)).boxes
    size = math.sqrt(abs(float(np.linalg.det(plan.layers[0].affine()[:, :2])))) or 1.0
    for turn in range(_TRIES):
        name = f"paste/{number}/{category}/{turn}"
        sample, instance = instances[draws.among(f"{name}/which", len(instances))]
        image = donors.images[sample]
        box = image.objects.boxes[instance]
        factor = size * max(draws.number(f"{name}/scale", spec.paste_aug.scale, 1.0), 0.05)
        wide, high = float(box[2] - box[0]) * factor, float(box[3] - box[1]) * factor
        if wide >= plan.width or high >= plan.height or min(wide, high) < 2:
            continue
        left = draws.unit(f"{name}/x") * (plan.width - wide)
        top = draws.unit(f"{name}/y") * (plan.height - high)
        place = np.array([[left, top, left + wide, top + high]])
        if len(taken) and not _fits(place, taken, spec.paste_aug.max_overlap):
            continue
        layer = _cut(image, instance, factor, (left, top), draws.yes(f"{name}/mirror", 0.5), plan, spec)
        return msgspec.structs.replace(plan, layers=(*plan.layers, layer))
    return None


def box_of_paste(layer: Layer, donors: Donors) -> Floats:
    """The box ``[1, 4]`` of a pasted layer, in pixels of the output."""
    box = donors.images[layer.sample].objects.boxes[layer.instance or 0]
    corners = move_points(box.reshape(2, 2), layer.affine())
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])[None]


def _fits(place: Floats, taken: Floats, limit: float) -> bool:
    return bool(cover(place, taken).max() <= limit and cover(taken, place).max() <= limit)


def _cut(
    image: LabelledImage,
    instance: int,
    factor: float,
    corner: tuple[float, float],
    mirrored: bool,
    plan: Plan,
    spec: AugmentSpec,
) -> Layer:
    xmin, ymin, xmax, ymax = (float(value) for value in image.objects.boxes[instance])
    left, top = corner
    step = -factor if mirrored else factor
    across = (step, 0.0, left - step * (xmax if mirrored else xmin))
    outline = image.objects.segmentations[instance] or ellipse((xmin, ymin, xmax, ymax))
    return Layer(
        sample=image.sample,
        width=image.width,
        height=image.height,
        matrix=(*across, 0.0, factor, top - factor * ymin),
        window=(0, 0, plan.width, plan.height),
        instance=instance,
        outline=outline,
        blend=spec.paste_aug.blend,
    )
