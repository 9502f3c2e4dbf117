"""One pass over a bucket in this process, without Ray: list, parse, check, commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ingest.batch import Committer, Counts
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from ingest.reconcile import reconcile
from storage.lake import Lake
from storage.object_store import ObjectStore


def ingest(bucket: Path, lake: Path) -> Counts:
    """Bring a new lake up to date with a bucket; returns what was committed."""
    store = ObjectStore.at(bucket)
    rule = DatasetRule(bucket=store.name)

    def parse(events: Sequence[Event]) -> Parsed:
        return parse_objects(store, events, rule, Limits())

    return reconcile(store, Committer(Lake.create(lake), parse, rule=rule), rule).counts
