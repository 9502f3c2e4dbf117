"""LabelMe JSON: one file per image, with shapes of points."""

from __future__ import annotations

import base64
import io
import math
import posixpath

import msgspec
import numpy as np
from msgspec import Raw, Struct
from PIL import Image

from storage.errors import UnreadableError
from transforms.delivery import Delivery, without_extension
from transforms.formats.coco_columns import join_members
from transforms.formats.json_text import decode, encode, extras, utf8
from transforms.formats.masks import mask_box, rle_text
from transforms.formats.refs import ref_of
from transforms.formats.rows import Row, delivery_of, extent, pixels, polygon_text

EXPECTED = "LabelMe JSON: shapes with label, points and shape_type"

_MAX_MASK_PIXELS = 100_000_000

# How many points each type of shape has: at least, at most.
_POINTS = {
    "polygon": (3, None),
    "rectangle": (2, 4),
    "circle": (2, 2),
    "mask": (2, 2),
    "line": (2, 2),
    "linestrip": (2, None),
    "point": (1, 1),
    "points": (1, None),
}


class _Shape(Struct, gc=False):
    label: str
    points: list[list[float]]
    shape_type: str = "polygon"
    mask: str | None = None


_Size = tuple[int | None, int | None]


class _File(Struct):
    shapes: list[Raw]
    imagePath: str | None = None  # noqa: N815 - the file's own name
    imageHeight: float | None = None  # noqa: N815
    imageWidth: float | None = None  # noqa: N815
    imageData: Raw = Raw()  # noqa: N815


def read_labelme(data: bytes, path: str) -> Delivery:
    """Read a LabelMe file; ``bbox`` is the extent of a shape, ``xyxy`` in pixels.

    Polygons are ``segmentation``, and masks are, as COCO RLE; a rectangle and a circle are their boxes. Lines
    and points have no box: it is null, and a rule says so. Points of all shapes but polygons, and every
    further key (group_id, flags, description …) are in ``attributes``; ``imageData``, a copy of the image,
    is left out. The image is the one that ``imagePath`` names, beside the file. Raises
    :class:`UnreadableError` with the place.
    """
    json = utf8(data, path)
    found = decode(json, _File, path, expected=EXPECTED)
    ref = _ref(found.imagePath, path)
    size = (pixels(found.imageWidth), pixels(found.imageHeight))
    labels = [_row(raw, place, ref, size, path) for place, raw in enumerate(found.shapes)]
    members = f'"imagePath":{msgspec.json.encode(found.imagePath).decode()}' if found.imagePath else ""
    mention = {
        "ref": ref,
        "width": size[0],
        "height": size[1],
        "instances": len(labels),
        "attributes": join_members(members, extras([Raw(json)], _File.__struct_fields__)[0]),
    }
    return delivery_of("labelme", labels, [mention])


def is_labelme(keys: set[str]) -> bool:
    """Whether a JSON object with these keys is a LabelMe file."""
    return "shapes" in keys and bool(keys & {"imagePath", "imageData", "imageHeight"})


def _ref(image: str | None, path: str) -> str:
    """The image, as a path below the data set; the file's own name where it names none."""
    name = (image or "").replace("\\", "/")
    if not name:
        return without_extension(path)
    # An absolute path, or one with a drive, is from another machine: only its name says something.
    if name.startswith("/") or name[1:2] == ":":
        name = name.rsplit("/", 1)[-1]
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    return ref_of(beside) if beside.strip("./") else without_extension(path)


def _row(raw: Raw, place: int, ref: str, size: _Size, path: str) -> Row:
    within = f"$.shapes[{place}]"
    shape = decode(raw, _Shape, path, expected=EXPECTED, within=within)
    limits = _POINTS.get(shape.shape_type)
    if limits is None:
        raise UnreadableError(
            path, f"the shape_type {shape.shape_type!r} at `{within}`", expected=", ".join(_POINTS)
        )
    least, most = limits
    count = len(shape.points)
    if count < least or (most is not None and count > most) or any(len(p) != 2 for p in shape.points):
        found = f"{count} points of a {shape.shape_type} at `{within}`"
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise UnreadableError(path, found, expected=f"{wanted} points of x and y")
    flat = [value for point in shape.points for value in point]
    members = f'"shape_type":"{shape.shape_type}"'
    polygon, box = None, _box(shape.shape_type, flat)
    if shape.shape_type == "polygon":
        polygon = polygon_text(flat)
    elif shape.shape_type == "mask" and shape.mask is not None and None not in size:
        polygon, box = _mask(shape.mask, flat, size, within, path)
    elif shape.mask is not None:
        members += f',"mask":{encode(shape.mask)}'
    if shape.shape_type != "polygon":
        members += f',"points":{msgspec.json.encode(shape.points).decode()}'
    return {
        "ref": ref,
        "category": shape.label or None,
        "bbox": box,
        "segmentation": polygon,
        "attributes": join_members(members, extras([raw], _Shape.__struct_fields__)[0]),
    }


def _mask(text: str, flat: list[float], size: _Size, within: str, path: str) -> tuple[str, list[float]]:
    """A mask (PNG in base64) of the window whose first and last pixel the points name, and its extent."""
    left, top = round(min(flat[0::2])), round(min(flat[1::2]))
    width, height = (side or 0 for side in size)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            inside = left >= 0 <= top and left + image.width <= width and top + image.height <= height
            if not inside or width * height > _MAX_MASK_PIXELS:
                found = f"a mask of {image.width}x{image.height} at {left},{top} in {width}x{height}"
                raise UnreadableError(path, f"{found} at `{within}`", expected="a mask inside its image")
            window = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(path, f"{error} at `{within}.mask`", expected="a mask as PNG") from error
    text = rle_text(window, left, top, width, height)
    return text, mask_box(text) or extent(flat)


def _box(kind: str, flat: list[float]) -> list[float] | None:
    if kind in {"polygon", "rectangle", "mask"}:
        return extent(flat)
    if kind == "circle":
        x, y = flat[:2]
        radius = math.hypot(flat[2] - x, flat[3] - y)
        return [x - radius, y - radius, x + radius, y + radius]
    return None
