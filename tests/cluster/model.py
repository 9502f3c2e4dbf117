"""From drops to an engine on a cluster whose nodes die: the service outside of it, S3 over HTTP."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from ingest.batch import Committer
from ingest.derive import Settings
from ingest.events import DatasetRule
from ingest.jobs import Jobs
from ingest.parse import Limits, Parsed, parse_objects
from ingest.progress import OPEN, JobState
from ingest.reconcile import reconcile
from storage.errors import LakeError
from storage.lake import Lake
from storage.object_store import ObjectStore
from tests.cluster.nodes import Node, cluster
from tests.ingest.mill import Mill
from tests.s3_server import Proxy, client, options, s3_server
from transforms.scenes import SceneConfig, write_scenes

_ACCESS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
_SOON_DEAD = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
_PARSING = "ray::parse_objects"
_LONGEST_S = 600.0
_QUICK = {"epochs": 2, "batch_size": 4}
STEPS: dict[str, dict[str, Any]] = {
    "masks": {},
    "augment": {},
    "train": {**_QUICK, "num_layers": 10},
    "prune": {"threshold": 0.99},
    "retrain": _QUICK,
    "quantise": {"method": "ptq", "images": 8},
    "export": {"precision": "int8"},
    "evaluate": {},
    "promote": {},
}
"""Each with the least that is real."""


@dataclass
class Stage:
    """What the kill of a stage came to."""

    name: str
    killed: str | None = None
    after_s: float = 0.0


@dataclass
class Story:
    """One run: ``images`` scenes, ``steps`` of a pipeline, and a worker killed in each of ``kills``."""

    folder: Path
    seed: int
    images: int = 24
    steps: Sequence[str] = tuple(STEPS)
    kills: Sequence[str] = ("parse", *STEPS)
    cpus: int = 2
    tell: Callable[[str], None] = print
    stages: list[Stage] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Do it, and look at what is there in the end. Raises AssertionError where that is wrong."""
        self._draw = random.Random(self.seed)
        began = time.monotonic()
        with s3_server() as url, mock.patch.dict(os.environ, _ACCESS):
            s3 = client("s3", url)
            for bucket in ("drops", "lakes"):
                s3.create_bucket(Bucket=bucket)
            self._access = options(url)
            self.proxy = Proxy(url)
            with cluster({**_ACCESS, **_SOON_DEAD}, workers=2, cpus=self.cpus) as self.cluster:
                self._say(f"a head and two workers after {time.monotonic() - began:.0f} s")
                with self._service():
                    self._drop()
                    self._parse()
                    self._pipeline()
                found = self._check()
            self.proxy.close()
        return {
            "seed": self.seed,
            "kills": {stage.name: stage.killed and round(stage.after_s, 1) for stage in self.stages},
            **found,
            "seconds": round(time.monotonic() - began, 1),
        }

    @property
    def lake(self) -> Lake:
        """The lake, from outside of the cluster."""
        return Lake.open("s3://lakes/one", self._access)

    @contextmanager
    def _service(self) -> Iterator[None]:
        steps = [
            # Where a step asks for nothing its job is on the head, which is never killed here.
            {name: STEPS[name], "resources": {"cpus": 0.5}, "retries": 3, "retry_wait_s": 0.5}
            for name in self.steps
        ]
        content = {
            "bucket": "s3://drops",
            "lake": "s3://lakes/one",
            "bucket_access": {"endpoint_url": self.proxy.url, "region": "us-east-1"},
            "lake_access": {"endpoint_url": self.proxy.url, "region": "us-east-1"},
            "ingest": {"reconcile_s": 2},
            "ray": {"address": self.cluster.client, "tasks_in_flight": 8, "task_cpus": 0.5},
            "pipelines": [{"name": "p", "when": {"new_images": self.images, "settle_s": 1}, "steps": steps}],
        }
        self.config = self.folder / "dropmill.yaml"
        self.config.write_text(yaml.safe_dump(content))
        self.log = self.folder / "service.jsonl"
        command = [sys.executable, "-m", "dropmill", "serve", "-c", str(self.config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=120) == 0, self._tail()
        finally:
            self.process.kill()
            self.process.wait()

    def _drop(self) -> None:
        config = SceneConfig(images=self.images, width=96, height=96, min_size=30, max_size=60, seed=3)
        write_scenes(config, self.folder / "scenes", format="voc", workers=1, defects=False)
        self.store = ObjectStore.at("s3://drops", self._access)
        # Reading takes so long that a kill hits it.
        self.proxy.fault = lambda method, path: "slow" if method == "GET" and "/drops/air/" in path else None
        for info in ObjectStore.at(self.folder / "scenes").list():
            self.store.upload(f"air/{info.key}", self.folder / "scenes" / info.key)

    def _parse(self) -> None:
        if "parse" in self.kills:
            self._kill_at_work("parse", _PARSING, lambda: bool(self._rows()))
        self.proxy.well()
        self._wait("the tables", lambda: self._rows() == self.images)
        self._say(f"{self.images} images in the tables")

    def _pipeline(self) -> None:
        for name in self.steps:
            self._wait(f"step {name}", lambda name=name: self._state(name) != "planned")
            if name in self.kills:
                self._kill_at_work(
                    name, f"dropmill step {name}", lambda name=name: self._state(name) not in OPEN
                )
            self._wait(f"step {name}", lambda name=name: self._state(name) not in OPEN)
            row = self._run(name)
            assert row["state"] == "succeeded", f"{row['run']}: {row['error']}\n{self._why(row)}"
            self._say(f"{name}: {row['state']} at attempt {row['attempt']}")

    def _kill_at_work(self, stage: str, words: str, over: Callable[[], bool]) -> None:
        """Kill the worker that has ``words`` among its processes, a moment after it has begun."""
        wait_s = self._draw.uniform(0, 6) if stage != "parse" else 0.5
        hit = Stage(stage)
        self.stages.append(hit)
        began = None
        while not over():
            at_work = [node for node in self.cluster.workers if node.works_on(words)]
            now = time.monotonic()
            if not at_work:
                began = None
            elif began is None:
                began = now
            elif now - began >= wait_s:
                hit.killed, hit.after_s = at_work[0].name, now - began
                self._replace(at_work[0])
                self._say(f"{stage}: {hit.killed} killed after {hit.after_s:.1f} s")
                return
            self._alive()
            time.sleep(0.05)

    def _replace(self, node: Node) -> None:
        """A worker dies, and another comes, as it does where a cluster looks after its nodes."""
        self.cluster.kill(node)
        self.cluster.add_worker(self.cpus)

    def _check(self) -> dict[str, Any]:
        lake = self.lake
        self._same_tables(lake)
        rows = lake.sql("SELECT * FROM runs ORDER BY position").to_pylist()
        assert [row["step"] for row in rows] == list(self.steps)
        killed = {stage.name for stage in self.stages if stage.killed}
        for row in rows:
            assert row["attempt"] == 1 or row["step"] in killed, row
        jobs = Jobs(self.cluster.dashboard)
        ends = {row["step"]: [jobs.state(name) for name in _attempts(row)] for row in rows}
        for step, states in ends.items():
            *before, last = states
            # A job may be killed between its last commit and its end: then its row says that it is done.
            assert last is JobState.SUCCEEDED or (step in killed and last is JobState.FAILED), ends
            assert all(state is JobState.FAILED for state in before), ends
        for table, key in _ONCE.items():
            counts = lake.sql(
                f"SELECT {key}, count(*) AS n FROM {table} GROUP BY ALL HAVING n > 1"
            ).to_pylist()
            assert not counts, f"{table}: {counts[:3]}"
        if "masks" in self.steps:
            (left,) = lake.sql(
                "SELECT (SELECT count(*) FROM annotations) AS boxes, (SELECT count(*) FROM masks) AS masks"
            ).to_pylist()
            assert left["boxes"] == left["masks"], left
        for row in lake.sql("SELECT model AS name, uri, size_bytes FROM models").to_pylist():
            self._is_there(row)
        for row in lake.sql("SELECT uri AS name, uri, size_bytes FROM shards").to_pylist():
            self._is_there(row)
        kinds = Counter(row["kind"] for row in lake.sql("SELECT kind FROM models").to_pylist())
        return {
            "attempts": {row["step"]: row["attempt"] for row in rows},
            "rows": {
                name: lake.sql(f"SELECT count(*) AS n FROM {name}").to_pylist()[0]["n"] for name in _ONCE
            },
            "files": dict(kinds),
        }

    def _same_tables(self, lake: Lake) -> None:
        rule = DatasetRule(bucket="drops")

        def parse(events: Any) -> Parsed:
            return parse_objects(self.store, events, rule, Limits())

        wanted_at = self.folder / "from-nothing"
        reconcile(self.store, Committer(Lake.create(wanted_at), parse, rule=rule), rule)
        wanted = Mill(self.folder, wanted_at, Settings()).tables()
        with mock.patch.object(Mill, "lake", lake):
            found = Mill(self.folder, self.folder, Settings()).tables()
        # Findings of other stages stand under stems that no file has.
        found["findings"] = [row for row in found["findings"] if '"stem":"/' not in row]
        for name, rows in wanted.items():
            assert found[name] == rows, f"{name}: {set(found[name]) ^ set(rows)}"
        (left,) = lake.sql("SELECT count(*) AS n FROM batches WHERE state <> 'done'").to_pylist()
        assert left["n"] == 0

    def _is_there(self, row: dict[str, Any]) -> None:
        folder, _, name = row["uri"].rpartition("/")
        info = ObjectStore.at(folder, self._access).head(name)
        assert info is not None, row
        assert info.size_bytes == row["size_bytes"], row

    def _rows(self) -> int:
        with suppress(LakeError):
            return int(self.lake.sql("SELECT count(*) AS n FROM images WHERE labelled").to_pylist()[0]["n"])
        return 0

    def _run(self, step: str) -> dict[str, Any]:
        rows = self.lake.sql("SELECT * FROM runs WHERE step = $1", parameters=[step]).to_pylist()
        return dict(rows[0]) if rows else {"state": "planned"}

    def _state(self, step: str) -> str:
        return str(self._run(step)["state"])

    def _why(self, row: dict[str, Any]) -> str:
        jobs = Jobs(self.cluster.dashboard)
        return "\n".join(f"{name}:\n{jobs.why_failed(name)}" for name in _attempts(row))

    def _wait(self, what: str, so: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not so():
            self._alive()
            assert time.monotonic() - began < _LONGEST_S, f"{what} does not come: {self._tail()}"
            time.sleep(0.3)

    def _alive(self) -> None:
        assert self.process.poll() is None, self._tail()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def _say(self, text: str) -> None:
        self.tell(text)


_ONCE = {
    "objects": "key, version, state",
    "images": "dataset, sample",
    "annotations": "dataset, source, instance",
    "masks": "dataset, source, instance",
    "shards": "uri",
    "runs": "run",
    "models": "model",
    "seen": "run, sample, role, kind, key",
}
"""Table to what no two of its rows have in common."""


def _attempts(row: dict[str, Any]) -> list[str]:
    return [row["run"], *(f"{row['run']}-try{number}" for number in range(2, (row.get("attempt") or 1) + 1))]
