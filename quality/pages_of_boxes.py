"""Chapters about boxes; ``most`` limits the classes that are shown."""

from __future__ import annotations

import numpy as np
import polars as pl

from quality.page_kinds import (
    Bars,
    Chapter,
    Heat,
    Page,
    Points,
    Table,
    class_counts,
    described,
    histogram,
    row_of,
)

_OCCLUSION = {0: "fully visible", 1: "partly occluded", 2: "largely occluded", 3: "unknown"}


def object_count(boxes: pl.DataFrame, most: int | None) -> Chapter:
    """How many boxes each class has."""
    counts = class_counts(boxes).with_columns((100 * pl.col("n") / max(boxes.height, 1)).alias("percent"))
    shown = counts.head(most) if most else counts
    names = tuple(shown["category"].to_list())
    return Chapter(
        name="Object_count",
        title="Objects",
        pages=(
            Bars(title="Boxes per class", labels=names, series={"boxes": row_of(shown["n"])}, unit="boxes"),
            Bars(
                title="Share of each class",
                labels=names,
                series={"share": row_of(shown["percent"])},
                unit="% of all boxes",
                decimals=1,
            ),
            described("Boxes per class, statistics", [("boxes", counts["n"])]),
            Table(
                title="Classes",
                header=("Name", "Count", "Percentage"),
                rows=tuple((str(c), f"{n:,}", f"{p:.2f}") for c, n, p in counts.iter_rows()),
            ),
        ),
    )


def box_area(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
    """Areas of boxes, in pixels, of all and by class."""
    if boxes.is_empty():
        return None
    area = (
        boxes.group_by("category")
        .agg(
            pl.len().alias("n"),
            pl.col("area").mean().alias("mean"),
            pl.col("area").quantile(0.25).alias("low"),
            pl.col("area").quantile(0.75).alias("high"),
        )
        .sort(["n", "category"], descending=[True, False])
    )
    shown = area.head(most) if most else area
    each = [
        (name, boxes.filter(pl.col("category") == name)["area"])
        for name in class_counts(boxes)["category"].head(most or boxes.height)
    ]
    return Chapter(
        name="Area",
        title="Area of boxes",
        pages=(
            Points(
                title="Mean area per class, with the middle half",
                labels=tuple(shown["category"].to_list()),
                values=row_of(shown["mean"]),
                low=row_of(shown["low"]),
                high=row_of(shown["high"]),
                axis="square pixels",
            ),
            described("Area of all boxes, square pixels", [("area", boxes["area"])]),
            described("Area per class, square pixels", each),
        ),
    )


def occlusion(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
    """Levels of occlusion as KITTI has them; None where no box says one."""
    known = boxes.filter(pl.col("occlusion").is_in(list(_OCCLUSION)))
    if known.is_empty():
        return None
    levels = dict(known.group_by("occlusion").len().iter_rows())
    table = known.group_by("category", "occlusion").len("n")
    names = tuple(class_counts(known)["category"].head(most or known.height).to_list())
    by_class = {(category, level): n for category, level, n in table.iter_rows()}
    totals = {name: sum(by_class.get((name, level), 0) for level in _OCCLUSION) for name in names}
    return Chapter(
        name="Occlusion",
        title="Occlusion",
        pages=(
            Bars(
                title="Boxes per level of occlusion",
                labels=tuple(_OCCLUSION.values()),
                series={"share": tuple(100 * levels.get(level, 0) / known.height for level in _OCCLUSION)},
                unit="% of boxes with a level",
                decimals=1,
            ),
            Bars(
                title="Occlusion per class",
                labels=names,
                series={
                    word: tuple(100 * by_class.get((name, level), 0) / totals[name] for name in names)
                    for level, word in _OCCLUSION.items()
                },
                unit="% of the class",
                decimals=1,
            ),
        ),
    )


def truncation(boxes: pl.DataFrame) -> Chapter | None:
    """Truncated shares, of all boxes and by class; None where no box says one."""
    known = boxes.filter(pl.col("truncation").is_between(0, 1))
    if known.is_empty():
        return None
    counts = known.group_by(pl.col("truncation").round(1).alias("part")).len("n").sort("part")
    names = tuple(f"{part:.1f}" for part in counts["part"])
    return Chapter(
        name="Truncation",
        title="Truncation",
        pages=(
            Bars(
                title="Boxes by truncated part",
                labels=names,
                series={"boxes": row_of(counts["n"])},
                unit="boxes",
            ),
            Bars(
                title="Share of boxes by truncated part",
                labels=names,
                series={"share": row_of(100 * counts["n"] / known.height)},
                unit="% of boxes that say it",
                decimals=1,
            ),
        ),
    )


def box_shape(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
    """Widths, heights and aspects of boxes."""
    if boxes.is_empty():
        return None
    side = (boxes["box_width"] * boxes["box_height"]).sqrt()
    names = class_counts(boxes)["category"].head(most or boxes.height).to_list()
    sizes = boxes.with_columns(
        pl.when(pl.col("area") < 32**2)
        .then(pl.lit("small (below 32x32)"))
        .when(pl.col("area") < 96**2)
        .then(pl.lit("medium"))
        .otherwise(pl.lit("large (96x96 or more)"))
        .alias("size")
    )
    by_class = {(c, s): n for c, s, n in sizes.group_by("category", "size").len().iter_rows()}
    words = ("small (below 32x32)", "medium", "large (96x96 or more)")
    totals = {name: sum(by_class.get((name, word), 0) for word in words) for name in names}
    aspect = boxes.group_by("category").agg(
        pl.col("aspect").median().alias("middle"),
        pl.col("aspect").quantile(0.25).alias("low"),
        pl.col("aspect").quantile(0.75).alias("high"),
    )
    aspect = pl.DataFrame({"category": names}, schema={"category": pl.String}).join(
        aspect, on="category", how="left", maintain_order="left"
    )
    pages: list[Page] = [
        histogram("Aspect ratio", boxes["aspect"], "width / height", "boxes", log=True),
        Points(
            title="Aspect ratio per class, median and middle half",
            labels=tuple(names),
            values=row_of(aspect["middle"]),
            low=row_of(aspect["low"]),
            high=row_of(aspect["high"]),
            axis="width / height",
        ),
        histogram("Size of boxes", side, "square root of the area, pixels", "boxes", log=True),
        Bars(
            title="Size per class",
            labels=tuple(names),
            series={
                word: tuple(100 * by_class.get((name, word), 0) / totals[name] for name in names)
                for word in words
            },
            unit="% of the class",
            decimals=1,
        ),
    ]
    placed = boxes.filter((pl.col("width") > 0) & (pl.col("height") > 0))
    if not placed.is_empty():
        x = ((placed["xmin"] + placed["xmax"]) / 2 / placed["width"]).to_numpy()
        y = ((placed["ymin"] + placed["ymax"]) / 2 / placed["height"]).to_numpy()
        field, _, _ = np.histogram2d(y, x, bins=(24, 32), range=((0, 1), (0, 1)))
        pages.append(
            Heat(
                title="Where the centres of boxes lie",
                values=field,
                axes=("part of the width", "part of the height"),
            )
        )
    return Chapter(name="Box_shape", title="Shape and place of boxes", pages=tuple(pages))
