"""Images, boxes and classes as the writers take them, from tables of the lake or straight from readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa

from storage import schemas
from storage.errors import ConfigError
from transforms.delivery import Delivery, route_of
from transforms.normalise import absolute_polygons, corners

_OWN_IMAGE = ("image", "source", "ref", "file_name", "width", "height", "split", "format", "attributes")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a writer needs to know.

    ``images``: one row per image, in order: image (a number from 0), source, ref (path without extension),
    file_name (null where unknown), width, height, split, format, attributes. ``boxes``: one row per
    instance, in order: ``image``, and the columns of the table ``labels``. ``categories``: category_id,
    category, attributes. ``documents``: JSON of what files say of themselves.
    """

    images: pl.DataFrame
    boxes: pl.DataFrame
    categories: pl.DataFrame
    documents: tuple[str, ...] = ()
    only_listed: bool = False
    """Whether the files say that the images are there, and nothing of what is on them."""

    def absolute(self) -> pl.DataFrame:
        """The boxes with ``xmin, ymin, xmax, ymax`` and polygons in pixels of their images.

        Raises :class:`ConfigError` where a box is in parts of an image whose size nobody has said.
        """
        sizes = self.images.select("image", "width", "height")
        boxes = self.boxes.join(sizes, on="image", how="left", maintain_order="left")
        relative = pl.col("bbox_mode").str.ends_with("_norm") & (pl.col("bbox").is_not_null())
        unknown = boxes.filter(relative & (pl.col("width").is_null() | pl.col("height").is_null()))
        if unknown.height:
            raise _size_unknown(unknown["ref"][0], "its boxes are parts of the image")
        boxes = corners(boxes)
        # A sum of two decimals has digits that neither had: 0.1 + 0.2 is 0.30000000000000004.
        made = pl.col("bbox_mode") != "xyxy"
        rounded = [
            pl.when(made).then(pl.col(name).round_sig_figs(12)).otherwise(pl.col(name)).alias(name)
            for name in ("xmin", "ymin", "xmax", "ymax")
        ]
        return absolute_polygons(boxes.with_columns(rounded))

    def with_sizes_needed(self) -> Collection:
        """The same; raises :class:`ConfigError` where a box in pixels is of an image of unknown size."""
        pixels = self.boxes.filter(~pl.col("bbox_mode").str.ends_with("_norm"))["image"].unique()
        sizes = self.images.filter(pl.col("image").is_in(pixels.implode()))
        unknown = sizes.filter(
            ~(pl.col("width") > 0).fill_null(value=False) | ~(pl.col("height") > 0).fill_null(value=False)
        )
        if unknown.height:
            raise _size_unknown(unknown["ref"][0], "the target wants parts of the image")
        return self

    def with_images(self, files: Mapping[str, tuple[str, int | None, int | None]]) -> Collection:
        """Fill in file names and sizes of images.

        ``files`` gives, per path without extension, the file name, width and height. An image is found by its
        ref, or by the part of it that names no role (``label_2/000010`` finds ``image_2/000010``).
        """
        routes = {route_of(ref): value for ref, value in files.items()}
        found = [files.get(ref) or routes.get(route_of(ref)) for ref in self.images["ref"]]
        columns = pl.DataFrame(
            {
                "__name": [value[0] if value else None for value in found],
                "__width": [value[1] if value else None for value in found],
                "__height": [value[2] if value else None for value in found],
            },
            schema={"__name": pl.String, "__width": pl.Int32, "__height": pl.Int32},
        )
        images = self.images.hstack(columns).with_columns(
            pl.coalesce("__name", "file_name").alias("file_name"),
            pl.coalesce("__width", "width").alias("width"),
            pl.coalesce("__height", "height").alias("height"),
        )
        return replace(self, images=images.select(_OWN_IMAGE))


def of_deliveries(deliveries: Iterable[tuple[str, Delivery]]) -> Collection:
    """A collection of what readers gave, each with the path of its file."""
    parts: dict[str, list[pa.Table]] = {"labels": [], "mentions": [], "categories": []}
    for source, delivery in deliveries:
        for name, tables in parts.items():
            rows = getattr(delivery, name)
            tables.append(rows.append_column("source", pa.repeat(pa.scalar(source), rows.num_rows)))
    return of_labels(**{name: _table(tables, name) for name, tables in parts.items()})


def of_labels(labels: pa.Table, mentions: pa.Table, categories: pa.Table) -> Collection:
    """A collection of labels as delivered: rows of the tables of these names, of one data set, in order."""
    said, rows, names = (_frame(table) for table in (mentions, labels, categories))
    splits = (
        said.filter(pl.col("kind") == "split")
        .group_by(pl.col("ref").map_elements(route_of, return_dtype=pl.String).alias("__route"))
        .agg(pl.col("split").first().alias("__split"))
    )
    images = (
        said.filter(pl.col("kind") == "label")
        .with_row_index("image")
        .with_columns(
            pl.col("image").cast(pl.Int64),
            pl.col("ref").map_elements(route_of, return_dtype=pl.String).alias("__route"),
            _file_name().alias("file_name"),
        )
        .join(splits, on="__route", how="left", maintain_order="left")
        .with_columns(pl.coalesce("split", "__split").alias("split"))
    )
    owners = images.select("source", "ref", "image").unique(["source", "ref"], maintain_order=True)
    boxes = rows.join(owners, on=["source", "ref"], how="inner", maintain_order="left")
    lists = names.filter(~pl.col("source").is_in(images["source"].unique().implode()))
    first = lists.filter(pl.col("category_id").is_not_null()).unique(
        "category_id", keep="first", maintain_order=True
    )
    boxes = boxes.join(
        first.select("category_id", pl.col("category").alias("__name")),
        on="category_id",
        how="left",
        maintain_order="left",
    ).with_columns(pl.coalesce("category", "__name").alias("category"))
    documents = said.filter((pl.col("kind") == "file") & pl.col("attributes").is_not_null())["attributes"]
    return Collection(
        images=images.select(_OWN_IMAGE),
        boxes=boxes.drop("__name"),
        categories=names.select("category_id", "category", "attributes"),
        documents=tuple(documents),
        only_listed=images.height > 0 and images["instances"].is_null().all(),
    )


def of_annotations(annotations: pa.Table, images: pa.Table, labels: pa.Table | None = None) -> Collection:
    """A collection of checked boxes: rows of the tables ``annotations`` and ``images`` of one data set.

    Boxes that no rule has changed take their numbers as delivered where ``labels`` has them, so that what is
    written is what came in.
    """
    pictures = (
        _frame(images)
        .sort("sample")
        .with_row_index("image")
        .select(
            pl.col("image").cast(pl.Int64),
            pl.col("key").alias("source"),
            pl.col("sample").alias("ref"),
            _below("key", "sample").alias("file_name"),
            "width",
            "height",
            "split",
            pl.lit(None, pl.String).alias("format"),
            pl.lit(None, pl.String).alias("attributes"),
        )
    )
    boxes = _frame(annotations).join(
        pictures.select(pl.col("ref").alias("sample"), "image"), on="sample", how="inner"
    )
    boxes = boxes.with_columns(
        pl.col("sample").alias("ref"),
        pl.concat_list("xmin", "ymin", "xmax", "ymax").alias("bbox"),
        pl.lit("xyxy").alias("bbox_mode"),
    )
    if labels is None:
        boxes = boxes.with_columns(
            pl.lit(None, pl.String).alias("format"), pl.lit(None, pl.Int64).alias("category_id")
        )
    else:
        delivered = _frame(labels).select(
            "source", "instance", "format", "category_id", "bbox", "bbox_mode", "segmentation"
        )
        boxes = boxes.join(delivered, on=["source", "instance"], how="left", suffix="_0")
        whole = ~pl.col("corrected").fill_null(value=True) & pl.col("bbox_0").is_not_null()
        boxes = boxes.with_columns(
            pl.when(whole).then(pl.col(f"{name}_0")).otherwise(pl.col(name)).alias(name)
            for name in ("bbox", "bbox_mode", "segmentation")
        )
    boxes = boxes.sort("image", "source", "instance")
    names = boxes.select(pl.col("category").drop_nulls().unique().sort())
    categories = names.select(
        pl.lit(None, pl.Int64).alias("category_id"), "category", pl.lit(None, pl.String).alias("attributes")
    )
    return Collection(images=pictures, boxes=boxes, categories=categories)


def _size_unknown(ref: str, why: str) -> ConfigError:
    return ConfigError(
        f"{ref}: the size of this image is not known, and {why}; name the folder of images", ref=ref
    )


def _file_name() -> pl.Expr:
    """The image's own name where the file says it and it fits the ref (a VOC file may name another)."""
    attributes = pl.col("attributes").fill_null("{}")
    named = pl.coalesce(
        attributes.str.json_path_match(f"$.{key}") for key in ("file_name", "filename", "imagePath", "name")
    )
    name = named.str.replace_all("\\", "/", literal=True).str.split("/").list.last()
    own = pl.col("ref").str.split("/").list.last()
    fits = name.str.starts_with(pl.concat_str(own, pl.lit(".")))
    folder = pl.col("ref").str.strip_suffix(own)
    whole = pl.when(pl.col("format") == "coco").then(named).otherwise(pl.concat_str(folder, name))
    return pl.when(fits | (pl.col("format") == "coco")).then(whole).otherwise(None)


def _below(key: str, sample: str) -> pl.Expr:
    """The part of a key that names the image below its data set: the sample with its extension."""
    extension = pl.col(key).str.extract(r"(\.[^./]*)$").fill_null("")
    ends = pl.col(sample).str.ends_with(extension) & (extension != "")
    return pl.when(ends).then(pl.col(sample)).otherwise(pl.concat_str(sample, extension))


def _table(tables: list[pa.Table], name: str) -> pa.Table:
    if tables:
        return pa.concat_tables(tables)
    return schemas.without(schemas.TABLES[name], "dataset", "batch").empty_table()


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
