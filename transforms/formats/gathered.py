"""Rows of many small label files, gathered so that each table is built once and not for every file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What many label files of an image each say, in Arrow columns.

    Of every file: ``form``, ``ref``, ``width``, ``height``, ``of_image``, and ``counts``, the instances in
    it. Of every instance, file by file: the others; ``boxes`` are four corners each.
    """

    form: pa.Array
    ref: pa.Array
    width: pa.Array
    height: pa.Array
    of_image: pa.Array
    counts: npt.NDArray[np.int64]
    line: pa.Array
    category: pa.Array
    boxes: pa.Array
    ignore: pa.Array
    attributes: pa.Array
    truncation: pa.Array
    occlusion: pa.Array


@dataclass
class Gathered:
    """Rows of files with the sources that they come from."""

    _rows: list[Rows] = field(default_factory=list)
    _sources: list[str] = field(default_factory=list)
    _blocks: list[tuple[list[str], Block]] = field(default_factory=list)

    def add(self, source: str, rows: Rows) -> None:
        """Add a file's rows."""
        self._rows.append(rows)
        self._sources.append(source)

    def add_block(self, sources: Sequence[str], block: Block) -> None:
        """Add the rows of several files."""
        self._blocks.append((list(sources), block))

    def tables(self) -> dict[str, pa.Table]:
        """``labels``, ``mentions`` and ``categories``: the columns of a delivery, and ``source``.

        In ``labels`` the instances stand in the order of the mentions, which tell their number.
        """
        parts = [_tables(sources, block) for sources, block in self._blocks]
        if self._rows or not parts:
            parts.append(_tables(self._sources, _block(self._rows)))
        return {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}


def delivery_of(block: Block) -> Delivery:
    """The rows of a block's files as a delivery of the form of the first."""
    tables = _tables([""] * len(block.counts), block)
    return Delivery(
        kind="label",
        format=block.form[0].as_py(),
        labels=tables["labels"].drop_columns("source"),
        mentions=tables["mentions"].drop_columns("source"),
    )


def delivery_of_one(rows: Rows) -> Delivery:
    """The rows of one file as a delivery."""
    return delivery_of(_block([rows]))


def plain_text(data: bytes) -> str | None:
    """The text of a file in ASCII, which most are; None for all others."""
    return data.decode("ascii") if data.isascii() and b"\0" not in data and b"\r" not in data else None


def _block(rows: Sequence[Rows]) -> Block:
    boxes = np.concatenate([np.zeros(0), *(np.asarray(one.boxes, np.float64) for one in rows)])
    return Block(
        form=pa.array([one.form for one in rows], pa.string()),
        ref=pa.array([one.ref for one in rows], pa.string()),
        width=pa.array([one.width for one in rows], pa.int32()),
        height=pa.array([one.height for one in rows], pa.int32()),
        of_image=pa.array([one.of_image for one in rows], pa.string()),
        counts=np.fromiter((len(one.lines) for one in rows), np.int64, len(rows)),
        line=_column((one.lines for one in rows), pa.int64()),
        category=_column((one.categories for one in rows), pa.string()),
        boxes=pa.array(boxes),
        ignore=_column((one.ignores for one in rows), pa.bool_()),
        attributes=_column((one.attributes for one in rows), pa.string()),
        truncation=_column((one.truncations or [None] * len(one.lines) for one in rows), pa.float64()),
        occlusion=_column((one.occlusions or [None] * len(one.lines) for one in rows), pa.int32()),
    )


def _tables(sources: Sequence[str], block: Block) -> dict[str, pa.Table]:
    counts = block.counts
    total = int(counts.sum())
    owner = pa.array(np.repeat(np.arange(len(counts)), counts))
    firsts = np.cumsum(counts) - counts
    stem = pa.array([stem_of(ref) for ref in block.ref.to_pylist()], pa.string())
    source = pa.array(sources, pa.string())
    columns = {
        "instance": pa.array(np.arange(total) - np.repeat(firsts, counts)),
        "line": block.line,
        "format": block.form.take(owner),
        "ref": block.ref.take(owner),
        "stem": stem.take(owner),
        "category": block.category,
        "bbox": pa.ListArray.from_arrays(pa.array(np.arange(0, 4 * total + 1, 4), pa.int32()), block.boxes),
        "bbox_mode": pa.repeat("xyxy", total),
        "truncation": block.truncation,
        "occlusion": block.occlusion,
        "iscrowd": pa.repeat(pa.scalar(value=False), total),
        "ignore": block.ignore,
        "attributes": block.attributes,
    }
    mentions = {
        "kind": pa.repeat("label", len(counts)),
        "format": block.form,
        "ref": block.ref,
        "stem": stem,
        "width": block.width,
        "height": block.height,
        "instances": counts,
        "attributes": block.of_image,
    }
    kind = pa.field("source", pa.string())
    return {
        "labels": _table(columns, DELIVERED_LABELS, total).append_column(kind, source.take(owner)),
        "mentions": _table(mentions, DELIVERED_MENTIONS, len(counts)).append_column(kind, source),
        "categories": DELIVERED_CATEGORIES.empty_table().append_column(kind, source.slice(0, 0)),
    }


def _column(parts: Iterable[Sequence[object]], kind: pa.DataType) -> pa.Array:
    return pa.array(list(chain.from_iterable(parts)), kind)


def _table(columns: dict[str, object], schema: pa.Schema, length: int) -> pa.Table:
    return pa.table([columns.get(f.name, pa.nulls(length, f.type)) for f in schema], schema=schema)
