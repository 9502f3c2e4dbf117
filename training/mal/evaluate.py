"""How good masks are: IoU against true masks, by class and by the size of the box."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.mal.coco_file import CocoFile, CocoImage, truth
from training.mal.network import MEDIUM, SMALL
from training.samples import load_image
from transforms.masks.crops import Window
from transforms.masks.labeler import BoxedImage, Labeler

_SIZES = {"small": (0.0, SMALL), "medium": (SMALL, MEDIUM), "large": (MEDIUM, np.inf)}
_IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Overlap:
    """One object: its class, the area of its box in pixels, and the IoU of its mask with the true one."""

    category: object
    area: float
    iou: float


def evaluate(
    labeler: Labeler,
    coco: CocoFile,
    *,
    images: Sequence[CocoImage] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Overlap]:
    """Label ``images`` (all of the file, if not given) and compare with the file's segmentations."""
    found = []
    for some in chunks(coco.images if images is None else images):
        boxed = [BoxedImage(load_image(one.sample), one.sample.boxes) for one in some]
        for image, windows in zip(some, labeler.label(boxed), strict=True):
            for instance, window in zip(image.instances, windows, strict=True):
                true = truth(instance, image.sample.width, image.sample.height, coco.path)
                found.append(Overlap(instance.category, instance.area, iou(window, true)))
        if progress is not None:
            progress(len(some))
    return found


def chunks(images: Sequence[CocoImage]) -> Iterable[Sequence[CocoImage]]:
    """The images, some at a time."""
    return (images[start : start + _IMAGES_AT_ONCE] for start in range(0, len(images), _IMAGES_AT_ONCE))


def iou(window: Window, true: NDArray[np.bool_]) -> float:
    """Intersection over union of a window's mask and a mask of the whole image; 0 where both are empty."""
    rows, columns = window.mask.shape
    part = true[window.top : window.top + rows, window.left : window.left + columns]
    both = int(np.count_nonzero(part & window.mask))
    union = window.area + int(np.count_nonzero(true)) - both
    return both / union if union else 0.0


def mask_metrics(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """``mIoU``: the mean over classes of their mean IoU; ``mIoU_small``, ``_medium`` and ``_large`` the same
    of boxes up to 32 x 32 pixels, up to 96 x 96, and larger. What has no object is left out.
    """
    metrics = {"mIoU": _mean_of_classes(overlaps)} if overlaps else {}
    for name, (above, at_most) in _SIZES.items():
        some = [one for one in overlaps if above < one.area <= at_most]
        if some:
            metrics[f"mIoU_{name}"] = _mean_of_classes(some)
    return metrics


def _mean_of_classes(overlaps: Sequence[Overlap]) -> float:
    classes: dict[object, list[float]] = {}
    for one in overlaps:
        classes.setdefault(one.category, []).append(one.iou)
    return float(np.mean([np.mean(values) for values in classes.values()]))
