"""Boxes to Pascal VOC files."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import polars as pl

from transforms.formats.text import shortest
from transforms.writers.collection import Collection
from transforms.writers.written import Written, attributes_of, own_attributes, unsaid

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SAYS = {"ignore", "pose", "truncated", "difficult"}
_FIRST = ("pose", "truncated", "occluded", "difficult")


def write_voc(collection: Collection, *, image_sets: bool = True) -> Written:
    """One ``<ref>.xml`` per image, and ``ImageSets/Main/<split>.txt`` where images have a split.

    Boxes are corners in pixels, as the tables have them; what came as VOC has all its elements and words
    again. ``difficult`` says what other forms call ignore, ``truncated`` is 1 where they give any truncation.
    Characters that XML cannot hold become the replacement character.
    """
    objects: dict[int, list[str]] = defaultdict(list)
    fractions = odd = 0
    columns = ("image", "format", "category", "truncation", "ignore", "attributes", *_CORNERS)
    for image, form, category, truncation, ignore, attributes, *box in (
        collection.absolute().select(columns).iter_rows()
    ):
        if box[0] is None:
            continue
        values = own_attributes(attributes) if form == "voc" else {}
        if form != "voc":
            known = attributes_of(attributes)
            values = {
                key: str(known[key]) for key in ("pose", "truncated") if isinstance(known.get(key), str)
            }
            values.setdefault("pose", "Unspecified")
            values.setdefault("truncated", "1" if (truncation or 0) > 0 else "0")
            fractions += truncation is not None and truncation not in {0, 1}
            values["difficult"] = "1" if ignore else "0"
        odd += _clean(category or "unknown") != (category or "unknown")
        objects[image].append(_object(category or "unknown", box, values))
    files: dict[str, bytes] = {}
    for row in collection.images.iter_rows(named=True):
        files[f"{row['ref']}.xml"] = _file(row, objects[row["image"]])
    lost = [
        ("truncation as a fraction", fractions),
        ("classes with characters that XML does not have", odd),
        ("several images of one path", collection.images.height - len(files)),
    ]
    if image_sets:
        files |= _image_sets(collection.images)
    says = {*_SAYS, "truncation"}
    return Written(files=files, unsaid=unsaid(collection, "voc", says=says, also=lost))


def _image_sets(images: pl.DataFrame) -> dict[str, bytes]:
    """A list per split, of names without folder where these are clear without."""
    files = {}
    for split in images["split"].drop_nulls().unique().sort():
        refs = images.filter(pl.col("split") == split)["ref"].to_list()
        names = [ref.rsplit("/", 1)[-1] for ref in refs]
        if len(set(names)) < len(names):
            names = refs
        files[f"ImageSets/Main/{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    return files


def _file(image: dict[str, Any], objects: list[str]) -> bytes:
    values = own_attributes(image["attributes"]) if image["format"] == "voc" else {}
    own = "".join(
        f" {_clean(key[1:])}={quoteattr(_clean(str(value)))}"
        for key, value in values.items()
        if key[0] == "@"
    )
    lines = [f"<annotation{own}>"]
    if "filename" not in values and image["format"] != "voc" and image["file_name"]:
        lines.append(_element("filename", image["file_name"].rsplit("/", 1)[-1], "\t"))
    size = values.pop("size", None)
    lines += [_element(key, value, "\t") for key, value in values.items() if key[0] not in "@$#"]
    if isinstance(size, list):
        lines += [_element("size", size, "\t")]
    elif image["width"] is not None or image["height"] is not None or size is not None:
        sides = {side: str(image[side]) for side in ("width", "height") if image[side] is not None}
        rest = size if isinstance(size, dict) else {"depth": "3"} if image["format"] != "voc" else {}
        lines.append(_element("size", {**sides, **rest}, "\t"))
    return "\n".join([*lines, *objects, "</annotation>", ""]).encode()


def _object(category: str, box: list[float], values: dict[str, Any]) -> str:
    written = values.get("$written")
    words = written if isinstance(written, dict) else {}
    corners: dict[str, Any] = {
        name: _word(value, words.get(name)) for name, value in zip(_CORNERS, box, strict=True)
    }
    own = "".join(
        f" {key[1:]}={quoteattr(_clean(str(value)))}" for key, value in values.items() if key[0] == "@"
    )
    more = values.get("bndbox")
    more = more if isinstance(more, dict) else {}
    for name in corners.keys() & more.keys():
        corners[name] = (
            {**more[name], "#text": corners[name]} if isinstance(more[name], dict) else corners[name]
        )
    named = values.get("name")
    called = {**named, "#text": category} if isinstance(named, dict) else category
    first = [_element(key, values[key], "\t\t") for key in _FIRST if key in values]
    rest = [
        _element(key, value, "\t\t")
        for key, value in values.items()
        if key not in {*_FIRST, "name", "bndbox"} and key[0] not in "@$#"
    ]
    bndbox = _element(
        "bndbox", {**corners, **{key: value for key, value in more.items() if key not in corners}}, "\t\t"
    )
    return "\n".join(
        [f"\t<object{own}>", _element("name", called, "\t\t"), *first, bndbox, *rest, "\t</object>"]
    )


def _word(value: float, word: object) -> str:
    try:
        return word if isinstance(word, str) and float(word) == value else shortest(value)
    except ValueError:
        return shortest(value)


def _element(tag: str, value: Any, indent: str) -> str:
    """A value as the reader gave it, as elements again."""
    if isinstance(value, list):
        return "\n".join(_element(tag, part, indent) for part in value)
    if not isinstance(value, dict):
        return f"{indent}<{tag}>{escape(_clean(str(value)))}</{tag}>"
    own = "".join(
        f" {key[1:]}={quoteattr(_clean(str(text)))}" for key, text in value.items() if key[0] == "@"
    )
    text = escape(_clean(str(value.get("#text", ""))))
    children = [_element(key, part, indent + "\t") for key, part in value.items() if key[0] not in "@#"]
    inner = "".join(f"\n{child}" for child in children) + (f"\n{indent}" if children else "")
    return f"{indent}<{tag}{own}>{text}{inner}</{tag}>"


def _clean(text: str) -> str:
    """XML 1.0 has no control characters but tab and line ends, no surrogates, and two code points less."""
    return "".join(
        c
        if c in "\t\n\r" or ("\x20" <= c <= "\ud7ff") or ("\ue000" <= c <= "\ufffd") or c > "\uffff"
        else "\ufffd"
        for c in text
    )
