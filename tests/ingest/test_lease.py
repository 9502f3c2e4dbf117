"""Turns on a lane: one at a time, taken over when its holder is gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.lease import FileLease, ObjectLease, checked_lane, lease_of, take_from_the_dead
from storage.errors import ConfigError
from storage.object_store import ObjectStore
from tests.s3_server import client, options, s3_server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("moto.server", reason="moto is not installed")
    with s3_server() as address:
        client("s3", address).create_bucket(Bucket="lakes")
        yield address


def wait_until_taken(lease: ObjectLease) -> float:
    began = time.monotonic()
    while not lease.take():
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_lane_of_a_folder_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from ingest.lease import lease_of; from storage.object_store import ObjectStore\n"
        "lease = lease_of(ObjectStore.at(sys.argv[1]), 'main'); assert lease.take()\n"
        "print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "mine\n"
        lease = lease_of(ObjectStore.at(tmp_path), "main")
        assert not lease.take()
        assert f"process {other.pid}" in lease.holder()
        assert lease_of(ObjectStore.at(tmp_path), "another").take()
        other.kill()
        other.wait()
    assert lease.take()
    assert lease.is_held()
    lease.release()
    assert not lease.is_held()


def test_a_lane_on_s3_is_one_services_until_it_stops_or_falls_silent(url: str) -> None:
    store = ObjectStore.at("s3://lakes/one", options(url))
    first, second = ObjectLease(store, "main", ttl_s=1.5), ObjectLease(store, "main", ttl_s=1.5)
    assert first.take()
    began = time.monotonic()
    while time.monotonic() - began < 2.5:
        assert not second.take()
    assert first.is_held()
    first.release()
    assert wait_until_taken(second) < 1.0
    # Falls silent, without a word.
    second._stop.set()
    assert second._thread
    second._thread.join()
    assert wait_until_taken(first) > 1.0
    assert not second.is_held()
    first.release()


def test_who_wants_a_lane_by_hand_is_told_of_the_living_and_follows_the_dead(
    url: str, tmp_path: Path
) -> None:
    on_s3 = ObjectStore.at("s3://lakes/two", options(url))
    for living, wanting in (
        (ObjectLease(on_s3, "main", ttl_s=1.5), ObjectLease(on_s3, "main", ttl_s=1.5)),
        (FileLease(ObjectStore.at(tmp_path), "main"), FileLease(ObjectStore.at(tmp_path), "main")),
    ):
        assert living.take()
        assert not take_from_the_dead(wanting)
        assert living.is_held()
        living.release()
        assert take_from_the_dead(wanting)
        wanting.release()
    dead, heir = (ObjectLease(on_s3, "main", ttl_s=1.5) for _ in range(2))
    assert dead.take()
    dead._stop.set()
    assert take_from_the_dead(heir)
    heir.release()


def test_names_of_lanes_are_plain() -> None:
    for name in ("", "a/b", "..", "ü", "x" * 61, "a b"):
        with pytest.raises(ConfigError):
            checked_lane(name)
    assert checked_lane("a-b_1") == "a-b_1"
