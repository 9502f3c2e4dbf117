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


def unsaid(
    collection: Collection, form: str, *, says: Container[str], also: Iterable[tuple[str, int]] = ()
) -> dict[str, int]:
    """Count what a form that ``says`` these columns and keys cannot say of the rows of other forms."""
    found: Counter[str] = Counter()
    foreign = collection.boxes.filter(pl.col("format").ne_missing(form))
    for column, plain in _PLAIN.items():
        if column not in says:
            found[column] = foreign.filter(
                pl.col(column).ne_missing(plain) & pl.col(column).is_not_null()
            ).height
    if "attributes" not in says:
        for text, count in foreign["attributes"].drop_nulls().value_counts().iter_rows():
            for key in attributes_of(text):
                if key not in says and key not in {"$written", "attributes"}:
                    found[key] += count
    if "instances without a box" not in says:
        found["instances without a box"] = collection.boxes.filter(pl.col("bbox").is_null()).height
    for what, count in also:
        found[what] += count
    return {what: count for what, count in sorted(found.items()) if count}


def json_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()
