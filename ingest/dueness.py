"""When a pipeline begins: what is new since its last execution, how long ago that was, how classes are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from ingest.gates import DatasetState
from quality.balance import Balance, balance_of_counts
from quality.drift import Drift, compare, drift_over_drops
from quality.gate import Verdict
from quality.limits import Limits
from storage.errors import LakeError
from storage.lake import Lake


@dataclass(frozen=True, kw_only=True)
class When:
    """Any of the conditions that are set begins an execution, where the gate lets it and the data differ from
    those of the last one.
    """

    gate: Verdict = Verdict.WARN
    """The worst verdict that is good enough."""
    new_images: int | None = None
    """Labelled images that the last execution had not."""
    changed_images: int | None = None
    """Labelled images that it had not, or had with other pixels or boxes."""
    every_h: float | None = None
    """Hours since it began."""
    drift: float | None = None
    """Jensen-Shannon divergence (0 to 1) of the classes of what has come since the last execution from what
    it had, or of one drop since from all before it."""
    imbalance: float | None = None
    """Boxes of the largest class to those of the smallest, which had been fewer at the last execution."""
    manual: bool = False
    """Only by hand."""
    settle_s: float = 0.0
    """Nothing has been committed for so long."""


def why_due(
    lake: Lake,
    dataset: str,
    when: When,
    snapshot: Mapping[str, int],
    last: Mapping[str, Any] | None,
    *,
    now: datetime,
) -> str | None:
    """Why an execution is due; empty where only the state of the classes can tell, None where it is not.

    ``last`` is a row of the execution before, if there was one.
    """
    new, changed = _changes(lake, dataset, snapshot, last)
    if not changed:
        return None
    if when.new_images is not None and new >= max(when.new_images, 1):
        return f"{new} new labelled images"
    if when.changed_images is not None and changed >= max(when.changed_images, 1):
        return f"{changed} new or changed labelled images"
    if when.every_h is not None and (
        last is None or now - last["submitted_at"] >= timedelta(hours=when.every_h)
    ):
        return f"{when.every_h:g} hours have passed"
    return "" if when.drift is not None or when.imbalance is not None else None


def why_by_classes(
    lake: Lake,
    dataset: str,
    when: When,
    state: DatasetState,
    snapshot: Mapping[str, int],
    last: Mapping[str, Any] | None,
    *,
    limits: Limits,
) -> str:
    """The reason that the classes give; empty where they give none.

    What an execution has read is no reason for another one: neither a drop that it had, nor an imbalance that
    was there. Mixes of fewer than ``limits.min_drift_boxes`` boxes are not compared.
    """
    if when.drift is None and when.imbalance is None:
        return ""
    had = _drops(lake, dataset, json.loads(last["snapshot"])) if last else {}
    if when.drift is not None:
        drifts = _drifts(_drops(lake, dataset, snapshot), had, limits)
        far = max(drifts, key=lambda drift: drift.js_divergence, default=None)
        if far is not None and far.js_divergence >= when.drift:
            return f"the classes drift: {far}"
    now = state.balance
    if when.imbalance is not None and now.classes and now.imbalance >= when.imbalance:
        before = _together(had.values())
        if not (before.classes and before.imbalance >= when.imbalance):
            return f"the classes are {now.imbalance:.3g} to 1"
    return ""


def _drifts(drops: Mapping[int, Balance], had: Mapping[int, Balance], limits: Limits) -> list[Drift]:
    """Every drop since the last execution against all before it, and all of them against what it had.

    A drop may have come in many batches: the first of them shows it, or all together where each is small.
    """
    newest = max(had, default=-1)
    since = {number: balance for number, balance in drops.items() if number > newest}
    names = {f"drop {number}" for number in since}
    found = drift_over_drops({str(number): balance for number, balance in drops.items()}, limits)
    chosen = [drift for drift in found if drift.current in names]
    before, after = _together(had.values()), _together(since.values())
    if min(before.boxes, after.boxes) >= limits.min_drift_boxes:
        whole = compare("the last execution", before.counts, "what came since", after.counts)
        chosen += [whole] if whole else []
    return chosen


def _drops(lake: Lake, dataset: str, versions: Mapping[str, int]) -> dict[int, Balance]:
    """The classes of every batch, in order; empty where that version has been vacuumed away."""
    try:
        rows = lake.sql(
            """SELECT batch, category, count(*) AS boxes, count(DISTINCT sample) AS images FROM annotations
               WHERE dataset = $1 AND NOT coalesce(ignore, false) GROUP BY ALL ORDER BY batch""",
            parameters=[dataset],
            versions={"annotations": versions["annotations"]},
        ).polars()
    except LakeError:
        return {}
    parts = rows.partition_by("batch", as_dict=True, maintain_order=True)
    return {int(key[0]): balance_of_counts(part) for key, part in parts.items()}


def _together(balances: Iterable[Balance]) -> Balance:
    rows = [(one.category, one.boxes, one.images) for balance in balances for one in balance.classes]
    schema = {"category": pl.String, "boxes": pl.Int64, "images": pl.Int64}
    return balance_of_counts(pl.DataFrame(rows, schema=schema, orient="row"))


def _changes(
    lake: Lake, dataset: str, snapshot: Mapping[str, int], last: Mapping[str, Any] | None
) -> tuple[int, int]:
    """Labelled images that are new since ``last``, and those that are new, other or gone."""
    now = _state(lake, dataset, snapshot)
    if last is None:
        return len(now), len(now)
    try:
        before = _state(lake, dataset, json.loads(last["snapshot"]))
    except LakeError:
        # That version has been vacuumed away: count instead of comparing.
        new = max(len(now) - int(last["labelled_images"] or 0), 0)
        return new, new
    new = len(now.keys() - before.keys())
    same = sum(before.get(sample) == state for sample, state in now.items())
    return new, len(now) - same + len(before.keys() - now.keys())


def _state(lake: Lake, dataset: str, versions: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Of every labelled image its version, and a hash of its boxes."""
    rows = lake.sql(
        """SELECT i.sample, any_value(i.version) AS version,
                  coalesce(sum(hash(a.category, a.xmin, a.ymin, a.xmax, a.ymax, a.ignore)
                               % 1000000007), 0)::BIGINT AS boxes
           FROM images i LEFT JOIN annotations a ON a.dataset = i.dataset AND a.sample = i.sample
           WHERE i.dataset = $1 AND i.labelled GROUP BY i.sample""",
        parameters=[dataset],
        versions={name: versions[name] for name in ("images", "annotations")},
    ).arrow()
    columns = (rows[name].to_pylist() for name in ("sample", "version", "boxes"))
    return {sample: (version, boxes) for sample, version, boxes in zip(*columns, strict=True)}
