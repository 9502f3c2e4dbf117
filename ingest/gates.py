"""The gate of a data set, judged from the tables of the lake."""

from __future__ import annotations

from dataclasses import dataclass

from quality.balance import Balance, class_balance
from quality.gate import GateResult, Thresholds, judge
from quality.rules import RULES
from storage.lake import Lake, Snapshot


@dataclass(frozen=True)
class DatasetState:
    """What the gate looked at, and what it said."""

    dataset: str
    images: int
    labelled_images: int
    delivered: int
    """Instances as delivered, those that wait for their image among them."""
    balance: Balance
    gate: GateResult


def judge_dataset(
    lake: Lake, dataset: str, thresholds: Thresholds | None = None, *, versions: Snapshot | None = None
) -> DatasetState:
    """Judge a data set as the tables have it, newest or at ``versions``."""
    rules = ", ".join(f"'{rule.name}'" for rule in RULES)
    counts = lake.sql(
        f"""SELECT
          (SELECT count(*) FROM images WHERE dataset = $1) AS images,
          (SELECT count(*) FROM images WHERE dataset = $1 AND labelled) AS labelled,
          (SELECT count(*) FROM labels WHERE dataset = $1) AS delivered,
          (SELECT count(DISTINCT (source, instance)) FROM findings
            WHERE dataset = $1 AND severity = 'error' AND rule IN ({rules})) AS invalid,
          (SELECT count(*) FROM newest WHERE dataset = $1 AND state <> 'removed') AS objects,
          (SELECT count(*) FROM newest WHERE dataset = $1 AND state = 'quarantined') AS quarantined
        """,
        parameters=[dataset],
        versions=versions,
    ).to_pylist()[0]
    annotations = lake.sql(
        "SELECT category, sample, ignore FROM annotations WHERE dataset = $1",
        parameters=[dataset],
        versions=versions,
    ).polars()
    balance = class_balance(annotations)
    gate = judge(
        balance=balance,
        delivered=counts["delivered"],
        invalid=counts["invalid"],
        objects=counts["objects"],
        quarantined=counts["quarantined"],
        thresholds=thresholds,
    )
    return DatasetState(
        dataset=dataset,
        images=counts["images"],
        labelled_images=counts["labelled"],
        delivered=counts["delivered"],
        balance=balance,
        gate=gate,
    )
