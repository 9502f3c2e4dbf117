"""Open Images CSV: boxes of many images in one file, and the names of their classes in another.

Columns of the boxes: ImageID, Source, LabelName, Confidence, XMin, XMax, YMin, YMax (parts of the image),
and flags IsOccluded, IsTruncated, IsGroupOf, IsDepiction, IsInside (1, 0, or -1 for unknown).
"""

from __future__ import annotations

import csv
import re

import polars as pl
import pyarrow as pa

from storage.errors import UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, DELIVERED_LABELS, DELIVERED_MENTIONS, Delivery
from transforms.formats.refs import IMAGE_ENDING
from transforms.formats.text import quote, text_of

EXPECTED = "Open Images boxes: ImageID, LabelName, XMin, XMax, YMin and YMax"
_CORNERS = ("XMin", "YMin", "XMax", "YMax")
_NEEDED = ("ImageID", "LabelName", *_CORNERS)
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_CLASS = re.compile(r'"?/[a-z]/[^,]+,')


def read_open_images(data: bytes, path: str) -> Delivery:
    """Read boxes of Open Images; ``bbox`` is ``xyxy_norm``: left, top, right, bottom as parts of the image.

    ``category`` is the LabelName, which a class file of the data set may give its name. A group (IsGroupOf 1)
    is a crowd and has ``ignore``. All other columns are in ``attributes`` as they are written. Raises
    :class:`UnreadableError` with the line of the first value that is no number.
    """
    frame = _frame(text_of(data, path), path)
    if missing := [name for name in _NEEDED if name not in frame.columns]:
        raise UnreadableError(path, f"no column {missing[0]}", line=1, expected=EXPECTED)
    for name in _CORNERS:
        good = pl.col(name).str.contains(_NUMBER) & pl.col(name).cast(pl.Float64, strict=False).is_finite()
        _refuse(frame, ~good.fill_null(value=False), name, "a finite number", path)
    for name in ("ImageID", "LabelName"):
        _refuse(frame, pl.col(name).fill_null("") == "", name, "a name", path)
    others = [name for name in frame.columns if name not in {"ImageID", "LabelName", *_CORNERS, "__line"}]
    crowd = pl.col("IsGroupOf") == "1" if "IsGroupOf" in frame.columns else pl.lit(value=False)
    # Ids have no extension, so a dot in one is a part of it, but where the end is that of an image.
    ref = pl.col("ImageID").str.replace(IMAGE_ENDING, "")
    rows = frame.with_columns(
        pl.concat_list([pl.col(name).cast(pl.Float64) for name in _CORNERS]).alias("bbox"),
        crowd.fill_null(value=False).alias("crowd"),
        pl.struct(others).struct.json_encode().alias("attributes") if others else pl.lit(None, pl.String),
        ref.alias("ref"),
        ref.str.split("/").list.last().alias("stem"),
    )
    count = rows.height
    labels = {
        "instance": range(count),
        "line": rows["__line"].to_arrow(),
        "format": ["open_images"] * count,
        "ref": rows["ref"].to_arrow(),
        "stem": rows["stem"].to_arrow(),
        "category": rows["LabelName"].to_arrow(),
        "bbox": rows["bbox"].to_arrow(),
        "bbox_mode": ["xyxy_norm"] * count,
        "iscrowd": rows["crowd"].to_arrow(),
        "ignore": rows["crowd"].to_arrow(),
        "attributes": rows["attributes" if others else "literal"].to_arrow(),
    }
    images = rows.group_by("ref", "stem", maintain_order=True).len()
    mentions = {
        "kind": ["label"] * images.height,
        "format": ["open_images"] * images.height,
        "ref": images["ref"].to_arrow(),
        "stem": images["stem"].to_arrow(),
        "instances": images["len"].to_arrow(),
    }
    return Delivery(
        kind="label",
        format="open_images",
        labels=_cast(labels, DELIVERED_LABELS),
        mentions=_cast(mentions, DELIVERED_MENTIONS),
    )


def read_class_descriptions(data: bytes, path: str) -> Delivery:
    """Read LabelName and DisplayName, with or without a header: names without numbers.

    A category's ``attributes`` have the LabelName.
    """
    lines = text_of(data, path).split("\n")
    if lines[0].replace('"', "").lower().startswith("labelname,"):
        lines[0] = "LabelName,DisplayName"
    else:
        lines.insert(0, "LabelName,DisplayName")
    frame = _frame("\n".join(lines), path)
    _refuse(frame, pl.col("DisplayName").is_null(), "DisplayName", "a name", path)
    columns = {
        "category": frame["DisplayName"].to_arrow(),
        "attributes": frame.select(pl.struct("LabelName").struct.json_encode()).to_series().to_arrow(),
    }
    return Delivery(kind="classes", format="open_images", categories=_cast(columns, DELIVERED_CATEGORIES))


def is_open_images(head: str) -> bool:
    """Whether the first line of a CSV file is that of boxes."""
    return set(_NEEDED) <= {cell.strip().strip('"') for cell in head.split(",")}


def is_class_descriptions(head: str) -> bool:
    """Whether the first line of a CSV file is that of class names."""
    cells = next(csv.reader([head.strip()]), [])
    return [cell.lower() for cell in cells] == ["labelname", "displayname"] or (
        len(cells) == 2 and _CLASS.match(head) is not None
    )


def _frame(text: str, path: str) -> pl.DataFrame:
    """The cells as texts, with ``__line``; rows of another length are refused by their line."""
    try:
        frame = pl.read_csv(text.encode(), infer_schema=False)
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        # An OSError: two first letters that polars takes for those of a compressed file.
        line, found = _ragged(text) or (1, str(error).split("\n", 1)[0])
        raise UnreadableError(path, found, line=line, expected="CSV with the cells of its header") from error
    if "__line" in frame.columns:
        raise UnreadableError(path, "the column __line", line=1, expected=EXPECTED)
    # A blank line is a row of nulls.
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    said = [number for number, line in enumerate(text.split("\n"), 1) if line and not line.isspace()]
    lines = said[1:]
    # A line feed inside quotes makes the lines of the rows unknown.
    column = pl.Series("__line", lines if len(lines) == frame.height else [None] * frame.height, pl.Int64)
    return frame.with_columns(column)


def _ragged(text: str) -> tuple[int, str] | None:
    lines = text.split("\n")
    wanted = lines[0].count(",")
    for number, line in enumerate(lines, 1):
        if '"' not in line and line and line.count(",") != wanted:
            return number, f"{line.count(',') + 1} cells, {quote(line)}"
    return None


def _refuse(frame: pl.DataFrame, bad: pl.Expr, name: str, expected: str, path: str) -> None:
    found = frame.filter(bad).head(1)
    if found.height:
        value, line = found.row(0, named=True)[name], found["__line"][0]
        raise UnreadableError(path, f"{value!r} as {name}", line=line, expected=expected)


def _cast(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    """Columns of a frame as a table; polars' long texts and lists become those of the schema."""
    length = max(len(values) for values in columns.values())  # type: ignore[arg-type]
    arrays = [
        pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(length, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)
