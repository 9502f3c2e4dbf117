"""Masks of an image as one picture: each pixel has the number of its object."""

from __future__ import annotations

import msgspec
import numpy as np

from transforms.augment.masks import raster
from transforms.shards.sample import ShardLabels

_SAME = np.eye(3)[:2]


def instance_map(labels: ShardLabels) -> bytes:
    """A PNG: 0 is background, n the n-th object; 8 bits up to 255 objects, else 16.

    Where objects overlap the smaller one is seen. Objects without a mask have no pixels.
    """
    import cv2

    shape = (labels.height, labels.width)
    numbers = np.zeros(shape, np.uint8 if len(labels.objects) < 256 else np.uint16)
    pixels = [
        (
            number,
            raster(msgspec.json.encode(one.segmentation).decode(), _SAME, labels.width, labels.height) >= 128,
        )
        for number, one in enumerate(labels.objects[:65_535], start=1)
        if one.segmentation is not None
    ]
    for number, mask in sorted(pixels, key=lambda pair: (-int(np.count_nonzero(pair[1])), pair[0])):
        numbers[mask] = number
    return bytes(cv2.imencode(".png", numbers, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1])
