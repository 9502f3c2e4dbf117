"""Defects as real deliveries have them, planted on purpose: which image gets which, and what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from PIL import Image

from transforms.scenes.compose import arrange_scene
from transforms.scenes.config import SceneConfig
from transforms.scenes.layouts import Corners, Row

PER_HUNDRED: Mapping[str, float] = MappingProxyType(
    {
        "inverted_box": 2.0,
        "negative_coordinate": 2.0,
        "beyond_image": 2.0,
        "zero_area": 2.0,
        "truncated_image": 1.0,
        "corrupt_image": 1.0,
        "truncated_label": 1.0,
        "unknown_image": 1.0,
        "exif_orientation": 2.0,
    }
)
"""How many of each kind are planted per 100 images; at least one where there are images enough."""

RULE_OF: Mapping[str, str | None] = MappingProxyType(
    {
        "inverted_box": "inverted_box",
        "negative_coordinate": "negative_coordinate",
        "beyond_image": "beyond_image",
        "zero_area": "zero_area",
        "truncated_image": "unreadable_file",
        "corrupt_image": "unreadable_file",
        "truncated_label": "unreadable_file",
        "unknown_image": "unknown_image",
        "label_of_unreadable_image": "unknown_image",
        "image_of_unreadable_label": "image_without_label",
        "exif_orientation": None,
        "negative": None,
    }
)
"""The rule that finds each kind. None for what is unusual but right: no rule may find it."""

_EDGE = {"negative_coordinate": (0, 1), "beyond_image": (2, 3)}
_ORIENTATIONS = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation, and how the shown picture is turned to be stored under it."""
_EXIF_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Defect:
    """One planted thing, as it stands in the list beside the folder."""

    kind: str
    """Key of :data:`RULE_OF`."""
    rule: str | None
    file: str
    """The file that is at fault, below the folder."""
    image: str | None = None
    """The image concerned, below the folder."""
    object: int | None = None
    """Place of the object in the label file, from 0 (COCO: in the list of annotations)."""
    box: tuple[float, ...] | None = None
    """Corners as written."""
    correct_box: tuple[float, ...] | None = None
    """Corners of the visible pixels; None where there is no such object."""
    corrected_box: tuple[float, ...] | None = None
    """What the rule's own correction (swap, clip) makes of ``box``; None where it drops it."""


def choose_defects(config: SceneConfig) -> dict[int, str]:
    """Which scene gets which defect, at most one each, never a scene without aircraft.

    Boxes beyond an edge are planted where an aircraft really is cut by that edge, as far as there are such
    scenes: there clipping gives the true box back.
    """
    wanted = [
        kind
        for kind, rate in PER_HUNDRED.items()
        if kind != "unknown_image"
        for _ in range(max(1, math.floor(rate * config.images / 100)))
    ]
    wanted = wanted[: config.images // 2]
    chosen: dict[int, str] = {}
    spare: list[int] = []
    for index in _candidates(config):
        if not wanted or len(spare) > 40 + 4 * len(wanted):
            break
        boxes = [item.box for item in arrange_scene(config, index).objects]
        if not boxes:
            continue
        kind = next((kind for kind in wanted if kind not in _EDGE or _at_edge(kind, boxes, config)), None)
        if kind is None:
            spare.append(index)
            continue
        chosen[index] = kind
        wanted.remove(kind)
    chosen.update(zip(spare, wanted, strict=False))
    return chosen


def _candidates(config: SceneConfig) -> Iterator[int]:
    order = np.random.default_rng(np.random.SeedSequence([config.seed, 0xDEFEC7])).permutation(config.images)
    return (int(index) for index in order if not config.is_negative(int(index)))


def spoiled(
    kind: str, rows: tuple[Row, ...], config: SceneConfig, rng: np.random.Generator
) -> tuple[tuple[Row, ...], int, Corners | None]:
    """Plant one wrong box: the rows as written, which of them it is, and what its rule's correction gives."""
    if kind == "zero_area":
        slip = _slip(rows, config, rng)
        return (*rows, slip), len(rows), None
    plant: Callable[[Row, SceneConfig, np.random.Generator], tuple[Corners, Corners]]
    if kind == "inverted_box":
        number, plant = int(rng.integers(len(rows))), _inverted
    else:
        number = _nearest_to_edge(kind, rows, config)
        plant = _negative if kind == "negative_coordinate" else _beyond
    box, corrected = plant(rows[number], config, rng)
    return (*rows[:number], replace(rows[number], box=box), *rows[number + 1 :]), number, corrected


def cut_short(data: bytes, rng: np.random.Generator) -> bytes:
    """The first part of a file, as an interrupted upload leaves it."""
    return data[: int(len(data) * float(rng.uniform(0.35, 0.7)))]


def label_cut_short(text: str) -> str:
    """A label file that lost its end: in XML and JSON an element stays open, elsewhere columns miss."""
    if text.startswith(("<", "{")):
        return text[: text.rfind("<ymax>")] if "<ymax>" in text else text[: len(text) * 2 // 3]
    *whole, last = text.splitlines(keepends=True)
    return "".join(whole) + " ".join(last.split(" ")[:3])


def random_bytes(rng: np.random.Generator) -> bytes:
    """Bytes that are no image, whatever the file's name says."""
    return b"\x00" + rng.bytes(int(rng.integers(3_000, 30_000)))


def turned_for_storage(picture: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Exif]:
    """The picture as a camera held sideways stores it, and the EXIF that turns it back when it is shown."""
    orientation = int(rng.choice(list(_ORIENTATIONS)))
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION_TAG] = orientation
    return picture.transpose(_ORIENTATIONS[orientation]), exif


def _at_edge(kind: str, boxes: list[tuple[int, int, int, int]], config: SceneConfig) -> bool:
    return any(_gap(box, side, config) == 0 for box in boxes for side in _EDGE[kind])


def _gap(box: Corners, side: int, config: SceneConfig) -> float:
    """Pixels between a side of a box (0 left, 1 top, 2 right, 3 bottom) and that edge of the image."""
    return box[side] if side < 2 else (config.width, config.height)[side - 2] - box[side]


def _nearest_to_edge(kind: str, rows: tuple[Row, ...], config: SceneConfig) -> int:
    gaps = [min(_gap(row.box, side, config) for side in _EDGE[kind]) for row in rows]
    return int(np.argmin(gaps))


def _inverted(row: Row, _: SceneConfig, rng: np.random.Generator) -> tuple[Corners, Corners]:
    xmin, ymin, xmax, ymax = row.box
    which = int(rng.integers(3))
    if which == 0:
        return (xmax, ymin, xmin, ymax), row.box
    if which == 1:
        return (xmin, ymax, xmax, ymin), row.box
    return (xmax, ymax, xmin, ymin), row.box


def _negative(row: Row, config: SceneConfig, rng: np.random.Generator) -> tuple[Corners, Corners]:
    side = min((0, 1), key=lambda side: _gap(row.box, side, config))
    box = _moved(row.box, side, -float(rng.integers(2, 26)))
    return box, _moved(row.box, side, 0.0)


def _beyond(row: Row, config: SceneConfig, rng: np.random.Generator) -> tuple[Corners, Corners]:
    side = min((2, 3), key=lambda side: _gap(row.box, side, config))
    edge = float((config.width, config.height)[side - 2])
    return _moved(row.box, side, edge + float(rng.integers(2, 26))), _moved(row.box, side, edge)


def _moved(box: Corners, side: int, to: float) -> Corners:
    xmin, ymin, xmax, ymax = (to if number == side else value for number, value in enumerate(box))
    return xmin, ymin, xmax, ymax


def _slip(rows: tuple[Row, ...], config: SceneConfig, rng: np.random.Generator) -> Row:
    """A click without a drag: an object that is none, on one point or one line."""
    x, y = float(rng.integers(8, config.width - 40)), float(rng.integers(8, config.height - 40))
    length = float(rng.integers(5, 30)) if rng.random() < 0.5 else 0.0
    box = (x, y, x + length, y) if rng.random() < 0.5 else (x, y, x, y + length)
    return Row(category=rows[int(rng.integers(len(rows)))].category, box=box)
