"""Running the rules over a batch of boxes: sound boxes out, and a finding for each broken rule."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from quality.measures import measure
from quality.rules import CORNERS, FINITE, RULES, SOUND, VALID_AFTER_CORRECTION, Rule

_WHO = ("dataset", "sample", "stem", "source", "instance", "line", "category")
_ROW = "__row"


@dataclass(frozen=True)
class Checked:
    """``boxes``: those that remain, with ``corrected`` and ``changes``; ``findings``: one row per broken
    rule.
    """

    boxes: pl.DataFrame
    findings: pl.DataFrame


def check_boxes(
    boxes: pl.DataFrame,
    *,
    correct: bool,
    rules: Sequence[Rule] = RULES,
    categories: Collection[str] | None = None,
) -> Checked:
    """Check boxes (columns as in :mod:`quality.rules`, and who they are) against ``rules``.

    With ``correct`` the corrections are made, and boxes that no correction can save are dropped; without it
    every box stays as delivered, and findings have no correction. What the rules look at beyond corners is
    measured where ``boxes`` lacks it, and left out again; ``categories`` is the data set's list of classes.
    """
    flagged = flag_boxes(boxes, rules, categories=categories)
    mended = _correct(flagged, rules) if correct else flagged
    changed = pl.any_horizontal(~pl.col(name).eq_missing(pl.col(f"__{name}")) for name in CORNERS)
    mended = mended.with_columns(flagged[name].alias(f"__{name}") for name in CORNERS).with_columns(
        changed.alias("__changed"), VALID_AFTER_CORRECTION.fill_null(value=False).alias("__valid")
    )
    broken = [rule for rule in rules if flagged[rule.name].any()] or rules[:1]
    findings = pl.concat(
        [_findings(rule, flagged, mended, correct=correct) for rule in broken], how="vertical"
    )
    return Checked(_kept(boxes, mended, correct=correct), findings)


def scan_boxes(
    boxes: pl.LazyFrame, rules: Sequence[Rule] = RULES, *, categories: Collection[str] | None = None
) -> pl.DataFrame:
    """The findings of boxes that stay where they are: a scan of Parquet or Delta, of any length.

    Only what is suspect is brought into memory. Rules that compare boxes with each other, or look into masks,
    would see too little that way; raises ValueError for them.
    """
    apart = {"ignore", "iscrowd", "listed"}
    for rule in rules:
        if not apart.issuperset(rule.measures):
            raise ValueError(f"the rule {rule.name} cannot be checked box by box; use check_boxes")
    names = boxes.collect_schema().names()
    wanted = {name for rule in rules for name in rule.measures}
    missing = [name for name in ("ignore", "iscrowd") if name in wanted - set(names)]
    if "listed" in wanted and "listed" not in names:
        listed = (
            pl.lit(None, pl.Boolean) if categories is None else pl.col("category").is_in(list(categories))
        )
        boxes = boxes.with_columns(listed.alias("listed"))
    scan = boxes.with_columns(pl.lit(value=False).alias(name) for name in missing)
    suspects = scan.filter(_suspect(rules)).collect(engine="streaming")
    return check_boxes(suspects, correct=False, rules=rules, categories=categories).findings


def _suspect(rules: Sequence[Rule]) -> pl.Expr:
    """True for every box that breaks one of ``rules``, and for few others."""
    suspect = ~SOUND
    for rule in rules:
        if not any(rule is strict for strict in RULES):
            suspect |= rule.broken.fill_null(value=False)
    return suspect


def flag_boxes(
    boxes: pl.DataFrame, rules: Sequence[Rule] = RULES, *, categories: Collection[str] | None = None
) -> pl.DataFrame:
    """The boxes that break a rule, with ``__row``, what was measured, and one boolean column per rule."""
    measured = measure(boxes, {name for rule in rules for name in rule.measures}, categories=categories)
    # One cheap look clears nearly all boxes, so that the rules themselves see only the rest.
    rows = measured.select(_suspect(rules).arg_true()).to_series()
    rest = measured[rows].with_columns(rows.cast(pl.UInt32).alias(_ROW))
    return rest.with_columns(rule.broken.fill_null(value=False).alias(rule.name) for rule in rules).filter(
        pl.any_horizontal(rule.name for rule in rules)
    )


def _correct(boxes: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    mending = boxes.lazy()
    for rule in rules:
        # Smallest and largest pass over nulls, so a box with a hole would come out as a sound one.
        if rule.correction:
            mending = mending.with_columns(
                pl.when(FINITE).then(mended).otherwise(pl.col(name)).alias(name)
                for name, mended in rule.correction.items()
            )
    return mending.collect()


def _kept(boxes: pl.DataFrame, mended: pl.DataFrame, *, correct: bool) -> pl.DataFrame:
    """All boxes with what was changed in them, less those that are lost."""
    kept = boxes.with_columns(
        pl.lit(value=False).alias("corrected"), pl.lit(None, pl.String).alias("changes")
    )
    new = mended.filter("__changed")
    if new.height:
        before = pl.struct(pl.col(f"__{name}").alias(name) for name in CORNERS).struct.json_encode()
        said = new.select(before).to_series()
        values = {**{name: new[name] for name in CORNERS}, "corrected": new["__changed"], "changes": said}
        rows = new[_ROW]
        kept = kept.with_columns(kept[name].clone().scatter(rows, value) for name, value in values.items())
    if not correct:
        return kept
    lost = mended.filter(~pl.col("__valid"))[_ROW]
    if lost.is_empty():
        return kept
    stays = pl.repeat(value=True, n=boxes.height, eager=True).scatter(lost, values=False)
    return kept.filter(stays)


def _findings(rule: Rule, flagged: pl.DataFrame, mended: pl.DataFrame, *, correct: bool) -> pl.DataFrame:
    """The findings of one rule, in the order of the boxes."""
    hit = flagged[rule.name]
    rows, after = flagged.filter(hit), mended.filter(hit)
    # The size of an image that is not there is not known.
    seen = pl.coalesce(pl.format("{} in {}x{}", _corners(), "width", "height"), _corners())
    done = pl.lit(None, pl.String)
    if correct and rule.severity == "error":
        done = (
            pl.when("__valid")
            .then(pl.format("{} to {}", pl.lit(rule.word), "__after"))
            .otherwise(pl.lit("dropped"))
        )
    rows = rows.with_columns(after["__valid"], after.select(_corners().alias("__after")).to_series())
    return rows.select(
        "dataset",
        pl.lit(rule.name).alias("rule"),
        pl.lit(rule.severity).alias("severity"),
        *(name for name in _WHO if name != "dataset"),
        (seen if rule.observed is None else rule.observed).cast(pl.String).alias("observed"),
        done.alias("correction"),
    )


def _corners() -> pl.Expr:
    return pl.concat_str(
        [pl.col(name).cast(pl.String).fill_null("none").str.strip_suffix(".0") for name in CORNERS],
        separator=",",
    )
