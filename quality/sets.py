"""Rules about images and whole data sets: functions from frames to findings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from quality.drift import Drift
from quality.limits import Limits
from quality.pictures import Look, same_pictures
from quality.rules import FILE_RULES
from storage.schemas import FINDINGS

_INTEGERS = {"instance", "line", "batch"}
FINDING_COLUMNS: dict[str, type[pl.DataType]] = {
    name: pl.Int64 if name in _INTEGERS else pl.String for name in FINDINGS.names
}


def images_without_label(images: pl.DataFrame) -> pl.DataFrame:
    """Images (columns of the table ``images``) of which no label file speaks."""
    rows = images.filter(~pl.col("labelled").fill_null(value=False))
    return _findings("image_without_label", rows, pl.format("{}x{} {}", "width", "height", "format"))


def declared_sizes(mentions: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Label files that declare another size than the image has, or the right one swapped.

    ``mentions`` as in the table, with the column ``sample`` of the image each speaks of. Images count as they
    are shown, with their EXIF orientation.
    """
    shown = images.select("dataset", "sample", "exif_orientation", shown_width="width", shown_height="height")
    rows = (
        mentions.filter((pl.col("width") > 0) & (pl.col("height") > 0))
        .join(shown, on=["dataset", "sample"], how="inner")
        .filter((pl.col("width") != pl.col("shown_width")) | (pl.col("height") != pl.col("shown_height")))
    )
    swapped = (pl.col("width") == pl.col("shown_height")) & (pl.col("height") == pl.col("shown_width"))
    observed = pl.format(
        "{}x{} declared, {}x{} shown{}",
        "width",
        "height",
        "shown_width",
        "shown_height",
        pl.when(pl.col("exif_orientation") > 1)
        .then(pl.format(" (EXIF orientation {})", "exif_orientation"))
        .otherwise(pl.lit("")),
    )
    return pl.concat(
        [
            _findings("swapped_size", rows.filter(swapped), observed),
            _findings("declared_size", rows.filter(~swapped), observed),
        ]
    )


def uniform_images(images: pl.DataFrame, looks: Mapping[str, Look], limits: Limits) -> pl.DataFrame:
    """Images of nearly one colour. ``looks`` by sample."""
    flat = {
        name: look.deviation for name, look in looks.items() if look.deviation < limits.min_image_deviation
    }
    rows = images.filter(pl.col("sample").is_in(list(flat)))
    deviation = pl.col("sample").replace_strict(flat, default=None, return_dtype=pl.Float64)
    return _findings("uniform_image", rows, pl.format("grey values deviate by {}", deviation.round(2)))


def repeated_images(images: pl.DataFrame, looks: Mapping[str, Look], limits: Limits) -> pl.DataFrame:
    """Images that show the same: leaks where their splits differ, plain repetitions otherwise.

    The finding stands at the second of a pair in the order of names; of a leak, at the one that is not for
    training.
    """
    rows = images.filter(pl.col("sample").is_in(list(looks)))
    known = {row["sample"]: row for row in rows.iter_rows(named=True)}
    # One colour is like any other: those have a rule of their own.
    seen = {n: k for n, k in looks.items() if k.deviation >= limits.min_image_deviation and n in known}
    found = []
    for first, second, bits, likeness in same_pictures(
        seen, distance=limits.hash_distance, likeness=limits.min_likeness
    ):
        one, two = known[first], known[second]
        leaked = one["split"] and two["split"] and one["split"] != two["split"]
        if leaked and two["split"] == "train":
            one, two = two, one
        said = f"shows what {one['sample']} shows ({bits} of 64 bits, likeness {likeness:.3f})"
        if leaked:
            said = f"{two['split']} image {said}, which is of {one['split']}"
        found.append(
            {**_who(two), "rule": "leaked_image" if leaked else "near_duplicate_image", "observed": said}
        )
    return findings_of(found)


def drift_findings(dataset: str, drifts: Iterable[Drift], limits: Limits) -> pl.DataFrame:
    """The drifts beyond their limits."""
    beyond = [drift for drift in drifts if drift.beyond(limits)]
    return findings_of(
        [
            {"dataset": dataset, "rule": "class_drift", "category": drift.moved, "observed": str(drift)}
            for drift in beyond
        ]
    )


def findings_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame with the columns of the table ``findings``; the severity is the rule's if not given."""
    words = {name: severity for name, (severity, _) in FILE_RULES.items()}
    full = [
        {name: row.get(name) for name in FINDING_COLUMNS}
        | {"severity": row.get("severity") or words.get(str(row["rule"]), "warning")}
        for row in rows
    ]
    return pl.DataFrame(full, schema=FINDING_COLUMNS)


def as_findings(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame with some of the columns of ``findings``, completed and in order; missing severities filled."""
    words = {name: severity for name, (severity, _) in FILE_RULES.items()}
    missing = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in FINDING_COLUMNS.items()
        if name not in frame.columns
    ]
    known = pl.col("rule").replace_strict(words, default="warning", return_dtype=pl.String)
    return (
        frame.with_columns(missing)
        .with_columns(pl.coalesce("severity", known).alias("severity"))
        .select(pl.col(name).cast(dtype) for name, dtype in FINDING_COLUMNS.items())
    )


def _findings(rule: str, rows: pl.DataFrame, observed: pl.Expr) -> pl.DataFrame:
    who = [name for name in ("dataset", "sample", "stem", "source") if name in rows.columns]
    return as_findings(rows.select(*who, pl.lit(rule).alias("rule"), observed.alias("observed")))


def _who(image: Mapping[str, Any]) -> dict[str, Any]:
    return {name: image.get(name) for name in ("dataset", "sample", "stem")} | {"source": image.get("key")}


def count_rules(findings: pl.DataFrame, rules: Collection[str]) -> int:
    """How many findings are of one of ``rules``."""
    return findings.filter(pl.col("rule").is_in(list(rules))).height
