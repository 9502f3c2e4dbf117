"""A bucket that changes at random, a service that is killed at random, and a store that fails at random.

Everything is drawn from one seed: the same seed makes the same changes in the same order, and kills after the
same number of them. What the machine makes of that in time differs from run to run, the end must not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from ingest.batch import Committer
from ingest.derive import Settings
from ingest.events import DatasetRule
from ingest.parse import Limits, Parsed, parse_objects
from ingest.reconcile import reconcile
from storage.lake import Lake
from storage.object_store import ObjectStore
from tests.ingest.mill import KITTI_CAR, Mill, picture
from tests.s3_server import Proxy, client, options, s3_server

_PICTURES = [picture(width, 50) for width in (60, 100, 140)]
# On a machine that is busy otherwise: a shorter one would kill the service before it does anything.
_LONGEST_START_S = 180.0
_LONGEST_SETTLING_S = 600.0
_BROKEN = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff broken", b"<annotation><object>", b"\x00\x01\x02"]


@dataclass
class Chaos:
    """One run: ``events`` changes, in the midst of which the service is killed ``kills`` times."""

    seed: int
    folder: Path
    events: int
    kills: int
    samples: int = 200
    on_s3: bool = True
    faults: float = 0.03
    said: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Do it; returns what happened. Raises AssertionError where the end is not what it must be."""
        self._draw = random.Random(self.seed)
        began = time.monotonic()
        with self._bucket():
            self._start()
            try:
                self._disturb()
                lag = self._settle()
            finally:
                self._kill()
            found, wanted = self._tables(self.folder / "lake"), self._from_nothing()
        for name, rows in wanted.items():
            lost = sorted(set(rows) - set(found[name]))
            more = sorted(set(found[name]) - set(rows))
            twice = len(found[name]) - len(set(found[name])) - (len(rows) - len(set(rows)))
            if lost or more or twice:
                raise AssertionError(
                    f"seed {self.seed}: {name} lacks {lost[:3]}, has {more[:3]} too much, {twice} rows twice"
                )
        lake = Lake.open(self.folder / "lake")
        (left,) = lake.sql("SELECT count(*) AS n FROM batches WHERE state <> 'done'").to_pylist()
        assert left["n"] == 0, f"seed {self.seed}: {left['n']} batches are not done"
        batches = lake.sql("SELECT count(*) AS n FROM batches").to_pylist()[0]["n"]
        return {
            "seed": self.seed, "events": self.events, "kills": self.killed, "workers_killed": self.workers,
            "faults": self.failed, "batches": batches, "lost": 0, "doubled": 0,
            "rows": {name: len(rows) for name, rows in wanted.items()},
            "settled_s": round(lag, 1), "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    @contextmanager
    def _bucket(self) -> Iterator[None]:
        self.killed = self.workers = self.failed = 0
        if not self.on_s3:
            (self.folder / "drops").mkdir(parents=True)
            self.store = ObjectStore.at(self.folder / "drops")
            self._configure({"bucket": str(self.folder / "drops")})
            yield
            return
        with s3_server() as url:
            proxy = Proxy(url)
            s3, sqs = client("s3", url), client("sqs", url)
            s3.create_bucket(Bucket="drops")
            queue = sqs.create_queue(QueueName="drops")["QueueUrl"]
            found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
            told = {"QueueArn": found["QueueArn"], "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
            s3.put_bucket_notification_configuration(
                Bucket="drops", NotificationConfiguration={"QueueConfigurations": [told]}
            )
            self.store = ObjectStore.at("s3://drops", options(url))
            access = {"endpoint_url": proxy.url, "region": "us-east-1"}
            queue = queue.replace(url, proxy.url)
            # Short of memory of what was in hand: a killed service's messages come again soon.
            told = {"queue_url": queue, "visibility_s": 10, "poll_s": 1, "most_receives": 1_000}
            self._configure({"bucket": "s3://drops", "bucket_access": access, "sources": {"sqs": told}})
            kinds = ("503", "500", "reset", "truncated", "slow", "expired")
            draw = random.Random(self.seed + 1)

            def fault(_method: str, _path: str) -> str | None:
                if draw.random() >= self.faults:
                    return None
                self.failed += 1
                return draw.choice(kinds)

            proxy.fault = fault
            try:
                yield
            finally:
                proxy.well()
                proxy.close()

    def _configure(self, content: dict[str, Any]) -> None:
        content |= {
            "lake": str(self.folder / "lake"),
            "ray": {"num_cpus": 2},
            # Listing is frequent: it has to find what hints were lost with a killed process.
            "ingest": {"batch_objects": 200, "settle_s": 0.2, "reconcile_s": 5},
        }
        (self.folder / "dropmill.yaml").write_text(yaml.safe_dump(content))

    def _disturb(self) -> None:
        kills = sorted(self._draw.sample(range(1, self.events), self.kills))
        for number in range(self.events):
            self._change()
            if kills and number == kills[0]:
                kills.pop(0)
                self._wait_a_little()
                if self._draw.random() < 0.3:
                    self._kill_a_worker()
                self._kill()
                self.killed += 1
                self._start()

    def _change(self) -> None:
        """Put, replace or remove one object of those that there can be."""
        number, kind = self._draw.randrange(self.samples), self._draw.random()
        dataset = f"d{number % 3}"
        if kind < 0.45:
            key, data = f"{dataset}/image_2/{number:05}.png", self._draw.choice(_PICTURES)
        elif kind < 0.9:
            boxes = self._draw.randrange(4)
            lines = [
                KITTI_CAR.format(*(self._draw.randrange(1, 150) for _ in range(4))) for _ in range(boxes)
            ]
            key, data = f"{dataset}/label_2/{number:05}.txt", "".join(lines).encode()
        elif kind < 0.95:
            names = sorted({f"{self._draw.randrange(self.samples):05}.png" for _ in range(5)})
            key, data = f"{dataset}/extra{number % 4}.json", _coco(names).encode()
        else:
            key, data = f"{dataset}/odd/{number:05}.png", self._draw.choice(_BROKEN)
        if self._draw.random() < 0.2:
            self.store.remove(key)
        else:
            self.store.write(key, data)

    def _start(self) -> None:
        environment = {
            **os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "dropmill", "serve", "-c", str(self.folder / "dropmill.yaml")]
        self.log = self.folder / "log.jsonl"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def _kill(self) -> None:
        """Kill the service as ``kill -9`` does, and what it had started, as a machine that stops would."""
        children = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=10)

    def _kill_a_worker(self) -> None:
        with suppress(psutil.NoSuchProcess):
            workers = [
                child
                for child in psutil.Process(self.process.pid).children(recursive=True)
                if "parse_objects" in " ".join(child.cmdline()) or "ray::" in " ".join(child.cmdline())
            ]
            if workers:
                self._draw.choice(workers).kill()
                self.workers += 1

    def _wait_a_little(self) -> None:
        """Let the service get somewhere: to its start, into a batch, or nowhere."""
        goal = self._draw.choice(("nowhere", "started", "started", "batch"))
        seen = self.log.stat().st_size
        began = time.monotonic()
        patience = self._draw.uniform(0.0, 1.5)
        while goal != "nowhere" and time.monotonic() - began < _LONGEST_START_S:
            new = self.log.read_bytes()[seen:]
            if (b'"serving"' in new and goal == "started") or b'"batch done"' in new:
                break
            time.sleep(0.05)
        time.sleep(patience)

    def _settle(self) -> float:
        """Wait until the service has worked on everything that the bucket holds."""
        began = time.monotonic()
        while time.monotonic() - began < _LONGEST_SETTLING_S:
            if self._is_level():
                return time.monotonic() - began
            assert self.process.poll() is None, self._tail()
            time.sleep(0.3)
        raise AssertionError(f"seed {self.seed}: the lake is not level with the bucket: {self._tail()}")

    def _is_level(self) -> bool:
        try:
            lake = Lake.open(self.folder / "lake")
            rows = lake.sql(
                "SELECT key, version FROM newest WHERE state IN ('done', 'quarantined')"
            ).to_pylist()
            unfinished = lake.sql("SELECT count(*) AS n FROM batches WHERE state <> 'done'").to_pylist()[0][
                "n"
            ]
        except Exception:  # noqa: BLE001 - no lake yet
            return False
        there = {(info.key, info.version) for info in self.store.list()}
        return not unfinished and {(row["key"], row["version"]) for row in rows} == there

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _tables(self, lake: Path) -> dict[str, list[str]]:
        said = Mill(self.folder, lake, Settings()).tables()
        # Findings about whole sets and their history, under stems that no file has: when a service looked at
        # them is no matter of the bucket's content.
        said["findings"] = [row for row in said["findings"] if '"stem":"/' not in row]
        return said

    def _from_nothing(self) -> dict[str, list[str]]:
        """The tables that the bucket's content alone gives, in one quiet pass."""
        rule = DatasetRule(bucket="drops")

        def parse(events: Any) -> Parsed:
            return parse_objects(self.store, events, rule, Limits())

        lake = self.folder / "from-nothing"
        reconcile(self.store, Committer(Lake.create(lake), parse, rule=rule), rule)
        return self._tables(lake)


def _coco(names: list[str]) -> str:
    images = [{"id": i, "file_name": name, "width": 100, "height": 50} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 10, 20]} for i in range(len(names))]
    return json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "jet"}]})
