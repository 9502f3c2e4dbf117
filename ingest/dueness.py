"""When a pipeline begins: what is new since its last execution, how long ago that was, how classes are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ingest.gates import DatasetState
from quality.gate import Verdict
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
    """Jensen-Shannon divergence of the classes of the newest drop from those before; 0 to 1."""
    imbalance: float | None = None
    """Boxes of the largest class to those of the smallest."""
    manual: bool = False
    """Only by hand."""
    settle_s: float = 0.0
    """Nothing has been committed for so long."""

    def why_by_state(self, state: DatasetState) -> str:
        """The reason that the state of the classes gives; empty where it gives none."""
        drift = state.drop_drift
        if self.drift is not None and drift is not None and drift.js_divergence >= self.drift:
            return f"the newest drop differs by {drift.js_divergence:.3f}"
        balance = state.balance
        if self.imbalance is not None and balance.classes and balance.imbalance >= self.imbalance:
            return f"the classes are {balance.imbalance:.3g} to 1"
        return ""


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
