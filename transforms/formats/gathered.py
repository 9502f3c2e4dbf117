"""Rows of many small label files, gathered so that each table is built once and not for every file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from transforms.delivery import DELIVERED_CATEGORIES, DELIVERED_LABELS, DELIVERED_MENTIONS, Delivery, stem_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one label file of one image says, by columns; ``boxes`` are four numbers per instance, corners."""

    form: str
    ref: str
    lines: Sequence[int]
    categories: Sequence[str]
    boxes: Sequence[float]
    ignores: Sequence[bool]
    attributes: Sequence[str]
    truncations: Sequence[float] | None = None
    occlusions: Sequence[int] | None = None
    width: int | None = None
    height: int | None = None
    of_image: str | None = None


@dataclass
class Gathered:
    """Rows of files with the sources that they come from."""

    rows: list[Rows] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, source: str, rows: Rows) -> None:
        """Add a file's rows."""
        self.rows.append(rows)
        self.sources.append(source)

    def tables(self) -> dict[str, pa.Table]:
        """``labels``, ``mentions`` and ``categories``: the columns of a delivery, and ``source``."""
        counts = np.fromiter((len(rows.lines) for rows in self.rows), np.int64, len(self.rows))
        owner = pa.array(np.repeat(np.arange(len(self.rows)), counts))
        refs = pa.array([rows.ref for rows in self.rows], pa.string())
        stems = pa.array([stem_of(rows.ref) for rows in self.rows], pa.string())
        forms = pa.array([rows.form for rows in self.rows], pa.string())
        sources = pa.array(self.sources, pa.string())
        total = int(counts.sum())
        firsts = np.cumsum(counts) - counts
        boxes = np.concatenate([np.zeros(0), *(np.asarray(rows.boxes, np.float64) for rows in self.rows)])
        columns = {
            "instance": pa.array(np.arange(total) - np.repeat(firsts, counts)),
            "line": _column((rows.lines for rows in self.rows), pa.int64()),
            "format": forms.take(owner),
            "ref": refs.take(owner),
            "stem": stems.take(owner),
            "category": _column((rows.categories for rows in self.rows), pa.string()),
            "bbox": pa.ListArray.from_arrays(pa.array(np.arange(0, 4 * total + 1, 4), pa.int32()), boxes),
            "bbox_mode": pa.repeat("xyxy", total),
            "truncation": _column(
                (rows.truncations or [None] * len(rows.lines) for rows in self.rows), pa.float64()
            ),
            "occlusion": _column(
                (rows.occlusions or [None] * len(rows.lines) for rows in self.rows), pa.int32()
            ),
            "iscrowd": pa.repeat(pa.scalar(value=False), total),
            "ignore": _column((rows.ignores for rows in self.rows), pa.bool_()),
            "attributes": _column((rows.attributes for rows in self.rows), pa.string()),
        }
        mentions = {
            "kind": pa.repeat("label", len(self.rows)),
            "format": forms,
            "ref": refs,
            "stem": stems,
            "width": [rows.width for rows in self.rows],
            "height": [rows.height for rows in self.rows],
            "instances": counts,
            "attributes": [rows.of_image for rows in self.rows],
        }
        source = pa.field("source", pa.string())
        return {
            "labels": _table(columns, DELIVERED_LABELS, total).append_column(source, sources.take(owner)),
            "mentions": _table(mentions, DELIVERED_MENTIONS, len(self.rows)).append_column(source, sources),
            "categories": DELIVERED_CATEGORIES.empty_table().append_column(source, sources.slice(0, 0)),
        }


def delivery_of_one(rows: Rows) -> Delivery:
    """The rows of one file as a delivery."""
    gathered = Gathered()
    gathered.add("", rows)
    tables = gathered.tables()
    return Delivery(
        kind="label",
        format=rows.form,
        labels=tables["labels"].drop_columns("source"),
        mentions=tables["mentions"].drop_columns("source"),
    )


def plain_text(data: bytes) -> str | None:
    """The text of a file in ASCII, which most are; None for all others."""
    return data.decode("ascii") if data.isascii() and b"\0" not in data and b"\r" not in data else None


def _column(parts: Iterable[Sequence[object]], kind: pa.DataType) -> pa.Array:
    return pa.array(list(chain.from_iterable(parts)), kind)


def _table(columns: dict[str, object], schema: pa.Schema, length: int) -> pa.Table:
    return pa.table([columns.get(f.name, pa.nulls(length, f.type)) for f in schema], schema=schema)
