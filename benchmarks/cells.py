"""Rendered blood smears: what the protocol trains on where it may not see real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.samples import Sample

WIDTH, HEIGHT = 640, 480
_DRAWN = 2  # drawn larger and reduced, for smooth borders


def render_cells(folder: Path, count: int, *, seed: int = 0) -> list[Sample]:
    """``count`` pictures of 640x480: red cells (RBC), a white cell or two (WBC), platelets (Platelets)."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _picture(folder / f"cells-{number:05d}.jpg", np.random.default_rng((seed, number)))
        for number in range(count)
    ]


def _picture(path: Path, random: np.random.Generator) -> Sample:
    ground = random.integers((205, 190, 185), (240, 225, 225))
    image = Image.new("RGB", (WIDTH * _DRAWN, HEIGHT * _DRAWN), tuple(int(v) for v in ground))
    pen = ImageDraw.Draw(image, "RGBA")
    kinds = ["RBC"] * int(random.integers(6, 22)) + ["WBC"] * int(random.choice([1, 1, 1, 2]))
    kinds += ["Platelets"] * int(random.choice([0, 0, 1, 2, 3]))
    boxes, names = [], []
    for kind in kinds:
        low, high = {"RBC": (42, 60), "WBC": (75, 120), "Platelets": (14, 26)}[kind]
        rx, ry = random.uniform(low, high) / 1.0, random.uniform(low, high) / 1.0
        x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
        _cell(pen, kind, x, y, rx, ry, random)
        corners = np.clip([x - rx, y - ry, x + rx, y + ry], 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        if min(corners[2] - corners[0], corners[3] - corners[1]) > 8:
            boxes.append(corners)
            names.append(kind)
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.4)))
    noisy = np.asarray(image, np.float32) + random.normal(0, random.uniform(2, 7), (HEIGHT, WIDTH, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return Sample(
        id=path.stem,
        uri=str(path),
        width=WIDTH,
        height=HEIGHT,
        split=None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        categories=tuple(names),
        ignore=np.zeros(len(names), bool),
    )


def _cell(
    pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, rx: float, ry: float, random: np.random.Generator
) -> None:
    if kind == "RBC":
        colour = random.integers((185, 130, 130), (220, 170, 175))
        _blob(pen, x, y, rx, ry, colour, 200)
        # Paler in the middle, as a disc that is thin there.
        for step in (0.6, 0.45, 0.3):
            _blob(pen, x, y, rx * step, ry * step, np.minimum(colour + 25, 245), 60)
    elif kind == "WBC":
        _blob(pen, x, y, rx, ry, random.integers((170, 150, 190), (205, 180, 215)), 190)
        for _ in range(int(random.integers(2, 5))):
            dx, dy = random.uniform(-0.35, 0.35, 2)
            share = random.uniform(0.35, 0.6)
            _blob(
                pen,
                x + dx * rx,
                y + dy * ry,
                rx * share,
                ry * share,
                random.integers((95, 45, 130), (130, 85, 165)),
                235,
            )
    else:
        _blob(pen, x, y, rx, ry, random.integers((125, 85, 150), (165, 120, 185)), 230)


def _blob(
    pen: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, colour: np.ndarray, alpha: int
) -> None:
    box = [_DRAWN * value for value in (x - rx, y - ry, x + rx, y + ry)]
    pen.ellipse(box, fill=(*(int(v) for v in colour), alpha))
