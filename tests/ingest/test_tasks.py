"""Tasks whose process dies: the object that does it is found, tried alone, and quarantined."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from ingest.tasks import RayParser, start_ray
from storage.object_store import ObjectStore
from tests.ingest.mill import picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start_ray(num_cpus=2)
    yield
    ray.shutdown()


def parse_or_die(store: ObjectStore, events: list[Event], rule: DatasetRule, limits: Limits) -> Parsed:
    """Parses, but for one object, whose decoder ends its process as a lack of memory would."""
    if any("poison" in event.key for event in events):
        os.kill(os.getpid(), signal.SIGKILL)
    return parse_objects(store, events, rule, limits)


def test_an_object_that_kills_its_worker_is_quarantined_and_no_other(cluster: None, tmp_path: Path) -> None:
    store = ObjectStore.at(tmp_path)
    names = [f"{number:03}" for number in range(20)]
    names[7] = "poison"
    for name in names:
        store.write(f"d/{name}.png", picture(30, 20))
    rule = DatasetRule(bucket="drops")
    events = [
        Event(action="put", key=info.key, version=info.version, size_bytes=info.size_bytes, dataset="d")
        for info in sorted(store.list())
    ]
    parser = RayParser(store, rule, cpus=0.5, memory_bytes=100_000_000)
    parser._task = ray.remote(max_retries=0)(parse_or_die)
    parsed = parser(events)
    assert [outcome.event.key for outcome in parsed.outcomes] == [event.key for event in events]
    bad = {outcome.event.key: outcome.error for outcome in parsed.outcomes if outcome.state != "done"}
    assert set(bad) == {"d/poison.png"}
    assert "ended its process" in str(bad["d/poison.png"])
    assert parsed.images.num_rows == 19
