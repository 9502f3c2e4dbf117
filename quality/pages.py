"""What a report on a data set shows: chapters of charts and tables, as data that anything can draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from quality.gate import Verdict
from quality.review import Review
from quality.rules import FILE_RULES

MOST_CLASSES = 100
_STATISTICS = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")
_OCCLUSION = {0: "fully visible", 1: "partly occluded", 2: "largely occluded", 3: "unknown"}
_FINDINGS_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars, one group per label; ``series`` has one list of values for each colour."""

    title: str
    labels: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    unit: str
    decimals: int = 0


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Upright bars over bins; ``edges`` has one number more than ``values``."""

    title: str
    edges: tuple[float, ...]
    values: tuple[float, ...]
    axis: str
    unit: str
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Points:
    """A point per label with the range from ``low`` to ``high``, on a logarithmic axis."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: str


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A field of counts: ``values[row, column]``, the first row on top."""

    title: str
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    axes: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; numbers are shown as they are given."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Page = Bars | Histogram | Points | Heat | Table


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Pages on one matter; ``name`` is that of its files."""

    name: str
    title: str
    pages: tuple[Page, ...]


def chapters(review: Review, *, show_all: bool = False) -> list[Chapter]:
    """All chapters that the data has something for, those of TAO's analytics under their names first.

    Counts are of valid boxes, ignored regions among them, as TAO counts. Charts show the first 100 classes
    unless ``show_all``.
    """
    boxes = review.boxes.filter(~review.invalid).with_columns(
        ((pl.col("xmax") - pl.col("xmin")) * (pl.col("ymax") - pl.col("ymin"))).alias("area"),
        ((pl.col("xmax") - pl.col("xmin")) / (pl.col("ymax") - pl.col("ymin"))).alias("aspect"),
        (pl.col("xmax") - pl.col("xmin")).alias("box_width"),
        (pl.col("ymax") - pl.col("ymin")).alias("box_height"),
    )
    most = None if show_all else MOST_CLASSES
    found = [
        _object_count(boxes, most),
        _area(boxes, most),
        _image(review),
        _occlusion(boxes, most),
        _truncation(boxes),
        _invalid(review, most),
        _shape(boxes, most),
        _per_image(boxes, review, most),
        _balance(review, most),
        _findings(review),
    ]
    return [chapter for chapter in found if chapter]


def _counts(boxes: pl.DataFrame) -> pl.DataFrame:
    return boxes.group_by("category").len("n").sort(["n", "category"], descending=[True, False])


def _object_count(boxes: pl.DataFrame, most: int | None) -> Chapter:
    counts = _counts(boxes).with_columns((100 * pl.col("n") / max(boxes.height, 1)).alias("percent"))
    shown = counts.head(most) if most else counts
    names = tuple(shown["category"].to_list())
    return Chapter(
        name="Object_count",
        title="Objects",
        pages=(
            Bars(title="Boxes per class", labels=names, series={"boxes": _row(shown["n"])}, unit="boxes"),
            Bars(
                title="Share of each class",
                labels=names,
                series={"share": _row(shown["percent"])},
                unit="% of all boxes",
                decimals=1,
            ),
            _described("Boxes per class, statistics", [("boxes", counts["n"])]),
            Table(
                title="Classes",
                header=("Name", "Count", "Percentage"),
                rows=tuple((str(c), f"{n:,}", f"{p:.2f}") for c, n, p in counts.iter_rows()),
            ),
        ),
    )


def _area(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
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
        for name in _counts(boxes)["category"].head(most or boxes.height)
    ]
    return Chapter(
        name="Area",
        title="Area of boxes",
        pages=(
            Points(
                title="Mean area per class, with the middle half",
                labels=tuple(shown["category"].to_list()),
                values=_row(shown["mean"]),
                low=_row(shown["low"]),
                high=_row(shown["high"]),
                axis="square pixels",
            ),
            _described("Area of all boxes, square pixels", [("area", boxes["area"])]),
            _described("Area per class, square pixels", each),
        ),
    )


def _image(review: Review) -> Chapter | None:
    images = review.material.images.filter(pl.col("width").is_not_null() & pl.col("height").is_not_null())
    if images.is_empty():
        return None
    width, height = images["width"].cast(pl.Float64), images["height"].cast(pl.Float64)
    sizes = (
        images.group_by("width", "height").len("n").sort(["n", "width", "height"], descending=True).head(30)
    )
    pages: list[Page] = [
        _share_of_images("Images by area", width * height / 1e6, "megapixels"),
        _share_of_images("Images by width", width, "pixels"),
        _share_of_images("Images by height", height, "pixels"),
        _described("Images, pixels", [("width", width), ("height", height), ("area", width * height)]),
        Table(
            title="Sizes",
            header=("Width", "Height", "Images"),
            rows=tuple((str(w), str(h), f"{n:,}") for w, h, n in sizes.iter_rows()),
        ),
    ]
    return Chapter(name="Image", title="Images", pages=tuple(pages))


def _share_of_images(title: str, values: pl.Series, unit: str) -> Page:
    """One bar for each value where there are few, else a histogram."""
    counts = values.value_counts(sort=False).sort(values.name)
    if counts.height <= 12:
        names = tuple(f"{value:g}" if value >= 10 else f"{value:.2f}" for value in counts[values.name])
        percent = _row(100 * counts["count"] / len(values))
        return Bars(
            title=f"{title}, {unit}", labels=names, series={"share": percent}, unit="% of images", decimals=1
        )
    return _histogram(title, values, unit, "% of images", share=True)


def _occlusion(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
    known = boxes.filter(pl.col("occlusion").is_in(list(_OCCLUSION)))
    if known.is_empty():
        return None
    levels = dict(known.group_by("occlusion").len().iter_rows())
    table = known.group_by("category", "occlusion").len("n")
    names = tuple(_counts(known)["category"].head(most or known.height).to_list())
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


def _truncation(boxes: pl.DataFrame) -> Chapter | None:
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
                series={"boxes": _row(counts["n"])},
                unit="boxes",
            ),
            Bars(
                title="Share of boxes by truncated part",
                labels=names,
                series={"share": _row(100 * counts["n"] / known.height)},
                unit="% of boxes that say it",
                decimals=1,
            ),
        ),
    )


def _invalid(review: Review, most: int | None) -> Chapter:
    boxes = review.boxes
    outside = boxes["broke_negative_coordinate"] | boxes["broke_beyond_image"]
    kinds = {
        "inverted": boxes["broke_inverted_box"],
        "out of bounds": outside,
        "zero area": boxes["broke_zero_area"],
        "no box": boxes["broke_missing_box"] | boxes["broke_not_finite"],
    }
    counts = {
        "valid": int((~review.invalid).sum()),
        **{name: int(mask.sum()) for name, mask in kinds.items()},
    }
    pages: list[Page] = [
        Bars(
            title="Valid and invalid boxes",
            labels=tuple(counts),
            series={"boxes": tuple(float(n) for n in counts.values())},
            unit="boxes",
        )
    ]
    for name, mask in kinds.items():
        hit = _counts(boxes.filter(mask)).head(most or boxes.height)
        if not hit.is_empty():
            pages.append(
                Bars(
                    title=f"{name.capitalize()}, per class",
                    labels=tuple(hit["category"].to_list()),
                    series={"boxes": _row(hit["n"])},
                    unit="boxes",
                )
            )
    return Chapter(name="Invalid_data", title="Invalid data", pages=tuple(pages))


def _shape(boxes: pl.DataFrame, most: int | None) -> Chapter | None:
    if boxes.is_empty():
        return None
    side = (boxes["box_width"] * boxes["box_height"]).sqrt()
    names = _counts(boxes)["category"].head(most or boxes.height).to_list()
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
        _histogram("Aspect ratio", boxes["aspect"], "width / height", "boxes", log=True),
        Points(
            title="Aspect ratio per class, median and middle half",
            labels=tuple(names),
            values=_row(aspect["middle"]),
            low=_row(aspect["low"]),
            high=_row(aspect["high"]),
            axis="width / height",
        ),
        _histogram("Size of boxes", side, "square root of the area, pixels", "boxes", log=True),
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


def _per_image(boxes: pl.DataFrame, review: Review, most: int | None) -> Chapter | None:
    images = review.material.images
    if images.is_empty():
        return None
    counts = (
        images.select("sample")
        .unique()
        .join(boxes.group_by("sample").len("n"), on="sample", how="left")["n"]
        .fill_null(0)
        .cast(pl.Float64)
    )
    shown = (
        boxes.group_by("category")
        .agg(pl.col("sample").n_unique().alias("n"))
        .sort(["n", "category"], descending=[True, False])
        .head(most or boxes.height)
    )
    top = int(counts.max() or 0)  # type: ignore[arg-type]
    edges = np.arange(-0.5, top + 1.5) if top <= 60 else np.linspace(-0.5, top + 0.5, 41)
    values, _ = np.histogram(counts.to_numpy(), bins=edges)
    return Chapter(
        name="Boxes_per_image",
        title="Boxes per image",
        pages=(
            Histogram(
                title="Boxes per image",
                edges=tuple(map(float, edges)),
                values=tuple(map(float, values)),
                axis="boxes",
                unit="images",
            ),
            Bars(
                title="Images per class",
                labels=tuple(shown["category"].to_list()),
                series={"images": _row(shown["n"])},
                unit="images",
            ),
            _described("Boxes per image, statistics", [("boxes", counts)]),
        ),
    )


def _balance(review: Review, most: int | None) -> Chapter | None:
    balance = review.balance
    if not balance.classes:
        return None
    weights, factors = balance.class_weights(), balance.repeat_factors()
    pages: list[Page] = [
        Table(
            title="Balance of classes, without ignored regions",
            header=(
                "Class",
                "Boxes",
                "Images",
                "Share",
                "Largest / this",
                "Effective number",
                "Weight",
                "Draw",
            ),
            rows=tuple(
                (
                    c.category,
                    f"{c.boxes:,}",
                    f"{c.images:,}",
                    f"{c.share:.2%}",
                    f"{c.ratio_to_largest:.1f}",
                    f"{c.effective_number():.1f}",
                    f"{weights[c.category]:.3f}",
                    f"{factors[c.category]:.2f}",
                )
                for c in balance.classes
            ),
        )
    ]
    names = tuple(c.category for c in balance.classes)[:most]
    for word, parts, drifts in (
        ("split", review.by_split, review.split_drift),
        ("drop", review.by_drop, review.drop_drift),
    ):
        if len(parts) < 2:
            continue
        pages.append(
            Bars(
                title=f"Share of each class per {word}",
                labels=names,
                series={
                    name: tuple(100 * part.counts.get(c, 0) / max(part.boxes, 1) for c in names)
                    for name, part in list(parts.items())[-8:]
                },
                unit=f"% of the {word}",
                decimals=1,
            )
        )
        pages.append(
            Table(
                title=f"Balance per {word}",
                header=(word.capitalize(), "Boxes", "Classes", "Largest / smallest", "Entropy"),
                rows=tuple(
                    (name, f"{b.boxes:,}", str(len(b.classes)), f"{b.imbalance:.1f}", f"{b.entropy:.3f}")
                    for name, b in parts.items()
                ),
            )
        )
        if drifts:
            pages.append(
                Table(
                    title=f"Drift between {word}s",
                    header=("From", "To", "JS divergence", "PSI", "Most moved", "From", "To"),
                    rows=tuple(
                        (
                            d.reference,
                            d.current,
                            f"{d.js_divergence:.4f}",
                            f"{d.psi:.4f}",
                            d.moved,
                            f"{d.share_before:.1%}",
                            f"{d.share_after:.1%}",
                        )
                        for d in drifts
                    ),
                )
            )
    return Chapter(name="Balance", title="Balance", pages=tuple(pages))


def _findings(review: Review) -> Chapter | None:
    findings = review.findings
    if findings.is_empty() and review.gate.verdict is Verdict.PASS:
        return None
    documents = {name: text for name, (_, text) in FILE_RULES.items()}
    documents |= {rule.name: rule.documentation for rule in review.rules}
    counts = findings.group_by("rule", "severity", maintain_order=True).len("n")
    shown = findings.head(_FINDINGS_SHOWN)
    columns = {
        "Rule": "rule",
        "Image": "sample",
        "Class": "category",
        "Line": "line",
        "Seen": "observed",
        "Done": "correction",
    }
    columns = {head: name for head, name in columns.items() if shown[name].null_count() < shown.height}
    more = findings.height - shown.height
    return Chapter(
        name="Findings",
        title="Findings",
        pages=(
            Table(
                title="Rules broken",
                header=("Rule", "Severity", "Findings", "What it means"),
                rows=tuple((r, s, f"{n:,}", documents.get(r, "")) for r, s, n in counts.iter_rows()),
            ),
            Table(
                title=f"Findings{f', the first {_FINDINGS_SHOWN} of {findings.height:,}' if more else ''}",
                header=tuple(columns),
                rows=tuple(
                    tuple("" if value is None else str(value) for value in row)
                    for row in shown.select(*columns.values()).iter_rows()
                ),
            ),
        ),
    )


def _described(title: str, columns: Sequence[tuple[str, pl.Series]]) -> Table:
    """Count, mean, standard deviation and quartiles of each column."""
    rows = []
    for name, values in columns:
        given = values.cast(pl.Float64).drop_nulls()
        numbers = [given.mean(), given.std(), given.min()]
        numbers += [given.quantile(q, "linear") for q in (0.25, 0.5, 0.75)] + [given.max()]
        said = ["" if n is None else f"{n:,.2f}" for n in numbers]  # type: ignore[str-bytes-safe]
        rows.append((name, f"{len(given):,}", *said))
    return Table(title=title, header=("", *_STATISTICS), rows=tuple(rows))


def _histogram(
    title: str, values: pl.Series, axis: str, unit: str, *, log: bool = False, share: bool = False
) -> Histogram:
    given = values.drop_nulls().to_numpy()
    given = given[np.isfinite(given) & ((given > 0) | (not log))]
    low, high = (float(given.min()), float(given.max())) if len(given) else (1.0, 2.0)
    if high <= low:
        high = low * 1.01 + 0.01
    edges = np.geomspace(low, high, 41) if log else np.linspace(low, high, 31)
    counts, _ = np.histogram(given, bins=edges)
    heights = 100 * counts / max(len(given), 1) if share else counts
    return Histogram(
        title=title,
        edges=tuple(map(float, edges)),
        values=tuple(map(float, heights)),
        axis=axis,
        unit=unit,
        log=log,
    )


def _row(values: pl.Series) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
