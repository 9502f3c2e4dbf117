"""What objects say, as the columns of the lake's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from storage import schemas

IMAGE_COLUMNS = (
    *("dataset", "sample", "stem", "key", "uri", "version", "size_bytes", "width", "height", "channels"),
    *("bit_depth", "format", "exif_orientation", "phash", "deviation", "pattern"),
)


def images_table(rows: Sequence[tuple[object, ...]]) -> pa.Table:
    """The table of images from rows of :data:`IMAGE_COLUMNS`; what they lack is null."""
    columns = dict(zip(IMAGE_COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}
    schema = schemas.without(schemas.IMAGES, "batch")
    return pa.table(
        [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(rows), f.type)
            for f in schema
        ],
        schema=schema,
    )


def with_columns(table: pa.Table, constants: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """Add constant columns and bring the table into the order of ``schema``."""
    wanted = schemas.without(schema, "batch")
    columns = [
        pa.repeat(pa.scalar(constants[f.name], f.type), table.num_rows)
        if f.name in constants
        else table[f.name]
        for f in wanted
    ]
    return pa.table(columns, schema=wanted)
