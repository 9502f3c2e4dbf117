"""What a writer gives back, and how it tells what its form could not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as Container
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

from transforms.writers.collection import Collection


def _digits(text: str) -> msgspec.Raw:
    """A number with a point stays as it is written."""
    return msgspec.Raw(text.encode())


_object = msgspec.json.Decoder(dict[str, Any], float_hook=_digits)

# Where an image is and what it is called, in the words of all forms.
_NAMES = {
    *("file_name", "filename", "imagePath", "name", "id", "image_id", "path", "folder", "image/filename"),
    *("image/source_id", "image/key/sha256", "image/format", "$again"),
}

# Columns that say something only where they have another value than this.
_PLAIN = {
    "truncation": None,
    "occlusion": None,
    "score": None,
    "segmentation": None,
    "iscrowd": False,
    "ignore": False,
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """Files by their paths, and what was left unsaid: what it is, and how often."""

    files: dict[str, bytes]
    unsaid: dict[str, int] = field(default_factory=dict)


def attributes_of(text: str | None) -> dict[str, Any]:
    """Attributes of another form as a mapping, numbers with a point as :class:`msgspec.Raw`.

    What that form has below ``attributes`` counts as the row's own.
    """
    values = own_attributes(text)
    inner = values.get("attributes")
    return {**inner, **values} if isinstance(inner, dict) else values


def own_attributes(text: str | None) -> dict[str, Any]:
    """The same of the writer's own form: a key ``attributes`` is one as any other."""
    return _object.decode(text) if text else {}


def of_image(text: str | None) -> dict[str, Any]:
    """What another form says of an image, but for its name, its number and its size."""
    return {
        key: value
        for key, value in own_attributes(text).items()
        if key not in _NAMES and not (key == "size" and value == {})
    }


def unsaid(
    collection: Collection, form: str, *, says: Container[str], also: Iterable[tuple[str, int]] = ()
) -> dict[str, int]:
    """Count what a form that ``says`` these columns and keys cannot say of the rows of other forms.

    What other forms say of images counts where ``images`` is not among what the form says; of classes and of
    the file as a whole only COCO says more than names.
    """
    found: Counter[str] = Counter()
    if "images" not in says:
        others = collection.images.filter(pl.col("format").ne_missing(form))
        for text in others["attributes"].drop_nulls():
            found.update(f"{key} of the image" for key in of_image(text))
    if form != "coco":
        for text in collection.categories["attributes"].drop_nulls():
            found.update(f"{key} of the class" for key in own_attributes(text))
        for text in collection.documents:
            found.update(f"{key} of the file" for key in own_attributes(text))
    foreign = collection.boxes.filter(pl.col("format").ne_missing(form))
    for column, plain in _PLAIN.items():
        if column not in says:
            found[column] = foreign.filter(
                pl.col(column).ne_missing(plain) & pl.col(column).is_not_null()
            ).height
    if "attributes" not in says:
        for text, count in foreign["attributes"].drop_nulls().value_counts().iter_rows():
            for key in attributes_of(text):
                # Notes of the readers to the writers; a crowd has a column.
                if key not in says and key not in {"attributes", "iscrowd"} and not key.startswith("$"):
                    found[key] += count
    if "instances without a box" not in says:
        found["instances without a box"] = collection.boxes.filter(pl.col("bbox").is_null()).height
    if form not in {"coco", "odvg"}:
        nothing = pl.col("category").is_null() & pl.col("category_id").is_null()
        found["instances without a class"] = collection.boxes.filter(nothing).height
    for what, count in also:
        found[what] += count
    return {what: count for what, count in sorted(found.items()) if count}


def json_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()
