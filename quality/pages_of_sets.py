"""Chapters about images, classes and findings; ``most`` limits the classes that are shown."""

from __future__ import annotations

import numpy as np
import polars as pl

from quality.gate import Verdict
from quality.page_kinds import (
    Bars,
    Chapter,
    Histogram,
    Page,
    Table,
    class_counts,
    described,
    histogram,
    row_of,
)
from quality.review import Review
from quality.rules import FILE_RULES

_FINDINGS_SHOWN = 200


def image_sizes(review: Review) -> Chapter | None:
    """Widths, heights and areas of images."""
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
        described("Images, pixels", [("width", width), ("height", height), ("area", width * height)]),
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
        percent = row_of(100 * counts["count"] / len(values))
        return Bars(
            title=f"{title}, {unit}", labels=names, series={"share": percent}, unit="% of images", decimals=1
        )
    return histogram(title, values, unit, "% of images", share=True)


def invalid_boxes(review: Review, most: int | None) -> Chapter:
    """Boxes that break a rule, by rule and class."""
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
        hit = class_counts(boxes.filter(mask)).head(most or boxes.height)
        if not hit.is_empty():
            pages.append(
                Bars(
                    title=f"{name.capitalize()}, per class",
                    labels=tuple(hit["category"].to_list()),
                    series={"boxes": row_of(hit["n"])},
                    unit="boxes",
                )
            )
    return Chapter(name="Invalid_data", title="Invalid data", pages=tuple(pages))


def boxes_per_image(boxes: pl.DataFrame, review: Review, most: int | None) -> Chapter | None:
    """How many boxes, and which classes together, images have."""
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
                series={"images": row_of(shown["n"])},
                unit="images",
            ),
            described("Boxes per image, statistics", [("boxes", counts)]),
        ),
    )


def class_balance(review: Review, most: int | None) -> Chapter | None:
    """Shares, effective numbers and suggested weights of classes, by split and over time."""
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


def rule_findings(review: Review) -> Chapter | None:
    """The verdict of the gate, and what was found."""
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
