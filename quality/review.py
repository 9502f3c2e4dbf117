"""One data set looked at as a whole: every rule, the balance, the drift and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from quality.balance import Balance, balances_by, class_balance
from quality.check import Checked, check_boxes
from quality.drift import Drift, drift_between_splits, drift_over_drops
from quality.gate import GateResult, Thresholds, judge
from quality.limits import Limits
from quality.pictures import LOOK_COLUMNS, Look, looks_frame
from quality.rules import RULES, Rule, advisory_rules
from quality.sets import (
    as_findings,
    declared_sizes,
    drift_findings,
    images_without_label,
    repeated_images,
    uniform_images,
)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is known of one data set; columns as in :mod:`storage.schemas`."""

    dataset: str
    format: str
    """The form of its labels, or several with a comma."""
    images: pl.DataFrame
    boxes: pl.DataFrame
    """Annotation columns before any correction, with ``line, width, height`` of the image."""
    mentions: pl.DataFrame
    """What label files say of images, with the ``sample`` that each is of."""
    categories: tuple[str, ...] = ()
    """The classes that the data set lists; empty where it has no list."""
    remarks: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Findings made while reading."""
    pixels: bool = True
    """Whether the images themselves are there, not only what labels say of them."""
    files: int = 0
    unreadable: int = 0


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the rules say of a data set."""

    material: Material
    checked: Checked
    findings: pl.DataFrame
    """All findings, with the columns of the table, errors first."""
    balance: Balance
    by_split: Mapping[str, Balance]
    by_drop: Mapping[str, Balance]
    split_drift: tuple[Drift, ...]
    drop_drift: tuple[Drift, ...]
    gate: GateResult
    rules: tuple[Rule, ...]

    @cached_property
    def boxes(self) -> pl.DataFrame:
        """The boxes as delivered, with ``split`` and one boolean column ``broke_<rule>`` per error rule."""
        found = self.findings.filter(pl.col("rule").is_in([rule.name for rule in RULES])).select(
            "source", "instance", "rule", broke=pl.lit(value=True)
        )
        marks = [f"broke_{rule.name}" for rule in RULES]
        wide = found.pivot("rule", index=["source", "instance"], values="broke", aggregate_function="first")
        wide = wide.rename({rule.name: f"broke_{rule.name}" for rule in RULES}, strict=False)
        wide = wide.with_columns(
            pl.lit(None, pl.Boolean).alias(name) for name in marks if name not in wide.columns
        )
        return (
            _with_split(self.material)
            .join(
                wide.select("source", "instance", *(pl.col(name).cast(pl.Boolean) for name in marks)),
                on=["source", "instance"],
                how="left",
                maintain_order="left",
            )
            .with_columns(pl.col(name).fill_null(value=False) for name in marks)
        )

    @cached_property
    def invalid(self) -> pl.Series:
        """Which boxes break an error rule."""
        return self.boxes.select(pl.any_horizontal(f"broke_{rule.name}" for rule in RULES)).to_series()


def review(
    material: Material,
    *,
    correct: bool = False,
    looks: Mapping[str, Look] | None = None,
    limits: Limits | None = None,
    thresholds: Thresholds | None = None,
    rules: tuple[Rule, ...] | None = None,
) -> Review:
    """Run all rules over a data set and judge it. ``looks`` by sample, where pixels were looked at."""
    limit = limits or Limits()
    chosen = (*RULES, *advisory_rules(limit)) if rules is None else rules
    checked = check_boxes(
        material.boxes, correct=correct, rules=chosen, categories=material.categories or None
    )
    # Balance and drift are of what can be learnt from, so of sound boxes only.
    sound = checked.boxes if correct else _sound(checked, material)
    kept = _with_split(material, sound)
    balance = class_balance(kept)
    by_split = balances_by(kept, "split")
    by_drop = balances_by(kept, "batch") if "batch" in kept.columns else {}
    split_drift = drift_between_splits(by_split, limit)
    drop_drift = drift_over_drops(by_drop, limit)

    parts = [as_findings(checked.findings)]
    if not material.remarks.is_empty():
        parts.append(as_findings(material.remarks))
    parts.append(images_without_label(material.images))
    if material.pixels:
        parts.append(declared_sizes(material.mentions, material.images))
    if looks:
        seen = material.images.drop(LOOK_COLUMNS, strict=False).join(looks_frame(looks), on="sample")
        parts += [uniform_images(seen, limit), repeated_images(seen, limit)]
    parts.append(drift_findings(material.dataset, [*split_drift, *drop_drift], limit))
    findings = _in_order(pl.concat(parts))
    gate = judge(
        balance=balance,
        delivered=material.boxes.height,
        invalid=_boxes_with(checked.findings, "error"),
        objects=max(material.files, material.unreadable),
        quarantined=material.unreadable,
        doubtful=_boxes_with(checked.findings, "warning"),
        leaked=findings.filter(pl.col("rule") == "leaked_image")["sample"].n_unique(),
        drifts=(*split_drift, *drop_drift),
        thresholds=thresholds,
    )
    return Review(
        material=material,
        checked=checked,
        findings=findings,
        balance=balance,
        by_split=by_split,
        by_drop=by_drop,
        split_drift=tuple(split_drift),
        drop_drift=tuple(drop_drift),
        gate=gate,
        rules=tuple(chosen),
    )


def _sound(checked: Checked, material: Material) -> pl.DataFrame:
    bad = checked.findings.filter(pl.col("severity") == "error").select("source", "instance").unique()
    return material.boxes.join(bad, on=["source", "instance"], how="anti", maintain_order="left")


def _with_split(material: Material, boxes: pl.DataFrame | None = None) -> pl.DataFrame:
    frame = (material.boxes if boxes is None else boxes).drop("split", strict=False)
    splits = material.images.select("sample", "split").unique("sample")
    return frame.join(splits, on="sample", how="left", maintain_order="left")


def _boxes_with(findings: pl.DataFrame, severity: str) -> int:
    return findings.filter(pl.col("severity") == severity).select("source", "instance").unique().height


def _in_order(findings: pl.DataFrame) -> pl.DataFrame:
    rank = pl.col("severity").replace_strict(
        {"error": 0, "warning": 1, "info": 2}, default=3, return_dtype=pl.Int64
    )
    return findings.sort(rank, "rule", "sample", "source", "instance", nulls_last=True, maintain_order=True)
