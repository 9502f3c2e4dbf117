"""Pages of samples by key, filtered, each within a bounded time."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from dropmill.page.answers import Box, Finding, Sample, Samples
from dropmill.page.open_lake import OpenLake
from dropmill.page.shapes import shape_of
from dropmill.page.walk import KEY_COLUMNS, Key, Step, beyond, rows_by_sample, rows_of, walk
from storage.errors import ConfigError

_BUDGET_S = 0.1
_MOST_BOXES = 300
NO_SPLIT = ""
"""The split of images that are in none."""

_IMAGES = (
    *KEY_COLUMNS,
    *("key", "uri", "version", "width", "height", "size_bytes", "format", "split", "labelled", "batch"),
)
_BOXES = (
    *KEY_COLUMNS,
    *("source", "instance", "category", "xmin", "ymin", "xmax", "ymax"),
    *("ignore", "iscrowd", "corrected", "score", "changes"),
)
_FINDINGS = (
    *KEY_COLUMNS,
    *("rule", "severity", "source", "instance", "line", "category", "observed", "correction"),
)
_FIRST = Key("", "", "")
_MASKS = ("dataset", "sample", "source", "instance", "rle", "made_at")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which samples are wanted; all that is given has to be true of a sample."""

    dataset: str | None = None
    category: str | None = None
    """Has an object of that class."""
    rule: str | None = None
    """Has a finding of that rule."""
    split: str | None = None
    """Is in that split, or in none (``NO_SPLIT``)."""
    chosen: pl.DataFrame | None = None
    """Is among these: columns ``dataset``, ``stem`` and perhaps ``sample``, in order."""


def page_of(
    lake: OpenLake,
    filters: Filters,
    *,
    after: Key | None,
    limit: int,
    grid: int | None = None,
    budget_s: float = _BUDGET_S,
) -> Samples:
    """The first samples beyond ``after``, at most ``limit``.

    After ``budget_s`` seconds the page ends where it is, with the cursor that goes on from there. ``grid``
    is the finest grid of masks; None leaves shapes out.
    """
    began = time.monotonic()
    images: list[pl.DataFrame] = []
    found = 0
    reached: Key | None = None
    looked = 0.0
    ended = True
    for step in _candidates(lake, filters, after, limit):
        looked = step.share
        for part in step.rows.iter_slices(4 * limit):
            rows = _images(lake, filters, part)
            images.append(rows)
            found += len(rows)
            reached = _last(part)
            if found > limit or time.monotonic() - began > budget_s:
                ended = False
                break
        else:
            # Nothing may have been found in a file: what was looked through is passed all the same. But the
            # next request has to begin further on than this one did, or it would do the same again.
            if step.reached is not None and step.reached > (after or _FIRST):
                reached = step.reached
                ended = time.monotonic() - began <= budget_s
        if not ended:
            break
    pages = pl.concat(images) if images else None
    shown = pages.head(limit) if pages is not None else None
    if found > limit and shown is not None:
        reached = _last(shown)
    samples = [] if shown is None or shown.is_empty() else _samples(lake, shown, grid)
    return Samples(
        samples=samples,
        next=None if ended and found <= limit else cursor_of(reached),
        looked_through=round(1.0 if ended else looked, 4),
    )


def sample_of(lake: OpenLake, dataset: str, sample: str, *, grid: int) -> Sample | None:
    """One sample with its shapes; None where there is none."""
    row = image_row(lake, dataset, sample)
    return None if row is None else _samples(lake, row, grid)[0]


def image_row(lake: OpenLake, dataset: str, sample: str) -> pl.DataFrame | None:
    """The row of one image; None where there is none."""
    key = pl.DataFrame({"dataset": [dataset], "stem": [sample.rpartition("/")[2]], "sample": [sample]})
    rows = rows_of(lake, "images", _IMAGES, key)
    return rows.head(1) if len(rows) else None


def chosen_by(rows: pl.DataFrame) -> pl.DataFrame:
    """Samples that a query's answer names by ``dataset`` and ``sample`` or ``stem``, in order.

    Raises ConfigError where it has not these columns.
    """
    if "dataset" not in rows.columns or not {"stem", "sample"} & set(rows.columns):
        raise ConfigError(
            f"the query gives {', '.join(rows.columns)}; the gallery wants the columns dataset and sample, "
            "or dataset and stem"
        )
    names = [name for name in KEY_COLUMNS if name in rows.columns]
    chosen = rows.select(pl.col(name).cast(pl.String) for name in names).drop_nulls()
    if "sample" in names:
        chosen = chosen.with_columns(pl.col("sample").str.split("/").list.last().alias("stem"))
        names = list(KEY_COLUMNS)
    return chosen.select(names).unique().sort(names)


def cursor_of(key: Key | None) -> str | None:
    """A key as the text of a cursor."""
    return None if key is None else json.dumps(list(key), ensure_ascii=False)


def key_of(cursor: str) -> Key:
    """The key of a cursor. Raises ConfigError for other texts."""
    try:
        parts = json.loads(cursor)
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{cursor[:80]!r} is no cursor; take `next` of the page before")
    return Key(*parts)


def _candidates(lake: OpenLake, filters: Filters, after: Key | None, limit: int) -> Iterator[Step]:
    """Keys (or whole rows of ``images``) in order, of the table that says most about the filters."""
    if filters.chosen is not None:
        yield from _among_chosen(filters, after, limit)
        return
    for column, table, value in (
        ("category", "annotations", filters.category),
        ("rule", "findings", filters.rule),
    ):
        if value is not None:
            steps = walk(
                lake,
                table,
                columns=(*KEY_COLUMNS, column),
                after=after,
                dataset=filters.dataset,
                where=pl.col(column) == value,
            )
            for step in steps:
                keys = step.rows.select(KEY_COLUMNS).unique(maintain_order=True)
                yield Step(keys, step.share, step.reached)
            return
    yield from walk(
        lake, "images", columns=_IMAGES, after=after, dataset=filters.dataset, where=_split(filters)
    )


def _among_chosen(filters: Filters, after: Key | None, limit: int) -> Iterator[Step]:
    chosen = filters.chosen
    assert chosen is not None
    if filters.dataset is not None:
        chosen = chosen.filter(pl.col("dataset") == filters.dataset)
    if after is not None:
        if "sample" in chosen.columns:
            chosen = chosen.filter(beyond(after))
        else:
            # Other images of the last group may be to come.
            chosen = chosen.filter(
                (pl.col("dataset") > after.dataset)
                | ((pl.col("dataset") == after.dataset) & (pl.col("stem") >= after.stem))
            ).with_columns(pl.lit(after.sample).alias("after"), pl.lit(after.stem).alias("after_stem"))
    for first in range(0, len(chosen), limit):
        part = chosen.slice(first, limit)
        done = first + len(part)
        yield Step(part, done / len(chosen), _last(part) if done < len(chosen) else None)


def _images(lake: OpenLake, filters: Filters, part: pl.DataFrame) -> pl.DataFrame:
    """The images of candidates that fulfil what the candidates do not say of themselves."""
    if "uri" in part.columns:
        return part
    rows = rows_of(lake, "images", _IMAGES, part)
    if "after" in part.columns:
        stem, sample = part["after_stem"][0], part["after"][0]
        rows = rows.filter((pl.col("stem") != stem) | (pl.col("sample") > sample))
    if (split := _split(filters)) is not None:
        rows = rows.filter(split)
    for column, table, value in (
        ("rule", "findings", filters.rule),
        ("category", "annotations", filters.category),
    ):
        if value is not None and not rows.is_empty():
            found = rows_of(lake, table, (*KEY_COLUMNS, column), rows.select(KEY_COLUMNS))
            rows = rows.join(found.filter(pl.col(column) == value), on=KEY_COLUMNS, how="semi")
    return rows.sort(KEY_COLUMNS)


def _split(filters: Filters) -> pl.Expr | None:
    if filters.split is None:
        return None
    return pl.col("split").is_null() if filters.split == NO_SPLIT else pl.col("split") == filters.split


def _last(rows: pl.DataFrame) -> Key:
    row = rows.row(-1, named=True)
    # Of a whole group that was looked at, every sample has been.
    return Key(row["dataset"], row["stem"], row.get("sample", "\U0010ffff"))


def _samples(lake: OpenLake, images: pl.DataFrame, grid: int | None) -> list[Sample]:
    keys = images.select(KEY_COLUMNS)
    columns = _BOXES if grid is None else (*_BOXES, "segmentation")
    boxes = _by_sample(rows_of(lake, "annotations", columns, keys), ("source", "instance"))
    findings = _by_sample(rows_of(lake, "findings", _FINDINGS, keys), ("rule", "source", "instance"))
    masks = {} if grid is None else _masks(lake, images)
    samples = []
    for row in images.iter_rows(named=True):
        key = (row["dataset"], row["sample"])
        mine = boxes.get(key, [])
        samples.append(
            Sample(
                **{name: row[name] for name in _IMAGES if name != "uri"}
                | {"labelled": bool(row["labelled"])},
                boxes=[
                    _box(box, masks.get((*key, box["source"], box["instance"])), grid)
                    for box in mine[:_MOST_BOXES]
                ],
                more_boxes=max(0, len(mine) - _MOST_BOXES),
                findings=[
                    Finding(**{name: found[name] for name in _FINDINGS if name not in KEY_COLUMNS})
                    for found in findings.get(key, [])[:_MOST_BOXES]
                ],
            )
        )
    return samples


def _by_sample(rows: pl.DataFrame, order: tuple[str, ...]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows.sort(order, nulls_last=True, maintain_order=True).iter_rows(named=True):
        found[row["dataset"], row["sample"]].append(row)
    return found


def _box(row: dict[str, Any], mask: str | None, grid: int | None) -> Box:
    plain = {
        name: value if not isinstance(value, float) or math.isfinite(value) else None
        for name, value in row.items()
        if name in Box.model_fields
    }
    return Box(
        **plain
        | {name: bool(row[name]) for name in ("ignore", "iscrowd", "corrected")}
        | {"source": row["source"] or "", "instance": row["instance"] or 0},
        shape=shape_of(row.get("segmentation"), grid) if grid else None,
        mask=shape_of(mask, grid) if grid else None,
    )


def _masks(lake: OpenLake, images: pl.DataFrame) -> dict[tuple[Any, ...], str]:
    """The newest pseudo mask of every instance of some images."""
    wanted: dict[str, list[str]] = {}
    for dataset, sample in images.select("dataset", "sample").iter_rows():
        wanted.setdefault(dataset, []).append(sample)
    rows = rows_by_sample(lake, "masks", _MASKS, wanted)
    return {
        (row["dataset"], row["sample"], row["source"], row["instance"]): row["rle"]
        for row in rows.sort("made_at", nulls_last=False).iter_rows(named=True)
    }
