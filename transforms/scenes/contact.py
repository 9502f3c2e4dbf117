"""A sheet of scenes with their boxes, for eyes to judge."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image, ImageDraw

from storage.errors import ConfigError
from transforms.scenes.compose import Scene, render_scene
from transforms.scenes.config import SceneConfig

_COLOURS = ("#ff5050", "#ffd23c", "#50dc78", "#5ab4ff", "#f078f0", "#ff9b3c")


def contact_sheet(config: SceneConfig, n: int, path: str | os.PathLike[str], *, first: int = 0) -> None:
    """Draw ``n`` scenes from ``first`` on, with their boxes and names, in one PNG about as wide as high."""
    if n < 1:
        raise ConfigError(f"contact sheet of {n} scenes; expected at least one", found=n)
    columns = max(1, round(math.sqrt(n * config.height / config.width)))
    rows = math.ceil(n / columns)
    sheet = Image.new("RGB", (columns * config.width, rows * config.height))
    for position in range(n):
        picture = with_boxes(render_scene(config, first + position), config.classes)
        sheet.paste(picture, (position % columns * config.width, position // columns * config.height))
    sheet.save(Path(path), format="PNG", compress_level=3)


def with_boxes(scene: Scene, classes: tuple[str, ...]) -> Image.Image:
    """The scene's picture with each box as its outermost visible pixels, and its name."""
    picture = Image.fromarray(scene.image)
    pen = ImageDraw.Draw(picture)
    for item in scene.objects:
        xmin, ymin, xmax, ymax = item.box
        colour = _COLOURS[classes.index(item.category) % len(_COLOURS)]
        pen.rectangle((xmin, ymin, xmax - 1, ymax - 1), outline=colour)
        pen.text((xmin + 2, ymin - 11 if ymin > 11 else ymin + 1), item.category, fill=colour)
    return picture
