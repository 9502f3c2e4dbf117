"""Labels as delivered become boxes in absolute pixels of the image they belong to.

The unit of work is the *group*: everything of a data set that shares a stem. What comes out is a function
of what the group holds now, whatever came first, so a group that changed in any way is normalised again as
a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import polars as pl

from storage import schemas
from transforms.delivery import route_of, without_extension

_SPLIT_FOLDER = re.compile(r"(train|val|valid|validation|test)(?:ing)?[-_]?\d*", re.IGNORECASE)
_SPLIT_NAMES = {"valid": "val", "validation": "val"}
_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2, "trainval": 3}

# YOLO files give six digits, so an edge that lies on the border can miss it by this part of the image.
_ROUNDING = 2e-6
_ROW = "__row"


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What the lake and the present batch hold of some groups; columns as in :mod:`storage.schemas`."""

    images: pl.DataFrame
    mentions: pl.DataFrame
    labels: pl.DataFrame
    categories: pl.DataFrame
    """All class lists of the data sets concerned: these are not tied to a stem."""


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """``images`` with sample, split and labelled filled in; ``boxes`` ready for the rules (annotation
    columns, and ``line, width, height``); ``remarks``: findings about files, with the columns of the table
    ``findings``.
    """

    images: pl.DataFrame
    boxes: pl.DataFrame
    remarks: pl.DataFrame
    matched: pl.DataFrame
    """The mentions of labels whose image is there, with its ``sample``."""


def normalise(groups: Groups, *, label_order: Sequence[str] = (), prefixes: Mapping[str, str]) -> Normalised:
    """Join labels to images, choose one label file per image, and turn boxes into absolute corners.

    ``label_order`` names folders or files (prefixes of the path below the data set) whose labels win where
    several speak of one image. ``prefixes`` gives, per data set, the part of a key that leads to it.
    """
    images = _samples(groups.images, prefixes)
    matched, unmatched = _match(groups.mentions.filter(pl.col("kind") == "label"), images)
    chosen, passed_over = _choose(matched, label_order, prefixes)
    images, split_remarks = _splits(images, groups.mentions.filter(pl.col("kind") == "split"))
    labelled = chosen.select("dataset", "sample").unique()
    images = images.join(
        labelled.with_columns(labelled=True), on=["dataset", "sample"], how="left"
    ).with_columns(pl.col("labelled").fill_null(value=False))

    boxes = _of_images(groups, chosen, images)
    nameless = boxes.filter(pl.col("category").is_null())
    if nameless.height:
        boxes = boxes.filter(pl.col("category").is_not_null())
    boxes = absolute_polygons(corners(boxes))

    remarks = pl.concat(
        [
            _remark(
                unmatched.filter(pl.col("candidates") == 0),
                "unknown_image",
                pl.format("{} instances wait for the image {}", pl.col("instances").fill_null(0), "ref"),
            ),
            _remark(
                unmatched.filter(pl.col("candidates") > 0),
                "ambiguous_image",
                pl.format("{} images fit the name {}", "candidates", "ref"),
            ),
            _remark(
                passed_over, "competing_labels", pl.format("{} speaks of this image as well", "chosen_source")
            ),
            _remark(
                nameless.group_by("dataset", "source", "ref", "sample", "stem", "category_id").agg(
                    pl.len().alias("n")
                ),
                "unknown_category",
                pl.format("{} boxes of class number {}", "n", "category_id"),
            ),
            split_remarks,
        ]
    )
    return Normalised(images=images.drop("route"), boxes=boxes, remarks=remarks, matched=matched)


def dataset_path(key: str, prefix: str) -> str:
    """The path of a key below its data set."""
    return key[len(prefix) :] if prefix and key.startswith(prefix) else key


def _samples(images: pl.DataFrame, prefixes: Mapping[str, str]) -> pl.DataFrame:
    """Give every image its sample name; where two differ in the extension alone, the later keeps its own."""
    images = images.sort("dataset", "key")
    datasets, keys = images["dataset"].to_list(), images["key"].to_list()
    paths = [dataset_path(key, prefixes.get(name, "")) for name, key in zip(datasets, keys, strict=True)]
    names = list(map(without_extension, paths))
    routes = list(map(route_of, names))
    taken = set(zip(datasets, names, strict=True))
    if len(taken) < len(names):
        taken.clear()
        for place, owner in enumerate(zip(datasets, names, strict=True)):
            if owner in taken:
                names[place] = paths[place]
            taken.add((owner[0], names[place]))
    return images.with_columns(
        pl.Series("sample", names, pl.String), pl.Series("route", routes, pl.String)
    ).drop("split", "labelled")


def _match(mentions: pl.DataFrame, images: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find the image of each mention. Returns mentions with ``sample, exact``, and those left over with the
    number of ``candidates`` (0, or several that fit equally well).

    Without the folders that only name a role, the two paths are the same, or one is the end of the other.
    """
    mentions = mentions.with_row_index("__mention").with_columns(
        pl.Series("route", list(map(route_of, mentions["ref"].to_list())), pl.String)
    )
    # Two images of one route (a.jpg and a.png) are no two candidates: the first in order is meant.
    targets = images.group_by("dataset", "stem", "route", maintain_order=True).first()
    pairs = mentions.join(
        targets.select("dataset", "stem", "sample", pl.col("route").alias("image_route")),
        on=["dataset", "stem"],
        how="inner",
    )
    exact = pl.col("route") == pl.col("image_route")
    tail = pl.col("image_route").str.ends_with(pl.concat_str(pl.lit("/"), "route")) | pl.col(
        "route"
    ).str.ends_with(pl.concat_str(pl.lit("/"), "image_route"))
    pairs = pairs.with_columns(exact=exact).filter(exact | tail)
    pairs = pairs.filter(pl.col("exact") | ~pl.col("exact").any().over("__mention"))
    pairs = pairs.with_columns(candidates=pl.len().over("__mention"))
    matched = pairs.filter(pl.col("candidates") == 1)
    left_over = (
        mentions.join(matched.select("__mention"), on="__mention", how="anti")
        .join(pairs.select("__mention", "candidates").unique(), on="__mention", how="left")
        .with_columns(pl.col("candidates").fill_null(0), sample=pl.col("ref"))
    )
    return matched.drop("image_route", "candidates"), left_over


def _choose(
    matched: pl.DataFrame, label_order: Sequence[str], prefixes: Mapping[str, str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One source per image: as configured, else the one that has instances, fits exactly, and comes first.

    Sources that only list images (``instances`` is null) say nothing of labels and compete with nobody.
    """
    speaking = matched.filter(pl.col("instances").is_not_null())
    ranks = [
        next((i for i, start in enumerate(label_order) if path.startswith(start)), len(label_order))
        for path in (
            dataset_path(source, prefixes.get(dataset, ""))
            for dataset, source in speaking.select("dataset", "source").iter_rows()
        )
    ]
    ordered = (
        speaking.with_columns(pl.Series("__rank", ranks, pl.Int64), pl.col("instances").eq(0).alias("__none"))
        .sort("__rank", "__none", pl.col("exact").not_(), "source", "ref")
        .with_columns(chosen_source=pl.col("source").first().over("dataset", "sample"))
    )
    mine = pl.col("source") == pl.col("chosen_source")
    return ordered.filter(mine), ordered.filter(~mine)


def _splits(images: pl.DataFrame, lists: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Fill ``split`` from list files, else from a folder named train, val or test."""
    matched, _ = _match(lists, images)
    order = pl.col("split").replace_strict(_SPLIT_ORDER, default=9, return_dtype=pl.Int64)
    named = (
        matched.with_columns(__order=order)
        .sort("__order", "split", "source")
        .group_by("dataset", "sample", "stem", maintain_order=True)
        .agg(
            pl.col("split").first(),
            pl.col("source").first(),
            pl.col("ref").first(),
            pl.col("split").filter(pl.col("split") != "trainval").unique(maintain_order=True).alias("__all"),
        )
    )
    remarks = _remark(
        named.filter(pl.col("__all").list.len() > 1),
        "several_splits",
        pl.format("listed in {}", pl.col("__all").list.join(", ")),
    )
    folders = pl.Series(
        "__folder", [_split_of_folders(sample.rpartition("/")[0]) for sample in images["sample"]], pl.String
    )
    filled = (
        images.with_columns(folders)
        .join(named.select("dataset", "sample", "split"), on=["dataset", "sample"], how="left")
        .with_columns(pl.coalesce("split", "__folder").alias("split"))
        .drop("__folder")
    )
    return filled, remarks


@lru_cache(maxsize=10_000)
def _split_of_folders(folders: str) -> str | None:
    for folder in folders.split("/"):
        if found := _SPLIT_FOLDER.fullmatch(folder):
            name = found.group(1).lower()
            return _SPLIT_NAMES.get(name, name)
    return None


def _of_images(groups: Groups, chosen: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """The labels of chosen mentions, named and in order, with ``sample, width, height``.

    Who they are is joined and sorted by itself; labels are wide, and are copied once, or not at all where
    they lie in order.
    """
    labels = groups.labels
    # A file that speaks of an image twice has its boxes once.
    sizes = chosen.select("dataset", "source", "ref", "sample").unique(maintain_order=True)
    sizes = sizes.join(
        images.select("dataset", "sample", "width", "height"), on=["dataset", "sample"], how="inner"
    )
    named = labels.select("dataset", "source", "ref", "instance", "category_id", "category")
    who = named.with_row_index(_ROW).join(
        sizes, on=["dataset", "source", "ref"], how="inner", maintain_order="left"
    )
    who = _name_categories(who, groups.categories).sort("dataset", "sample", "source", "instance")
    rows = who[_ROW]
    as_they_lie = len(rows) == labels.height and (rows == pl.int_range(len(rows), eager=True)).all()
    found = labels if as_they_lie else labels[rows]
    return found.with_columns(who.select("sample", "width", "height", "category"))


def _name_categories(boxes: pl.DataFrame, categories: pl.DataFrame) -> pl.DataFrame:
    """Fill in the category of boxes that came with a number only, from the data set's class file.

    Of several class files the first in the order of their keys counts, shallow folders before deep ones.
    """
    if categories.is_empty():
        return boxes
    files = categories.filter(pl.col("source").is_in(_class_files(categories).implode()))
    first = (
        files.with_columns(__depth=pl.col("source").str.count_matches("/"))
        .sort("__depth", "source")
        .group_by("dataset", "category_id", maintain_order=True)
        .agg(pl.col("category").first().alias("__name"))
    )
    return (
        boxes.join(first, on=["dataset", "category_id"], how="left")
        .with_columns(pl.coalesce("category", "__name").alias("category"))
        .drop("__name")
    )


def _class_files(categories: pl.DataFrame) -> pl.Series:
    # A COCO file's numbers are its own affair and its labels carry their names already.
    return categories.filter(~pl.col("source").str.to_lowercase().str.ends_with(".json"))["source"].unique()


def corners(boxes: pl.DataFrame) -> pl.DataFrame:
    """``bbox`` in its delivered mode to ``xmin, ymin, xmax, ymax`` in absolute pixels."""
    a, b, c, d = (pl.col("bbox").list.get(i, null_on_oob=True) for i in range(4))
    mode, width, height = pl.col("bbox_mode"), pl.col("width"), pl.col("height")

    def pick(xyxy: pl.Expr, xywh: pl.Expr, centre: pl.Expr, size: pl.Expr) -> pl.Expr:
        return (
            pl.when(mode == "xyxy")
            .then(xyxy)
            .when(mode == "xywh")
            .then(xywh)
            .when(mode == "xyxy_norm")
            .then(on_border(xyxy * size, size))
            .otherwise(on_border(centre * size, size))
        )

    def on_border(value: pl.Expr, size: pl.Expr) -> pl.Expr:
        near_zero = value.abs() <= _ROUNDING * size
        near_end = (value - size).abs() <= _ROUNDING * size
        return pl.when(near_zero).then(0.0).when(near_end).then(size.cast(pl.Float64)).otherwise(value)

    return boxes.with_columns(
        pick(a, a, a - c / 2, width).alias("xmin"),
        pick(b, b, b - d / 2, height).alias("ymin"),
        pick(c, a + c, a + c / 2, width).alias("xmax"),
        pick(d, b + d, b + d / 2, height).alias("ymax"),
    )


def absolute_polygons(boxes: pl.DataFrame) -> pl.DataFrame:
    """Polygons in parts of the image (YOLO) to pixels; all others are in pixels already."""
    relative = (boxes["bbox_mode"] == "cxcywh_norm") & boxes["segmentation"].is_not_null()
    if not relative.any():
        return boxes
    texts: list[str | None] = boxes["segmentation"].to_list()
    sizes = boxes.select("width", "height").rows()
    for row in relative.arg_true():
        polygons = msgspec.json.decode(texts[row] or "[]", type=list[list[float]])
        scaled = [[value * sizes[row][i % 2] for i, value in enumerate(polygon)] for polygon in polygons]
        texts[row] = msgspec.json.encode(scaled).decode()
    return boxes.with_columns(pl.Series("segmentation", texts, pl.String))


def _remark(rows: pl.DataFrame, rule: str, observed: pl.Expr) -> pl.DataFrame:
    """Findings about files; severity is filled in by whoever knows the rules."""
    frame = rows.select(
        "dataset",
        pl.lit(rule).alias("rule"),
        pl.col("sample"),
        pl.col("stem"),
        pl.col("source"),
        observed.alias("observed"),
    )
    missing = [field.name for field in schemas.FINDINGS if field.name not in frame.columns]
    types = {"instance": pl.Int64, "line": pl.Int64, "batch": pl.Int64}
    return frame.with_columns(
        pl.lit(None, types.get(name, pl.String)).alias(name) for name in missing
    ).select(schemas.FINDINGS.names)
