"""Examples of the TensorFlow Object Detection API: a TFRecord file of many images, and its label map."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, Delivery, table
from transforms.formats.masks import rle_text
from transforms.formats.pbtxt import items_of
from transforms.formats.refs import ref_of
from transforms.formats.rows import Row, as_text, delivery_of, pixels
from transforms.formats.text import text_of
from transforms.formats.tfrecord import Value, example, records

EXPECTED = "TensorFlow Object Detection API examples: image/filename and image/object/bbox/…"
_OBJECT = "image/object/"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
# The picture and its masks have no place in a table of text.
_NOT_KEPT = {"image/encoded", "image/key/sha256", "image/width", "image/height"}
_MAX_MASK_PIXELS = 100_000_000


def read_tfrecord(data: bytes, path: str) -> Delivery:
    """Read a TFRecord of the Object Detection API; ``bbox`` is ``xyxy_norm``, parts of the image.

    ``category_id`` is the class label and ``category`` its text, null where the example has none. Group-of
    objects are crowds and have ``ignore``, difficult ones have ``ignore``. Masks (PNG) become COCO RLE. The
    other features of objects and images are in ``attributes``; the encoded image is not kept: the images are
    objects of the bucket. Checksums are checked. Raises :class:`UnreadableError` naming the record.
    """
    labels: list[Row] = []
    mentions: list[Row] = []
    for number, record in enumerate(records(data, path)):
        features = example(record, path, number)
        mention, rows = _image(features, number, path)
        mentions.append(mention)
        labels += rows
    return delivery_of("tfrecord", labels, mentions)


def read_pbtxt(data: bytes, path: str) -> Delivery | None:
    """Read a label map (``item { id: 1 name: 'cat' }``); None where the text is another protocol buffer.

    ``name`` is the category, as in the examples, or the display name where an item has that alone; all else
    is in ``attributes``.
    """
    items = items_of(text_of(data, path))
    if items is None:
        return None
    rows: list[Row] = []
    for item in items:
        number, key = item.get("id"), "name" if "name" in item else "display_name"
        name = item.get(key)
        if not isinstance(number, str) or not number.isdecimal() or len(number) > 9:
            raise UnreadableError(path, f"the id {number!r}", expected="a whole number from 0")
        if not isinstance(name, str) or not name:
            raise UnreadableError(path, f"the item {number} without a name", expected="a label map")
        further = {key_: value for key_, value in item.items() if key_ not in {"id", key}}
        rows.append({"category_id": int(number), "category": name, "attributes": as_text(further)})
    if len({row["category_id"] for row in rows}) < len(rows):
        raise UnreadableError(path, "an id that comes twice", expected="a label map: one name per id")
    return Delivery(kind="classes", format="tfrecord", categories=table(rows, DELIVERED_CATEGORIES))


def _image(features: Mapping[str, Value], number: int, path: str) -> tuple[Row, list[Row]]:
    place = f"record {number}, counted from 0"
    if not any(name.startswith("image/") for name in features):
        names = ", ".join(sorted(features)[:6]) or "none"
        raise UnknownFormatError(path, f"{place} has the features {names}", expected=EXPECTED)
    name = _text(features, "image/filename", place, path) or _text(features, "image/source_id", place, path)
    if not name:
        raise UnreadableError(path, f"{place} without image/filename", expected=EXPECTED)
    ref = ref_of(name)
    width, height = (_size(features, side, place, path) for side in ("width", "height"))
    columns = {key[len(_OBJECT) :]: value for key, value in features.items() if key.startswith(_OBJECT)}
    count = len(columns.get("bbox/xmin", []))
    for side in _SIDES:
        values = columns.get(f"bbox/{side}", [])
        if len(values) != count:
            found = f"{place}: {len(values)} numbers as {side} for {count} objects"
            raise UnreadableError(path, found, expected=EXPECTED)
        if not all(isinstance(value, float) for value in values):
            raise UnreadableError(path, f"{place}: {side} in other than floats", expected=EXPECTED)
    for name in ("class/text", "class/label", "mask"):
        values = columns.get(name, [])
        if len(values) not in {0, count}:
            found = f"{place}: {len(values)} values as {name} for {count} boxes"
            raise UnreadableError(path, found, expected=EXPECTED)
    rows = [_row(columns, i, count, ref, (width, height), place, path) for i in range(count)]
    # What has not one value for each object says something of the image.
    kept = {
        key: _plain(value)
        for key, value in features.items()
        if not key.startswith(_OBJECT) or (value and len(value) != count)
    }
    mention = {
        "ref": ref,
        "width": width,
        "height": height,
        "instances": count,
        "attributes": {key: value for key, value in kept.items() if key not in _NOT_KEPT},
    }
    return mention, rows


def _row(
    columns: Mapping[str, Value],
    place: int,
    count: int,
    ref: str,
    size: tuple[int | None, int | None],
    where: str,
    path: str,
) -> Row:
    mine = {key: values[place] for key, values in columns.items() if len(values) == count}
    text, number = mine.pop("class/text", b""), mine.pop("class/label", None)
    if not isinstance(text, bytes) or not isinstance(number, int | None):
        raise UnreadableError(path, f"{where}: class/text or class/label of another type", expected=EXPECTED)
    box = [mine.pop(f"bbox/{side}") for side in _SIDES]
    mask = mine.pop("mask", b"")
    crowd = mine.get("group_of") == 1
    return {
        "ref": ref,
        "category_id": number,
        "category": _utf8(text, where, path) or None,
        "bbox": box,
        "bbox_mode": "xyxy_norm",
        "iscrowd": crowd,
        "ignore": crowd or mine.get("difficult") == 1,
        "segmentation": _mask(mask, size, where, path) if isinstance(mask, bytes) and mask else None,
        "attributes": {key: _plain([value])[0] for key, value in mine.items()},
    }


def _mask(png: bytes, size: tuple[int | None, int | None], where: str, path: str) -> str:
    width, height = size
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (width, height) or image.width * image.height > _MAX_MASK_PIXELS:
                found = f"{where}: a mask of {image.width}x{image.height} in {width}x{height}"
                raise UnreadableError(path, found, expected="a mask as large as its image")
            window = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(path, f"{where}: {error}", expected="a mask as PNG") from error
    return rle_text(window, 0, 0, window.shape[1], window.shape[0])


def _size(features: Mapping[str, Value], side: str, place: str, path: str) -> int | None:
    values = features.get(f"image/{side}", [])
    if not values:
        return None
    if len(values) != 1 or not isinstance(values[0], int):
        raise UnreadableError(path, f"{place}: {len(values)} values as image/{side}", expected="one number")
    return pixels(values[0])


def _text(features: Mapping[str, Value], key: str, place: str, path: str) -> str:
    values = features.get(key, [])
    return _utf8(values[0], place, path) if values and isinstance(values[0], bytes) else ""


def _utf8(value: bytes, where: str, path: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(path, f"{where}: {value[:20]!r}", expected="UTF-8 text") from error


def _plain(values: Sequence[bytes | float | int]) -> list[str | float | int]:
    """Values that JSON can hold; bytes that are no text become hexadecimal."""
    plain: list[str | float | int] = []
    for value in values:
        if isinstance(value, bytes):
            try:
                plain.append(value.decode())
            except UnicodeDecodeError:
                plain.append(value.hex())
        else:
            plain.append(value)
    return plain
