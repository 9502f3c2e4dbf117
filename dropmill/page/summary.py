"""Counts of all data sets, made in the background: once for each set of table versions, and kept on disk.

Counting reads whole columns, which takes seconds where there are a million images. So nobody waits for it:
what was counted last is shown, with a word that newer commits are being counted, and a lake that changes all
the time is counted for a tenth of the time only.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from dropmill.page.answers import ClassCount, Dataset, Datasets, MixOfDrop, RuleCount
from dropmill.page.open_lake import OpenLake
from ingest.gates import DatasetState, judge_dataset
from quality.balance import Balance, ClassShare
from quality.drift import drift_over_drops
from quality.gate import Thresholds
from quality.limits import Limits
from storage.errors import DropmillError
from storage.lake import Lake, Snapshot

log = logging.getLogger(__name__)

_COUNTED = ("objects", "batches", "images", "labels", "annotations", "findings")
_MOST_DROPS = 60
_SHARE_OF_TIME = 0.1
_FORMAT = 1


class Summary:
    """The counts of one lake, as they were made last."""

    def __init__(
        self,
        lake: OpenLake,
        folder: Path | None,
        thresholds: Thresholds | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._lake = lake
        self._thresholds, self._limits = thresholds, limits or Limits()
        name = hashlib.sha256(f"{_FORMAT} {lake.url} {thresholds} {limits}".encode()).hexdigest()[:24]
        self._path = folder / f"counts-{name}.json" if folder else None
        self._last = self._kept()
        self._changed = threading.Condition()
        self._counting = False
        self._not_before = 0.0
        self._trouble: DropmillError | None = None

    def now(self, wait_s: float = 0.0) -> Datasets:
        """What was counted last; waits for current counts, but not for longer than ``wait_s``.

        Raises what counting raised, where nothing was ever counted.
        """
        until = time.monotonic() + wait_s
        self._lake.versions(look=wait_s > 0)
        with self._changed:
            while True:
                versions = self._versions()
                if self._last is not None and self._last.versions == versions:
                    return self._last
                if self._trouble is not None and self._last is None:
                    trouble, self._trouble = self._trouble, None
                    raise trouble
                self._begin(hurried=wait_s > 0)
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
        if self._last is not None:
            return self._last.model_copy(update={"state": "counting"})
        return Datasets(state="counting", counted_at=None, seconds=None, versions={}, datasets=[])

    def _versions(self) -> Snapshot:
        versions = self._lake.versions()
        return {name: versions[name] for name in _COUNTED}

    def _begin(self, *, hurried: bool) -> None:
        if self._counting or (time.monotonic() < self._not_before and not hurried):
            return
        self._counting = True
        threading.Thread(target=self._count, name="counts", daemon=True).start()

    def _count(self) -> None:
        began = time.monotonic()
        try:
            versions = self._versions()
            counted = count(self._lake.lake, versions, self._thresholds, self._limits)
            took = time.monotonic() - began
            found = Datasets(
                state="current",
                counted_at=datetime.now(UTC),
                seconds=round(took, 3),
                versions=versions,
                datasets=counted,
            )
            self._keep(found)
            with self._changed:
                self._last, self._trouble = found, None
        except DropmillError as error:
            log.warning("not counted", extra={"why": error.message})
            with self._changed:
                self._trouble = error
        finally:
            with self._changed:
                self._counting = False
                took = time.monotonic() - began
                self._not_before = time.monotonic() + took * (1 / _SHARE_OF_TIME - 1)
                self._changed.notify_all()

    def _kept(self) -> Datasets | None:
        if self._path is None:
            return None
        try:
            return Datasets.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None

    def _keep(self, found: Datasets) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".tmp")
            partial.write_text(found.model_dump_json(), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            log.warning("counts not kept", extra={"why": str(error)})


def count(lake: Lake, versions: Snapshot, thresholds: Thresholds | None, limits: Limits) -> list[Dataset]:
    """Count and judge every data set at ``versions``, in the order of their names."""
    names = lake.sql(
        "SELECT DISTINCT dataset FROM objects WHERE dataset IS NOT NULL AND state <> 'removed' ORDER BY 1",
        versions=versions,
    ).to_pylist()
    drops = lake.sql(
        "SELECT dataset, batch, done_at, category, boxes FROM class_balance_over_time", versions=versions
    ).polars()
    rules = lake.sql(
        """SELECT dataset, rule, any_value(severity) AS severity, count(*) AS findings,
                  count(DISTINCT sample) AS samples
           FROM findings GROUP BY dataset, rule ORDER BY findings DESC, rule""",
        versions=versions,
    ).to_pylist()
    splits = lake.sql(
        """SELECT dataset, coalesce(split, '') AS split, count(*) AS images FROM images
           GROUP BY dataset, split ORDER BY dataset, split""",
        versions=versions,
    ).to_pylist()
    quarantined = {
        row["dataset"]: row["n"]
        for row in lake.sql(
            "SELECT dataset, count(*) AS n FROM quarantine GROUP BY dataset", versions=versions
        ).to_pylist()
    }
    found = []
    for name in [row["dataset"] for row in names]:
        state = judge_dataset(lake, name, thresholds, limits=limits, versions=versions)
        found.append(
            _dataset(
                state,
                drops=_drops(drops.filter(pl.col("dataset") == name), limits),
                rules=[
                    RuleCount(**{key: row[key] for key in ("rule", "severity", "findings", "samples")})
                    for row in rules
                    if row["dataset"] == name
                ],
                images_by_split={row["split"]: row["images"] for row in splits if row["dataset"] == name},
                quarantined=quarantined.get(name, 0),
            )
        )
    return found


def _dataset(
    state: DatasetState,
    *,
    drops: list[MixOfDrop],
    rules: list[RuleCount],
    images_by_split: dict[str, int],
    quarantined: int,
) -> Dataset:
    balance = state.balance
    weights = balance.class_weights()
    return Dataset(
        dataset=state.dataset,
        images=state.images,
        labelled_images=state.labelled_images,
        delivered=state.delivered,
        boxes=balance.boxes,
        gate=state.gate.verdict.value,
        reasons=list(state.gate.reasons),
        imbalance=balance.imbalance if math.isfinite(balance.imbalance) else None,
        entropy=balance.entropy,
        classes=[
            ClassCount(
                category=entry.category,
                boxes=entry.boxes,
                images=entry.images,
                share=entry.share,
                weight=weights[entry.category],
            )
            for entry in balance.classes
        ],
        splits={split: part.counts for split, part in state.by_split.items()},
        images_by_split=images_by_split,
        rules=rules,
        drops=drops,
        quarantined=quarantined,
    )


def _drops(rows: pl.DataFrame, limits: Limits) -> list[MixOfDrop]:
    """The mixes of a data set's drops in their order, each with its distance from all before it."""
    mixes: dict[int, dict[str, int]] = {}
    times: dict[int, datetime | None] = {}
    for row in rows.sort("batch", "category").iter_rows(named=True):
        mixes.setdefault(row["batch"], {})[row["category"]] = row["boxes"]
        times[row["batch"]] = row["done_at"]
    balances = {str(batch): _balance(mix) for batch, mix in mixes.items()}
    drifts = {drift.current: drift.js_divergence for drift in drift_over_drops(balances, limits)}
    return [
        MixOfDrop(
            batch=batch,
            done_at=times[batch],
            boxes=sum(mix.values()),
            counts=mix,
            js_divergence=drifts.get(f"drop {batch}"),
        )
        for batch, mix in list(mixes.items())[-_MOST_DROPS:]
    ]


def _balance(mix: dict[str, int]) -> Balance:
    total, largest = sum(mix.values()), max(mix.values())
    return Balance(
        tuple(
            ClassShare(category, boxes, boxes, boxes / total, largest / boxes)
            for category, boxes in mix.items()
        )
    )
