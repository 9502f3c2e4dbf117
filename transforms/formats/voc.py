"""Pascal VOC annotations: one XML file per image, with ``<object>`` elements that have a ``<bndbox>``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import (
    DELIVERED_LABELS,
    DELIVERED_MENTIONS,
    Delivery,
    stem_of,
    table,
    without_extension,
)
from transforms.formats.markup import Element, as_json, children_as_json, read_xml
from transforms.formats.text import is_number, numbers, shortest

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MAX_INT32 = 2**31 - 1


def read_voc(data: bytes, path: str) -> Delivery:
    """Read a Pascal VOC file; ``bbox`` is ``xyxy`` in pixels, as delivered; difficult has ``ignore``.

    All other elements (pose, truncated, occluded, parts, unknown ones) are in ``attributes`` by their names,
    with their texts; so are XML attributes, those of name and box as well; ``$written`` are corners in other
    than the shortest digits. Raises :class:`UnreadableError` with the line for an object without one name and
    one box.
    """
    return voc_of(read_xml(data, path), path)


def voc_of(root: Element, path: str) -> Delivery:
    """The same from XML that has been parsed."""
    if root.tag != "annotation":
        raise UnknownFormatError(
            path, f"the root element <{root.tag}>", line=root.line, expected="Pascal VOC: <annotation>"
        )
    ref = without_extension(path)
    objects = root.all("object")
    boxes = [_box(element, path) for element in objects]
    stem, count = stem_of(ref), len(objects)
    labels = {
        "instance": range(count),
        "line": [element.line for element in objects],
        "format": ["voc"] * count,
        "ref": [ref] * count,
        "stem": [stem] * count,
        "category": [_name(element, path) for element in objects],
        "bbox": boxes,
        "bbox_mode": ["xyxy"] * count,
        "iscrowd": [False] * count,
        "ignore": [_text(element, "difficult").lower() in {"1", "true", "yes"} for element in objects],
        "attributes": [_object_attributes(element, box) for element, box in zip(objects, boxes, strict=True)],
    }
    width, height = (_size(root, name) for name in ("width", "height"))
    # A size in other words, such as 640.0, stays among the attributes as well.
    plain = [_size_word(root, name) for name in ("width", "height")] == [str(width), str(height)]
    mention = {
        "kind": "label",
        "format": "voc",
        "ref": ref,
        "stem": stem,
        "width": width,
        "height": height,
        "instances": count,
        "attributes": _image_attributes(root, taken=plain),
    }
    return Delivery(
        kind="label",
        format="voc",
        labels=table(labels, DELIVERED_LABELS),
        mentions=table([mention], DELIVERED_MENTIONS),
    )


def _name(element: Element, path: str) -> str:
    name = _text(element, "name")
    if (count := len(element.all("name"))) > 1:
        raise UnreadableError(
            path, f"<object> with {count} <name>", line=element.line, expected="one name per object"
        )
    if not name:
        raise UnreadableError(path, "<object> without <name>", line=element.line, expected="Pascal VOC")
    return name


def _box(element: Element, path: str) -> list[float]:
    box = element.first("bndbox")
    if (count := len(element.all("bndbox"))) > 1:
        raise UnreadableError(
            path, f"<object> with {count} <bndbox>", line=element.line, expected="one box per object"
        )
    if box is None:
        found = ", ".join(f"<{child.tag}>" for child in element.children[:8]) or "nothing"
        raise UnreadableError(
            path, f"<object> without <bndbox>: it has {found}", line=element.line, expected="Pascal VOC"
        )
    for name in _CORNERS:
        if len(box.all(name)) > 1:
            raise UnreadableError(path, f"<bndbox> with two <{name}>", line=box.line, expected="four corners")
    corners = [box.first(name) for name in _CORNERS]
    words = [corner.text for corner in corners if corner is not None]
    if len(words) != len(_CORNERS):
        missing = next(name for name, corner in zip(_CORNERS, corners, strict=True) if corner is None)
        raise UnreadableError(path, f"<bndbox> without <{missing}>", line=box.line, expected="Pascal VOC")
    return numbers(words, path, box.line, names=_CORNERS)


def _object_attributes(element: Element, values_of_box: Sequence[float]) -> str:
    others = [child for child in element.children if child.tag not in {"name", "bndbox"}]
    name, box = element.first("name"), element.first("bndbox")
    values = _own(element) | children_as_json(others)
    if name is not None and (name.attributes or name.children):
        values["name"] = as_json(name)
    if box is not None and (more := _own(box) | children_as_json(list(filter(_says_more, box.children)))):
        values["bndbox"] = more
    words = {name: _text(box, name) for name in _CORNERS} if box is not None else {}
    odd = {
        name: word
        for (name, word), value in zip(words.items(), values_of_box, strict=True)
        if shortest(value) != word
    }
    return _json(values | {"$written": odd} if odd else values)


def _image_attributes(root: Element, *, taken: bool) -> str:
    """All that stands beside the objects; width and height go once they are ``taken`` into their columns."""
    values = _own(root)
    for name, value in children_as_json([child for child in root.children if child.tag != "object"]).items():
        values[name] = value
        if name == "size" and taken and isinstance(value, dict):
            values[name] = {key: text for key, text in value.items() if key not in {"width", "height"}}
    return _json(values)


def _size(root: Element, name: str) -> int | None:
    """Width or height; null where the file does not say a whole number."""
    word = _size_word(root, name)
    if not is_number(word):
        return None
    value = float(word)
    return int(value) if value.is_integer() and 0 <= value <= _MAX_INT32 else None


def _size_word(root: Element, name: str) -> str:
    size = root.first("size")
    return _text(size, name) if size is not None else ""


def _says_more(child: Element) -> bool:
    """Whether a child of a box is more than a number of it."""
    return child.tag not in _CORNERS or bool(child.attributes or child.children)


def _own(element: Element) -> dict[str, object]:
    """XML attributes of an element, as :func:`as_json` names them."""
    return {f"@{name}": value for name, value in element.attributes.items()}


def _text(element: Element, tag: str) -> str:
    child = element.first(tag)
    return child.text if child is not None else ""


def _json(values: dict[str, object] | Sequence[object]) -> str:
    return msgspec.json.encode(values).decode()
