"""Rules about images and whole data sets: functions from frames to findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from quality.drift import Drift
from quality.limits import Limits
from quality.pictures import likeness, near_hashes
from quality.rules import FILE_RULES
from storage.schemas import FINDINGS

# What is learnt from comes first.
_RANKS = {"train": 0, "trainval": 0, "val": 1, "test": 2}
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


def uniform_images(images: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Images of nearly one colour. ``images`` with the columns of their looks (:mod:`quality.pictures`)."""
    rows = images.filter(pl.col("deviation") < limits.min_image_deviation)
    return _findings(
        "uniform_image", rows, pl.format("grey values deviate by {}", pl.col("deviation").round(2))
    )


def repeated_images(
    images: pl.DataFrame, limits: Limits, *, others: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Images that show the same: leaks where their splits differ, plain repetitions otherwise.

    Both frames have columns of the table ``images`` with their looks. Of two alike, the finding stands at the
    one that is not for training, else at the second in the order of names; an image has one finding, which
    names the first of those that it is like, images for training before others. Findings are of ``images``
    alone; they are compared with ``others``, which are ``images`` if not given.
    """
    pairs = alike(images, images if others is None else others, limits)
    pairs = pairs.filter("follows", likeness(pairs["pattern"], pairs["pattern_right"]) >= limits.min_likeness)
    first = pairs.sort("leaked", "rank_right", "sample_right", descending=[True, False, False]).unique(
        ["dataset", "sample"], keep="first", maintain_order=True
    )
    said = pl.format("shows what {} shows ({} of 63 bits differ)", "sample_right", "bits")
    leak = pl.format("{} image {}, which is of {}", "split", said, "split_right")
    parts = [
        _findings("leaked_image", first.filter("leaked"), leak),
        _findings("near_duplicate_image", first.filter(~pl.col("leaked")), said),
    ]
    return pl.concat(parts).sort("dataset", "sample")


def alike(images: pl.DataFrame, others: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Pairs of images of one data set with near hashes, their columns side by side (``_right``).

    ``leaked``: their splits differ, and one at most is for training; ``follows``: a finding of the pair
    stands at the first of them.
    """
    # One colour is like any other: those have a rule of their own.
    sound = pl.col("phash").is_not_null() & (pl.col("deviation") >= limits.min_image_deviation)
    rank = pl.col("split").replace_strict(_RANKS, default=9, return_dtype=pl.Int64)
    one, two = (frame.filter(sound).with_columns(rank.alias("rank")) for frame in (images, others))
    left, right = near_hashes(one["phash"], two["phash"], limits.hash_distance)
    pairs = pl.concat([one[left], two[right].rename(lambda name: f"{name}_right")], how="horizontal").filter(
        pl.col("dataset") == pl.col("dataset_right"), pl.col("sample") != pl.col("sample_right")
    )
    differ = pl.col("split").ne(pl.col("split_right")).fill_null(value=False)
    leaked = differ & (pl.max_horizontal("rank", "rank_right") > 0)
    behind = (pl.col("rank") > pl.col("rank_right")) | (
        (pl.col("rank") == pl.col("rank_right")) & (pl.col("split") > pl.col("split_right"))
    )
    follows = pl.when(leaked).then(behind).otherwise(pl.col("sample") > pl.col("sample_right"))
    bits = np.bitwise_count(pairs["phash"].to_numpy() ^ pairs["phash_right"].to_numpy())
    return pairs.with_columns(leaked.alias("leaked"), pl.Series("bits", bits, pl.Int64)).with_columns(
        follows.alias("follows")
    )


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
    if "source" not in rows.columns:
        rows = rows.rename({"key": "source"}, strict=False)
    who = [name for name in ("dataset", "sample", "stem", "source") if name in rows.columns]
    return as_findings(rows.select(*who, pl.lit(rule).alias("rule"), observed.alias("observed")))
