"""A plan carried out on the CPU: all geometry in one warp, all colours in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transforms.augment.geometry import is_identity, of_pixel_centres
from transforms.augment.masks import raster
from transforms.augment.pixels import Pixels
from transforms.augment.plan import Kernel, Layer, Plan

# The blur that sharpening takes away from.
SHARPEN_SIGMA, SHARPEN_WINDOW = 1.0, 3


def render(plan: Plan, images: Mapping[str, Pixels]) -> Pixels:
    """The pixels ``[height, width, 3]`` of a plan; ``images`` are the RGB pixels of its samples.

    What lies outside of every image is black before colours are changed. Warps are bilinear, from pixel
    middles; kernels mirror at the edges without repeating the outermost pixel.
    """
    canvas = _composed(plan, images)
    return with_kernels(_coloured(canvas, plan), plan)


def with_kernels(canvas: Pixels, plan: Plan) -> Pixels:
    """Blur, sharpening, noise and erased rectangles; what is given may be changed."""
    import cv2

    kernel = plan.kernel
    if kernel.blurs:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (kernel.window, kernel.window), kernel.sigma), np.uint8)
    if kernel.sharpen:
        soft = cv2.GaussianBlur(canvas, (SHARPEN_WINDOW, SHARPEN_WINDOW), SHARPEN_SIGMA)
        canvas = np.asarray(cv2.addWeighted(canvas, 1 + kernel.sharpen, soft, -kernel.sharpen, 0), np.uint8)
    if kernel.noise:
        canvas = np.asarray(
            cv2.add(canvas, noise(kernel, plan.height, plan.width), dtype=cv2.CV_8U), np.uint8
        )
    for left, top, right, bottom in plan.erased:
        canvas[top:bottom, left:right] = plan.erased_value
    return canvas


def noise(kernel: Kernel, height: int, width: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The noise ``[height, width, 3]`` of a plan, in whole values: the same wherever it is drawn."""
    source = np.random.Generator(np.random.Philox(kernel.noise_seed))
    drawn = source.standard_normal((height, width, 3), np.float32)
    return np.asarray(np.rint(drawn * kernel.noise).clip(-255, 255), np.int16)


def _composed(plan: Plan, images: Mapping[str, Pixels]) -> Pixels:
    import cv2

    whole = (0, 0, plan.width, plan.height)
    first = plan.layers[0]
    if first.window == whole and first.weight == 1 and first.instance is None:
        canvas = _warped(first, images[first.sample], whole)
        rest = plan.layers[1:]
    else:
        canvas = np.zeros((plan.height, plan.width, 3), np.uint8)
        rest = plan.layers
    for layer in rest:
        if layer.instance is not None:
            _paste(canvas, layer, images[layer.sample])
            continue
        left, top, right, bottom = layer.window
        part = _warped(layer, images[layer.sample], layer.window)
        if layer.weight != 1:
            part = np.asarray(
                cv2.addWeighted(canvas[top:bottom, left:right], 1 - layer.weight, part, layer.weight, 0),
                np.uint8,
            )
        canvas[top:bottom, left:right] = part
    return canvas


def _warped(layer: Layer, image: Pixels, window: tuple[int, int, int, int]) -> Pixels:
    """The image under its matrix, as far as it lies in ``window``."""
    import cv2

    left, top, right, bottom = window
    matrix = layer.affine()
    matrix[:, 2] -= (left, top)
    width, height = right - left, bottom - top
    if is_identity(matrix) and image.shape[:2] == (height, width):
        return image.copy()
    # OpenCV warps four channels in half the time of three, to the same values; adding one costs little.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        of_pixel_centres(matrix),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0, 0),
    )
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)


def _paste(canvas: Pixels, layer: Layer, image: Pixels) -> None:
    """Lay one instance over the canvas, its edge fading, in place."""
    import cv2

    height, width = canvas.shape[:2]
    alpha = raster(layer.outline or "[]", layer.affine(), width, height)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not rows.size:
        return
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    part = alpha[top:bottom, left:right]
    if layer.blend > 0:
        # Fading inwards alone: outside of its outline an instance brings nothing of its old surroundings.
        padded = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        depth = cv2.distanceTransform((padded > 127).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        share = np.minimum(depth / layer.blend, 1.0)[..., None] * (part[..., None] / np.float32(255))
    else:
        share = part[..., None] / np.float32(255)
    over = _warped(layer, image, (left, top, right, bottom)).astype(np.float32)
    under = canvas[top:bottom, left:right]
    canvas[top:bottom, left:right] = np.rint(under + share * (over - under)).astype(np.uint8)


def _coloured(canvas: Pixels, plan: Plan) -> Pixels:
    import cv2

    if not plan.colour.changes:
        return canvas
    return np.asarray(cv2.transform(canvas, plan.colour.matrix()), np.uint8)
