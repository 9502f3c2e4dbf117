"""CVAT for images 1.1: one XML file of many images, with boxes, polygons, masks and more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import Delivery, without_extension
from transforms.formats.markup import Element, children_as_json, read_xml
from transforms.formats.masks import rle_text
from transforms.formats.refs import ref_of
from transforms.formats.rows import Row, delivery_of, extent, pixels, polygon_text
from transforms.formats.splits import split_of
from transforms.formats.text import is_number, numbers, quote

EXPECTED = "CVAT for images: <annotations> of <image> elements with a name"
_SHAPES = {"box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton"}
_CUBOID = tuple(f"{corner}{face}" for face in "12" for corner in ("tl", "bl", "tr", "br"))
_MAX_MASK_PIXELS = 100_000_000


def read_cvat(data: bytes, path: str) -> Delivery:
    """Read a CVAT file; ``bbox`` is ``xyxy`` in pixels: a box as delivered, else the shape's extent.

    A turned box is its four corners as ``segmentation``, with their extent as box. Masks become COCO RLE of
    the whole image. Polylines, points and skeletons have no box: it is null, and a rule says so. XML
    attributes without a column are in ``attributes``, CVAT's own ones below ``attribute``; tags of an image
    are in its mention. A ``subset`` named train, val or test says the split. What the file says of itself
    (the task, its labels) is a mention of kind ``file``.

    Raises :class:`UnreadableError` with the line, and :class:`UnknownFormatError` for CVAT for video.
    """
    return cvat_of(read_xml(data, path), path)


def cvat_of(root: Element, path: str) -> Delivery:
    """The same from XML that has been parsed."""
    images = root.all("image")
    if root.tag != "annotations" or not (images or root.first("meta") is not None):
        raise UnknownFormatError(path, f"the root element <{root.tag}>", line=root.line, expected=EXPECTED)
    if tracks := root.all("track"):
        raise UnknownFormatError(
            path,
            "recognised as CVAT XML for video, which is not read",
            line=tracks[0].line,
            expected="CVAT for images",
        )
    labels: list[Row] = []
    of_file = children_as_json([child for child in root.children if child.tag != "image"])
    mentions: list[Row] = []
    for image in images:
        name = image.attributes.get("name", "")
        if not name:
            raise UnreadableError(path, "<image> without a name", line=image.line, expected=EXPECTED)
        ref = _ref(name, image.attributes.get("subset"))
        size = [_whole(image, side) for side in ("width", "height")]
        shapes = [child for child in image.children if child.tag in _SHAPES]
        labels.extend(_row(shape, ref, size, path) for shape in shapes)
        others = [child for child in image.children if child.tag not in _SHAPES]
        kept = {key: value for key, value in image.attributes.items() if key not in {"width", "height"}}
        mention: Row = {"ref": ref, "width": size[0], "height": size[1], "instances": len(shapes)}
        mentions.append({**mention, "attributes": {**kept, **children_as_json(others)}})
        if (split := split_of(f"{image.attributes.get('subset', '')}.")) is not None:
            mentions.append({"kind": "split", "ref": ref, "split": split})
    if of_file:
        mentions.append({"kind": "file", "ref": without_extension(path), "attributes": of_file})
    return delivery_of("cvat", labels, mentions)


def _ref(name: str, subset: str | None) -> str:
    """An export of a project has its images in a folder per subset; their names do not say so."""
    ref = ref_of(name)
    return f"{subset}/{ref}" if subset and subset.lower() not in {"default", *ref.lower().split("/")} else ref


def _row(shape: Element, ref: str, size: Sequence[int | None], path: str) -> Row:
    category = shape.attributes.get("label")
    if category is None:
        raise UnreadableError(path, f"<{shape.tag}> without a label", line=shape.line, expected=EXPECTED)
    box, segmentation, used = _geometry(shape, size, path)
    further = {key: value for key, value in shape.attributes.items() if key not in {"label", *used}}
    own: dict[str, str | list[str]] = {}
    for child in shape.all("attribute"):
        name = child.attributes.get("name", "")
        before = own.get(name)
        own[name] = (
            child.text if before is None else [*([before] if isinstance(before, str) else before), child.text]
        )
    inner = children_as_json([child for child in shape.children if child.tag != "attribute"])
    return {
        "line": shape.line,
        "ref": ref,
        # CVAT gives an empty name to shapes whose label was deleted.
        "category": category or None,
        "bbox": box,
        "segmentation": segmentation,
        "attributes": {"shape": shape.tag, **further, **inner, **({"attribute": own} if own else {})},
    }


def _geometry(
    shape: Element, size: Sequence[int | None], path: str
) -> tuple[list[float] | None, str | None, set[str]]:
    """Box, segmentation, and the XML attributes that the two say completely."""
    if shape.tag == "box":
        corners = ("xtl", "ytl", "xbr", "ybr")
        box = _numbers(shape, corners, path)
        angle = _angle(shape, path)
        if angle == 0:
            return box, None, set(corners)
        turned = _turned(box, angle)
        return extent(turned), polygon_text(turned), set()
    if shape.tag == "ellipse":
        cx, cy, rx, ry = _numbers(shape, ("cx", "cy", "rx", "ry"), path)
        angle = math.radians(_angle(shape, path))
        dx = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
        dy = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
        return [cx - dx, cy - dy, cx + dx, cy + dy], None, set()
    if shape.tag == "mask":
        return *_mask(shape, size, path), {"rle", "left", "top", "width", "height"}
    if shape.tag == "cuboid":
        xs, ys = (_numbers(shape, [axis + corner for corner in _CUBOID], path) for axis in "xy")
        return [min(xs), min(ys), max(xs), max(ys)], None, set()
    if shape.tag == "polygon":
        flat = _points(shape, path)
        if len(flat) < 6:
            raise UnreadableError(
                path, f"a polygon of {len(flat) // 2} points", line=shape.line, expected="3 points or more"
            )
        return extent(flat), polygon_text(flat), {"points"}
    if shape.tag != "skeleton":
        _points(shape, path)
    return None, None, set()


def _mask(shape: Element, size: Sequence[int | None], path: str) -> tuple[list[float], str]:
    """Run lengths by rows of a window, beginning with background, to COCO's by columns of the image."""
    left, top, width, height = (
        int(value) for value in _numbers(shape, ("left", "top", "width", "height"), path)
    )
    runs = [int(value) for value in _split(shape, "rle", ",", path)]
    image_width, image_height = (side or 0 for side in size)
    inside = left >= 0 <= top and left + width <= image_width and top + height <= image_height
    if width < 1 or height < 1 or not inside or image_width * image_height > _MAX_MASK_PIXELS:
        found = f"a mask of {width}x{height} at {left},{top} in {image_width}x{image_height}"
        raise UnreadableError(path, found, line=shape.line, expected="a mask inside its image")
    if any(run < 0 for run in runs) or sum(runs) != width * height:
        found = f"runs of {sum(runs)} pixels for {width}x{height}"
        raise UnreadableError(path, found, line=shape.line, expected="a run for every pixel of the window")
    window = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    rows, columns = np.any(window, axis=1).nonzero()[0], np.any(window, axis=0).nonzero()[0]
    box = [float(left), float(top), float(left), float(top)]
    if rows.size:
        box = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
    return [float(value) for value in box], rle_text(window, left, top, image_width, image_height)


def _turned(box: list[float], angle: float) -> list[float]:
    """The corners of a box that is turned about its centre, clockwise as the image is seen."""
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    flat = []
    for side, end in ((left, top), (right, top), (right, bottom), (left, bottom)):
        dx, dy = side - x, end - y
        flat += [x + dx * cosine - dy * sine, y + dx * sine + dy * cosine]
    return flat


def _points(shape: Element, path: str) -> list[float]:
    flat: list[float] = []
    for point in shape.attributes.get("points", "").split(";"):
        flat += numbers(_pair(point, shape, path), path, shape.line, names=("x", "y"))
    return flat


def _pair(point: str, shape: Element, path: str) -> list[str]:
    words = [word.strip() for word in point.split(",")]
    if len(words) != 2:
        raise UnreadableError(path, f"the point {quote(point)}", line=shape.line, expected="x,y;x,y;…")
    return words


def _numbers(shape: Element, names: Sequence[str], path: str) -> list[float]:
    if missing := [name for name in names if name not in shape.attributes]:
        raise UnreadableError(
            path, f"<{shape.tag}> without {missing[0]}", line=shape.line, expected="CVAT for images"
        )
    return numbers([shape.attributes[name].strip() for name in names], path, shape.line, names=names)


def _split(shape: Element, name: str, separator: str, path: str) -> list[float]:
    words = [word.strip() for word in shape.attributes.get(name, "").split(separator)]
    return numbers(words, path, shape.line, names=[name] * len(words))


def _angle(shape: Element, path: str) -> float:
    return numbers([shape.attributes.get("rotation", "0").strip()], path, shape.line, names=("rotation",))[0]


def _whole(image: Element, side: str) -> int | None:
    word = image.attributes.get(side, "").strip()
    return pixels(float(word)) if is_number(word) else None
