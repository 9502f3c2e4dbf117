"""What makes the student's crop differ from the teacher's: colours and sharpness, never places."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.4, 0.4, 0.2, 0.1
_BLUR = (0.1, 2.0)


def jitter(pixels: NDArray[np.uint8], draw: np.random.Generator) -> NDArray[np.uint8]:
    """``[H, W, 3]`` with its colours changed (probability 0.5), without colour (0.2), and blurred (0.5).

    Factors are 1 plus or minus 0.4 for brightness and contrast and 0.2 for saturation; the hue turns by up to
    a tenth of the circle; the blur's radius is 0.1 to 2 pixels. Source: the training of MAL.
    """
    image = Image.fromarray(pixels)
    if draw.random() < 0.5:
        image = _colours(image, draw)
    if draw.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if draw.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(*_BLUR)))
    return np.array(image)


def _colours(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    factors = [1 + draw.uniform(-span, span) for span in (_BRIGHTNESS, _CONTRAST, _SATURATION)]
    turn = round(draw.uniform(-_HUE, _HUE) * 256)
    for number in draw.permutation(4):
        if number == 3:
            hue, saturation, value = image.convert("HSV").split()
            hue = hue.point([(level + turn) % 256 for level in range(256)])
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        else:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[number]
            image = enhance(image).enhance(factors[number])
    return image
