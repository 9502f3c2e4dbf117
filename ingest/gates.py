"""The gate of a data set, judged from the tables of the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from quality.balance import Balance, balance_of_counts
from quality.drift import Drift, drift_between_splits, drift_over_drops
from quality.gate import GateResult, Thresholds, judge
from quality.limits import Limits
from quality.rules import RULES, advisory_rules
from storage.lake import Lake, Snapshot

# Users' suites stand under stems of their own, see :mod:`ingest.set_findings`.
_UNMET = "stem LIKE '/%' AND rule <> 'class_drift'"


@dataclass(frozen=True, kw_only=True)
class DatasetState:
    """What the gate looked at, and what it said."""

    dataset: str
    images: int
    labelled_images: int
    delivered: int
    """Instances as delivered, those that wait for their image among them."""
    balance: Balance
    by_split: Mapping[str, Balance]
    split_drift: tuple[Drift, ...]
    """Every two splits, the most different first."""
    drop_drift: Drift | None
    """The newest batch that brought enough boxes, against all before it."""
    gate: GateResult


def judge_dataset(
    lake: Lake,
    dataset: str,
    thresholds: Thresholds | None = None,
    *,
    limits: Limits | None = None,
    versions: Snapshot | None = None,
) -> DatasetState:
    """Judge a data set as the tables have it, newest or at ``versions``."""
    limit = limits or Limits()
    errors, warnings = (", ".join(f"'{rule.name}'" for rule in rules) for rules in (RULES, advisory_rules()))
    counts = lake.sql(
        f"""SELECT
          (SELECT count(*) FROM images WHERE dataset = $1) AS images,
          (SELECT count(*) FROM images WHERE dataset = $1 AND labelled) AS labelled,
          (SELECT count(*) FROM labels WHERE dataset = $1) AS delivered,
          (SELECT count(DISTINCT (source, instance)) FROM findings
            WHERE dataset = $1 AND severity = 'error' AND rule IN ({errors})) AS invalid,
          (SELECT count(DISTINCT (source, instance)) FROM findings
            WHERE dataset = $1 AND rule IN ({warnings})) AS doubtful,
          (SELECT count(DISTINCT sample) FROM findings
            WHERE dataset = $1 AND rule = 'leaked_image') AS leaked,
          (SELECT count(DISTINCT (stem, rule)) FROM findings
            WHERE dataset = $1 AND severity = 'error' AND {_UNMET}) AS unmet_errors,
          (SELECT count(DISTINCT (stem, rule)) FROM findings
            WHERE dataset = $1 AND severity <> 'error' AND {_UNMET}) AS unmet_warnings,
          (SELECT count(*) FROM newest WHERE dataset = $1 AND state <> 'removed') AS objects,
          (SELECT count(*) FROM newest WHERE dataset = $1 AND state = 'quarantined') AS quarantined
        """,
        parameters=[dataset],
        versions=versions,
    ).to_pylist()[0]
    mix = _mix(lake, dataset, versions)
    balance = balance_of_counts(mix)
    by_split = _parts(mix, "split")
    split_drift = tuple(drift_between_splits(by_split, limit))
    drops = drift_over_drops(_parts(mix, "batch"), limit)
    drop_drift = drops[-1] if drops else None
    gate = judge(
        balance=balance,
        delivered=counts["delivered"],
        invalid=counts["invalid"],
        objects=counts["objects"],
        quarantined=counts["quarantined"],
        doubtful=counts["doubtful"],
        leaked=counts["leaked"],
        drifts=(*split_drift, *([drop_drift] if drop_drift else [])),
        unmet_errors=counts["unmet_errors"],
        unmet_warnings=counts["unmet_warnings"],
        thresholds=thresholds,
    )
    return DatasetState(
        dataset=dataset,
        images=counts["images"],
        labelled_images=counts["labelled"],
        delivered=counts["delivered"],
        balance=balance,
        by_split=by_split,
        split_drift=split_drift,
        drop_drift=drop_drift,
        gate=gate,
    )


def _mix(lake: Lake, dataset: str, versions: Snapshot | None) -> pl.DataFrame:
    """Boxes and images of every class in every split of every batch."""
    return lake.sql(
        """SELECT category, split, batch, sum(boxes)::BIGINT AS boxes, count(*) AS images
           FROM (SELECT a.sample, a.category, a.batch, i.split, count(*) AS boxes
                 FROM annotations a LEFT JOIN images i ON i.dataset = a.dataset AND i.sample = a.sample
                 WHERE a.dataset = $1 AND NOT coalesce(a.ignore, false) GROUP BY ALL)
           GROUP BY category, split, batch""",
        parameters=[dataset],
        versions=versions,
    ).polars()


def _parts(mix: pl.DataFrame, column: str) -> dict[str, Balance]:
    known = mix.filter(pl.col(column).is_not_null()).sort(column)
    parts = known.partition_by(column, as_dict=True, maintain_order=True)
    return {str(key[0]): balance_of_counts(part) for key, part in parts.items()}
