"""Running the rules over a batch of boxes: sound boxes out, and a finding for each broken rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from quality.rules import CORNERS, FINITE, RULES, VALID_AFTER_CORRECTION, Rule

_WHO = ("dataset", "sample", "stem", "source", "instance", "line", "category")


@dataclass(frozen=True)
class Checked:
    """``boxes``: those that remain, with ``corrected`` and ``changes``; ``findings``: one row per broken
    rule.
    """

    boxes: pl.DataFrame
    findings: pl.DataFrame


def check_boxes(boxes: pl.DataFrame, *, correct: bool, rules: Sequence[Rule] = RULES) -> Checked:
    """Check boxes (columns as in :mod:`quality.rules`, and who they are) against ``rules``.

    With ``correct`` the corrections are made, and boxes that no correction can save are dropped; without it
    every box stays as delivered, and findings have no correction.
    """
    row = "__row"
    delivered = boxes.with_row_index(row)
    flags = delivered.select(row, *(rule.broken.fill_null(value=False).alias(rule.name) for rule in rules))
    broken = flags.filter(pl.any_horizontal(rule.name for rule in rules))
    mended = _correct(delivered, rules) if correct else delivered
    valid = mended.select(row, VALID_AFTER_CORRECTION.fill_null(value=False).alias("__valid"))

    parts = [_findings(rule, delivered, mended, broken, valid, correct=correct) for rule in rules]
    findings = pl.concat(parts, how="vertical")

    changed = pl.any_horizontal(~mended[name].eq_missing(delivered[name]) for name in CORNERS)
    before = pl.struct(delivered[name] for name in CORNERS).struct.json_encode()
    kept = mended.with_columns(changed.alias("corrected")).with_columns(
        pl.when("corrected").then(before).otherwise(None).alias("changes")
    )
    if correct:
        kept = kept.filter(valid["__valid"])
    return Checked(kept.drop(row), findings)


def _correct(boxes: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    for rule in rules:
        # Smallest and largest pass over nulls, so a box with a hole would come out as a sound one.
        boxes = boxes.with_columns(
            pl.when(FINITE).then(mended).otherwise(pl.col(name)).alias(name)
            for name, mended in rule.correction.items()
        )
    return boxes


def _findings(
    rule: Rule,
    delivered: pl.DataFrame,
    mended: pl.DataFrame,
    broken: pl.DataFrame,
    valid: pl.DataFrame,
    *,
    correct: bool,
) -> pl.DataFrame:
    """The findings of one rule, in the order of the boxes."""
    hit = broken.filter(pl.col(rule.name)).select("__row")
    rows = hit.join(delivered, on="__row", how="left", maintain_order="left")
    seen = pl.format("{} in {}x{}", _corners(), "width", "height")
    done = pl.lit(None, pl.String)
    if correct:
        after = mended.select("__row", _corners().alias("__after"))
        rows = rows.join(after, on="__row", how="left", maintain_order="left").join(
            valid, on="__row", how="left", maintain_order="left"
        )
        done = (
            pl.when("__valid")
            .then(pl.format("{} to {}", pl.lit(rule.word), "__after"))
            .otherwise(pl.lit("dropped"))
        )
    return rows.select(
        "dataset",
        pl.lit(rule.name).alias("rule"),
        pl.lit(rule.severity).alias("severity"),
        *(name for name in _WHO if name != "dataset"),
        seen.alias("observed"),
        done.alias("correction"),
    )


def _corners() -> pl.Expr:
    return pl.concat_str(
        [pl.col(name).cast(pl.String).fill_null("none").str.strip_suffix(".0") for name in CORNERS],
        separator=",",
    )
