"""Rows of the readers that meet many kinds of shapes: one dictionary per instance, one per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from transforms.delivery import (
    DELIVERED_CATEGORIES,
    DELIVERED_LABELS,
    DELIVERED_MENTIONS,
    Delivery,
    stem_of,
    table,
)
from transforms.formats.coco_columns import join_members
from transforms.formats.json_text import encode

Row = dict[str, Any]
_MAX_INT32 = 2**31 - 1


def delivery_of(
    form: str,
    labels: Sequence[Row],
    mentions: Iterable[Row],
    categories: Iterable[Row] = (),
) -> Delivery:
    """Rows as a :class:`Delivery` of kind label.

    Filled in where a row does not say: ``instance`` (its place), ``format``, ``stem`` (of ``ref``),
    ``bbox_mode`` (xyxy), ``iscrowd`` and ``ignore`` (false), and the ``kind`` of a mention (label). An
    ``attributes`` that is a mapping becomes JSON, and null where it is empty. Mentions of an image that come
    after its first are a list below that one's attributes, as ``$again``: an image has one row per file.
    """
    rows = [
        {
            "instance": place,
            "format": form,
            "stem": stem_of(row["ref"]),
            "bbox_mode": "xyxy",
            "iscrowd": False,
            "ignore": False,
            **row,
            "attributes": as_text(row.get("attributes")),
        }
        for place, row in enumerate(labels)
    ]
    said = [
        {"kind": "label", "format": form, "stem": stem_of(row["ref"]), **row}
        for row in _one_per_image(mentions)
    ]
    return Delivery(
        kind="label",
        format=form,
        labels=table(rows, DELIVERED_LABELS),
        mentions=table(said, DELIVERED_MENTIONS),
        categories=table(categories, DELIVERED_CATEGORIES),
    )


def _one_per_image(mentions: Iterable[Row]) -> list[Row]:
    rows: list[Row] = []
    firsts: dict[str, Row] = {}
    again: dict[str, list[str]] = {}
    for mention in mentions:
        row = {**mention, "attributes": as_text(mention.get("attributes"))}
        first = firsts.setdefault(row["ref"], row) if row.get("kind", "label") == "label" else row
        if first is row:
            rows.append(row)
            continue
        first["instances"] += row["instances"]
        other = {side: row.get(side) for side in ("width", "height") if row.get(side) != first.get(side)}
        text = join_members((row["attributes"] or "{}")[1:-1], encode(other)[1:-1])
        again.setdefault(row["ref"], []).append(text)
    for ref, texts in again.items():
        members = (firsts[ref]["attributes"] or "{}")[1:-1]
        firsts[ref]["attributes"] = join_members(members, f'"$again":[{",".join(texts)}]')
    return rows


def as_text(attributes: Mapping[str, Any] | str | None) -> str | None:
    """Attributes as JSON text; None where there are none."""
    if attributes is None or isinstance(attributes, str):
        return attributes
    return msgspec.json.encode(attributes).decode() if attributes else None


def pixels(value: float | None) -> int | None:
    """A declared width or height; None where it is no whole number of pixels."""
    if value is None or not 0 <= value <= _MAX_INT32 or value != int(value):
        return None
    return int(value)


def extent(points: Sequence[float]) -> list[float]:
    """The box around ``x1, y1, x2, y2, …`` as corners."""
    xs, ys = points[0::2], points[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def polygon_text(points: Sequence[float]) -> str:
    """One polygon as ``segmentation``."""
    return msgspec.json.encode([list(points)]).decode()
