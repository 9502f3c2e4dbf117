"""COCO files as MAL needs them: boxes by image, everything else of an annotation kept as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import UnreadableError
from training.samples import Sample
from transforms.masks.labeler import why_not

_MAX_BYTES = 4 << 30
CROWD = "crowd"
NO_IMAGE = "no image"
BROKEN = "no box"


@dataclass(frozen=True, eq=False)
class Instance:
    """One annotation: its place in the file's list, its box as corners, its class's number."""

    place: int
    box: NDArray[np.float64]
    category: Any
    segmentation: Any = None

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True, eq=False)
class CocoImage:
    """An image of the file with the annotations that can have a mask, in the file's order."""

    sample: Sample
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Passed:
    """An annotation that can have no mask, and why."""

    place: int
    id: Any
    image: str
    why: str


@dataclass(frozen=True, eq=False)
class CocoFile:
    """``document`` is the file as it was read; ``passed`` are the annotations without a mask."""

    path: Path
    document: dict[str, Any]
    images: tuple[CocoImage, ...]
    passed: tuple[Passed, ...] = field(default_factory=tuple)


def read_coco(path: str | Path, image_dir: str | Path) -> CocoFile:
    """Read a COCO file whose images lie below ``image_dir``.

    Annotations whose image is not there, crowds, and boxes that are no box or have no area within their
    image are ``passed`` with the reason. Raises ``UnreadableError`` for what is not COCO.
    """
    path = Path(path)
    document = _document(path)
    folder = Path(image_dir)
    listed = {one["id"]: one for one in _objects(document, "images", path, ("id", "file_name"))}
    boxes: dict[Any, list[Instance]] = {number: [] for number in listed}
    sizes: dict[Any, tuple[int, int] | None] = {}
    passed = []
    for place, one in enumerate(_objects(document, "annotations", path, ("image_id",))):
        image = listed.get(one["image_id"])
        name = image["file_name"] if image else f"image_id {one['image_id']}"
        if image is not None and image["id"] not in sizes:
            sizes[image["id"]] = _size(image, folder)
        size = sizes.get(one["image_id"])
        instance = _instance(place, one)
        why = (
            NO_IMAGE
            if image is None or size is None
            else CROWD
            if one.get("iscrowd")
            else BROKEN
            if instance is None
            else why_not(instance.box.tolist(), *size)
        )
        if why is not None or instance is None:
            passed.append(Passed(place, one.get("id"), str(name), why or BROKEN))
        else:
            boxes[one["image_id"]].append(instance)
    images = tuple(
        CocoImage(_sample(listed[number], sizes[number], folder, instances), tuple(instances))
        for number, instances in boxes.items()
        if instances
    )
    return CocoFile(path, document, images, tuple(passed))


def truth(instance: Instance, width: int, height: int, path: Path) -> NDArray[np.bool_]:
    """The true mask ``[height, width]`` of an annotation: polygons, run lengths, or encoded run lengths.

    Raises ``UnreadableError`` where there is none, or none of that size.
    """
    from pycocotools import mask as coco_mask

    shape = instance.segmentation
    try:
        if isinstance(shape, list) and shape:
            runs = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
        elif isinstance(shape, dict) and isinstance(shape.get("counts"), list):
            runs = coco_mask.frPyObjects(shape, height, width)
        elif isinstance(shape, dict):
            runs = shape
        else:
            raise ValueError("no segmentation")
        found = coco_mask.decode(runs)
        if found.shape != (height, width):
            raise ValueError(f"a mask of {found.shape[1]}x{found.shape[0]}")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UnreadableError(
            str(path),
            f"annotations[{instance.place}]: {error}",
            expected=f"a segmentation of {width}x{height} pixels, or load_mask: False",
        ) from None
    return np.asarray(found, bool)


def _document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableError(str(path), "a file above 4 GiB", expected="a smaller COCO file")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableError(str(path), f"{error.strerror}", expected="a COCO file") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(path), f"no JSON: {error}", expected="a COCO file") from None
    if not isinstance(document, dict):
        raise UnreadableError(str(path), f"a {type(document).__name__}", expected="a COCO object")
    return document


def _objects(document: dict[str, Any], name: str, path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    found = document.get(name, [] if name == "annotations" else None)
    if not isinstance(found, list):
        raise UnreadableError(str(path), f"no list {name!r}", expected="COCO: images and annotations")
    for place, one in enumerate(found):
        for key in needed:
            if not isinstance(one, dict) or not isinstance(one.get(key), str | int):
                raise UnreadableError(str(path), f"{name}[{place}] has no {key!r}", expected="COCO")
    return found


def _instance(place: int, one: dict[str, Any]) -> Instance | None:
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in box):
        return None
    corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]], np.float64)
    return Instance(place, corners, one.get("category_id"), one.get("segmentation"))


def _size(image: dict[str, Any], folder: Path) -> tuple[int, int] | None:
    """Width and height of the image as it is on disk and shown; None where it cannot be read."""
    from PIL import Image

    path = _inside(folder, image["file_name"])
    if path is None or not path.is_file():
        return None
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(0x0112, 1) in {5, 6, 7, 8}
            width, height = file.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def _inside(folder: Path, name: object) -> Path | None:
    """The file ``name`` below the folder; None for names that lead out of it."""
    path = (folder / str(name)).resolve()
    return path if path.is_relative_to(folder.resolve()) else None


def _sample(
    image: dict[str, Any], size: tuple[int, int] | None, folder: Path, instances: Sequence[Instance]
) -> Sample:
    assert size is not None
    return Sample(
        id=str(image["file_name"]),
        uri=str(_inside(folder, image["file_name"])),
        width=size[0],
        height=size[1],
        split=None,
        boxes=np.stack([instance.box for instance in instances]),
        categories=tuple(str(instance.category) for instance in instances),
        ignore=np.zeros(len(instances), bool),
    )
