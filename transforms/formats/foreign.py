"""Label forms that are known by name but not read: recognising them makes a refusal that helps."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from transforms.formats.markup import Element
from transforms.formats.refs import is_image_name
from transforms.formats.text import Line, is_number

_CSV_HEADS = (
    ({"maskpath", "imageid", "labelname"}, "Open Images segmentation CSV"),
    ({"imageid", "labelname"}, "Open Images image labels"),
    ({"image", "xmin", "ymin", "xmax", "ymax", "label"}, "VoTT CSV"),
    (
        {"filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"},
        "TensorFlow object detection CSV",
    ),
)
_JSON_KEYS = (
    ({"assets", "tags"}, "VoTT JSON"),
    ({"asset", "regions"}, "VoTT JSON"),
    ({"_via_img_metadata"}, "VGG Image Annotator JSON"),
    ({"LabelName", "Subcategory"}, "Open Images class hierarchy"),
    ({"items", "categories", "info"}, "Datumaro JSON"),
    ({"imgHeight", "imgWidth", "objects"}, "Cityscapes JSON"),
    ({"objects", "size", "tags"}, "Supervisely JSON"),
    ({"type", "features"}, "GeoJSON"),
    ({"image", "annotations"}, "CreateML JSON"),
    ({"data", "annotations"}, "Label Studio JSON"),
    ({"name", "labels"}, "BDD100K JSON"),
)
_XML_ROOTS = {
    "boost_serialization": "KITTI raw tracklets",
    "dataset": "dlib imglab XML",
}
_first_object = msgspec.json.Decoder(dict[str, Raw])


def foreign_text(lines: Sequence[Line]) -> str | None:
    """The name of the form that lines of text have, if it is one that we know and do not read."""
    texts = [line for _, line in lines[:50] if not line.startswith(("imagesource:", "gsd:"))]
    if not texts:
        return None
    words = texts[0].split()
    if texts[0].startswith("# Compatible with PASCAL Annotation"):
        return "PASCAL annotation text, version 1.00"
    if len(texts) > 2 and is_image_name(texts[0]) and texts[1].isdecimal() and _all_numbers(texts[2].split()):
        return "WIDER FACE text"
    if len(words) in {9, 10} and _all_numbers(words[:8]) and not is_number(words[8]):
        return "DOTA oriented boxes"
    if (
        len(words) >= 17
        and words[0].isdecimal()
        and words[1].lstrip("-").isdecimal()
        and not is_number(words[2])
    ):
        return "KITTI tracking labels"
    if len(words) in {5, 6} and not is_number(words[0]) and _all_numbers(words[1:]):
        return "a list of class, score and corners"
    cells = texts[0].rstrip(",").split(",")
    if len(cells) >= 6 and _all_numbers(cells):
        return "VisDrone text" if len(cells) == 8 else "MOT Challenge text"
    return None


def foreign_csv(head: str) -> str | None:
    """The same for the first line of a CSV file."""
    cells = {cell.strip().strip('"').lower() for cell in head.split(",")}
    return next((name for wanted, name in _CSV_HEADS if wanted <= cells), None)


def foreign_json(json: bytes) -> str | None:
    """The same for JSON: by the keys of the object, of the first object of a list, or of the first line."""
    start = json.lstrip()[:1]
    try:
        if start == b"[":
            first = msgspec.json.decode(json, type=list[Raw])[:1]
            keys = set(_first_object.decode(first[0])) if first else set()
        else:
            keys = set(_first_object.decode(json))
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            keys = set(_first_object.decode(json.lstrip().split(b"\n", 1)[0]))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
    if keys and keys <= {"labels", "label_map", "segmentation_colors"}:
        return "a Datumaro class list"
    return next((name for wanted, name in _JSON_KEYS if wanted <= keys), None)


def foreign_xml(root: Element) -> str | None:
    """The same for XML."""
    if root.tag != "annotation":
        return _XML_ROOTS.get(root.tag)
    objects = root.all("object")
    if objects and all(element.first("bndbox") is None for element in objects):
        if any(element.first("polygon") is not None for element in objects):
            return "LabelMe XML"
        if any(element.first("robndbox") is not None for element in objects):
            return "roLabelImg XML (rotated boxes)"
    return None


def is_tfrecord(data: bytes) -> bool:
    """Whether bytes are a TFRecord file of images: a length that fits, and a feature named for images."""
    length = int.from_bytes(data[:8], "little")
    return 0 < length <= len(data) - 16 and re.search(rb"\x0a.?image/", data[:65536], re.DOTALL) is not None


def _all_numbers(words: Sequence[str]) -> bool:
    return bool(words) and all(is_number(word.strip()) for word in words)
