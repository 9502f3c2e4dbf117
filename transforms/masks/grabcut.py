"""Masks without a trained model: GrabCut in the box, and an ellipse where it finds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError
from transforms.masks.crops import Pixels, Window
from transforms.masks.labeler import BoxedImage

_AROUND = 0.25
_LONGEST_SIDE = 160
_ROUNDS = 2
_CORE = 0.5
_SMALLEST_SIDE = 24
_LEAST_SHARE = 0.1


class GrabCutLabeler:
    """Colours inside the box against colours around it, by graph cuts (Rother et al., SIGGRAPH 2004).

    An ellipse half as large as the box is taken for the object, and its corners for the background until
    the colours say otherwise. What is seen of a box is at most 160 pixels long, and the result is enlarged.
    Where the cut leaves less than a tenth of the box, and for boxes with a side below 24 pixels, which have
    too few colours, the mask is the ellipse in the box.
    """

    name = "grabcut"

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ConfigError("GrabCut needs OpenCV: pip install 'dropmill[masks]'") from error
        self._cv2: Any = cv2
        self.version = f"1-opencv{cv2.__version__}"

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        """See :class:`transforms.masks.labeler.Labeler`."""
        return [[self._mask(image.pixels, box) for box in image.boxes] for image in images]

    def _mask(self, pixels: Pixels, box: NDArray[np.float64]) -> Window:
        height, width = pixels.shape[:2]
        inner = _inside(box, width, height)
        left, top, right, bottom = inner
        if right <= left or bottom <= top:
            return Window(np.zeros((0, 0), bool), left, top)
        if min(right - left, bottom - top) < _SMALLEST_SIDE:
            return Window(ellipse(box, inner), left, top)
        aside, above = _AROUND * (right - left) + 2, _AROUND * (bottom - top) + 2
        around = np.array([left - aside, top - above, right + aside, bottom + above])
        x1, y1, x2, y2 = _inside(around, width, height)
        scale = min(1.0, _LONGEST_SIDE / max(x2 - x1, y2 - y1))
        size = (max(4, round((x2 - x1) * scale)), max(4, round((y2 - y1) * scale)))
        cv2 = self._cv2
        seen = cv2.resize(np.ascontiguousarray(pixels[y1:y2, x1:x2]), size, interpolation=cv2.INTER_AREA)
        across, down = size[0] / (x2 - x1), size[1] / (y2 - y1)
        place = np.array([left - x1, top - y1, right - x1, bottom - y1]) * [across, down, across, down]
        found = self._cut(seen, self._guess(place, size))
        if found is None:
            return Window(ellipse(box, inner), left, top)
        whole = cv2.resize(found.astype(np.float32), (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        mask = whole[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
        if mask.mean() < _LEAST_SHARE:
            return Window(ellipse(box, inner), left, top)
        return Window(mask, left, top)

    def _guess(self, box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
        cv2 = self._cv2
        whole = (0, 0, *size)
        x1, y1, x2, y2 = np.rint(box).astype(int)
        guess = np.full(size[::-1], cv2.GC_BGD, np.uint8)
        guess[y1:y2, x1:x2] = cv2.GC_PR_BGD
        guess[ellipse(box, whole)] = cv2.GC_PR_FGD
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _CORE
        guess[ellipse(np.concatenate([middle - half, middle + half]), whole)] = cv2.GC_FGD
        return guess

    def _cut(self, seen: Pixels, guess: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Foreground of the cut; None where one of the two sides has no pixel to learn colours from."""
        cv2 = self._cv2
        models = np.zeros((1, 65)), np.zeros((1, 65))
        # The first clusters of colours are drawn: the same box is to get the same mask.
        cv2.setRNGSeed(0)
        try:
            cv2.grabCut(seen, guess, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
        except cv2.error:
            return None
        return np.asarray((guess == cv2.GC_FGD) | (guess == cv2.GC_PR_FGD))


def ellipse(box: NDArray[np.float64], inner: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The ellipse that touches the box, on the pixels ``inner`` (left, top, right, bottom)."""
    left, top, right, bottom = inner
    centre, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, 0.5)
    x = (np.arange(left, right) + 0.5 - centre[0]) / half[0]
    y = (np.arange(top, bottom) + 0.5 - centre[1]) / half[1]
    return np.asarray(x[None] ** 2 + y[:, None] ** 2 <= 1)


def _inside(box: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels that a box touches, within the image."""
    left, top = (max(0, int(np.floor(value))) for value in box[:2])
    right, bottom = int(np.ceil(box[2])), int(np.ceil(box[3]))
    return left, top, min(right, width), min(bottom, height)
