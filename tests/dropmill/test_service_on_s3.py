"""The service with bucket, queue and lake behind HTTP, where the lake's store goes away for a while."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from storage.errors import LakeError
from storage.lake import Lake
from tests.ingest.mill import KITTI_CAR, picture
from tests.s3_server import Proxy, client, options, s3_server

pytest.importorskip("moto.server", reason="moto is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture
def url() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    made = Proxy(url)
    yield made
    made.close()


class Served:
    """A service; its bucket and queue are reached directly, its lake through a proxy."""

    def __init__(self, folder: Path, url: str, lake_url: str) -> None:
        self.url = url
        self.s3, self.sqs = client("s3", url), client("sqs", url)
        for bucket in ("drops", "lakes"):
            self.s3.create_bucket(Bucket=bucket)
        self.queue = self.sqs.create_queue(QueueName="drops")["QueueUrl"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        told = {"QueueArn": found["QueueArn"], "Events": ["s3:ObjectCreated:*"]}
        self.s3.put_bucket_notification_configuration(
            Bucket="drops", NotificationConfiguration={"QueueConfigurations": [told]}
        )
        content = {
            "bucket": "s3://drops",
            "lake": "s3://lakes/one",
            "bucket_access": {"endpoint_url": url, "region": "us-east-1"},
            "lake_access": {"endpoint_url": lake_url, "region": "us-east-1"},
            "sources": {"sqs": {"queue_url": self.queue, "poll_s": 1, "visibility_s": 60}},
            # Listing would find what the queue tells of.
            "ingest": {"batch_wait_s": 0.1, "reconcile_s": 3600},
            "ray": {"num_cpus": 1},
        }
        (folder / "dropmill.yaml").write_text(yaml.safe_dump(content))
        self.log = folder / "log.jsonl"
        command = [sys.executable, "-m", "dropmill", "serve", "-c", str(folder / "dropmill.yaml")]
        access = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **access})

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def put_pair(self, name: str) -> None:
        self.s3.put_object(Bucket="drops", Key=f"d/image_2/{name}.png", Body=picture(100, 50))
        self.s3.put_object(
            Bucket="drops", Key=f"d/label_2/{name}.txt", Body=KITTI_CAR.format(1, 1, 5, 5).encode()
        )

    def messages(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def samples(self) -> list[str]:
        try:
            lake = Lake.open("s3://lakes/one", options(self.url))
            return [
                row["sample"] for row in lake.sql("SELECT sample FROM annotations ORDER BY 1").to_pylist()
            ]
        except LakeError:
            return []

    def wait_for(self, so: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not so():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() - began < 300, self.log.read_text()[-4000:]
            time.sleep(0.2)


@pytest.fixture
def service(tmp_path: Path, url: str, proxy: Proxy) -> Iterator[Served]:
    made = Served(tmp_path, url, proxy.url)
    yield made
    children = (
        psutil.Process(made.process.pid).children(recursive=True) if made.process.poll() is None else []
    )
    made.process.kill()
    made.process.wait()
    for child in children:
        if child.is_running():
            child.kill()


def test_while_the_lakes_store_is_away_events_wait_and_then_all_goes_on_by_itself(
    service: Served, proxy: Proxy
) -> None:
    service.put_pair("before")
    service.wait_for(lambda: service.samples() == ["image_2/before"] and service.messages() == 0)

    kinds = iter(["503", "reset", "500"] * 1_000)
    proxy.fault = lambda _method, _path: next(kinds)
    service.put_pair("meanwhile")
    service.wait_for(lambda: len(service.events("failed, trying again")) > 0)
    assert service.messages() == 2
    assert service.samples() == ["image_2/before"]

    proxy.well()
    service.put_pair("after")
    service.wait_for(lambda: service.messages() == 0)
    assert service.samples() == ["image_2/after", "image_2/before", "image_2/meanwhile"]
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=120) == 0
