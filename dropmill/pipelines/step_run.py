"""One run of a step: its row, what runs before it left, what it leaves, and the objects that it saw."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingest.plans import write_runs
from storage import schemas
from storage.errors import ConfigError, JobError
from storage.lake import Lake, Snapshot
from storage.object_store import file_sha256

log = logging.getLogger(__name__)

_AT_WORK = ("submitted", "running")


class StepRun:
    """The work behind one row of ``runs``. Its files lie in ``artifacts/runs/<run>`` of the lake."""

    def __init__(self, lake: Lake, run: str) -> None:
        self.lake = lake
        self.row = _row(lake, run)
        self.metrics: dict[str, float] = {}
        self.outputs: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.row["run"])

    @property
    def dataset(self) -> str:
        """The data set that it is about."""
        return str(self.row["dataset"])

    @property
    def snapshot(self) -> Snapshot:
        """The versions of the tables that its execution reads."""
        return dict(json.loads(self.row["snapshot"]))

    @property
    def parameters(self) -> dict[str, Any]:
        """What the step is told."""
        return dict(json.loads(self.row["parameters"]))

    @property
    def outputs_said(self) -> dict[str, str]:
        """What its row says that it left: kind to address."""
        return dict(json.loads(self.row["outputs"] or "{}"))

    @property
    def folder(self) -> Path:
        """Where it puts its files together: their place in the lake, where that is on this machine."""
        if self.lake.store.is_directory:
            folder = self.lake.artifacts.root / "runs" / self.name
        else:
            # Nodes that share this folder go on with each other's work after a failure.
            runs = os.environ.get("DROPMILL_RUNS") or Path(tempfile.gettempdir()) / "dropmill-runs"
            folder = Path(runs) / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def input(self, what: str) -> StepRun | None:
        """The run that made ``what`` for this one; None where the pipeline has none.

        Raises JobError where it has not succeeded.
        """
        run = json.loads(self.row["inputs"] or "{}").get(what)
        if run is None:
            return None
        found = StepRun(self.lake, run)
        if found.row["state"] != "succeeded":
            raise JobError(f"run {self.name} needs {run}, which is {found.row['state']}", run=self.name)
        return found

    def needed(self, what: str) -> StepRun:
        """``input`` of what the step cannot be without."""
        found = self.input(what)
        if found is None:
            raise ConfigError(f"run {self.name}: its row names no run that made the {what}")
        return found

    def made(self, kind: str) -> StepRun | None:
        """This run, or the nearest before it among its models, that has a file of ``kind``."""
        if kind in self.outputs_said:
            return self
        before = self.input("model")
        return None if before is None else before.made(kind)

    def file(self, kind: str) -> Path:
        """A file that this run or the nearest before it left, on this machine."""
        maker = self.made(kind)
        if maker is None:
            raise JobError(f"run {self.name}: no run before it left a file of kind {kind}", run=self.name)
        return fetch(self.lake, maker.outputs_said[kind])

    @property
    def detector(self) -> str:
        """The family of networks that the nearest checkpoint is of, such as detectnet_v2."""
        maker = self.made("checkpoint")
        rows = self.lake.sql(
            "SELECT architecture FROM models WHERE run = $1 AND kind = 'checkpoint'",
            parameters=[self.name if maker is None else maker.name],
        ).to_pylist()
        if not rows:
            raise JobError(f"run {self.name}: no run before it left a checkpoint", run=self.name)
        return str(rows[0]["architecture"]).partition("/")[0]

    def keep(
        self, kind: str, path: Path, about: Mapping[str, Any], details: Mapping[str, Any] | None = None
    ) -> None:
        """Put a file into the lake, and a row that says where it comes from into ``models``.

        ``about`` has ``architecture`` and ``categories``; ``details`` go beside what was measured.
        """
        uri = self.lake.artifacts.upload(f"runs/{self.name}/{path.name}", path)
        self.outputs[kind] = uri
        before = self.lake.sql(
            "SELECT state FROM models WHERE model = $1", parameters=[f"{self.name}/{path.name}"]
        ).to_pylist()
        measured = {name: value for name, value in self.metrics.items() if name.endswith("mAP50")}
        row = {
            "model": f"{self.name}/{path.name}",
            "run": self.name,
            "dataset": self.dataset,
            **about,
            "kind": kind,
            "uri": uri,
            "size_bytes": path.stat().st_size,
            "sha256": file_sha256(path),
            "metrics": json.dumps(measured | dict(details or {})),
            "snapshot": self.row["snapshot"],
            "made_at": datetime.now(UTC),
            "state": before[0]["state"] if before else None,
        }
        self.lake.put("models", pa.Table.from_pylist([row], schema=schemas.MODELS), keys=["model"])

    def saw(self, samples: Mapping[str, Iterable[str]]) -> None:
        """Write down the objects behind samples that this run used: role to ids of images of the lake."""
        pairs = [(sample, role) for role, ids in samples.items() for sample in sorted(set(ids))]
        if not pairs:
            return
        snapshot = self.snapshot
        found = self.lake.sql(
            _SEEN,
            parameters=[self.dataset, self.name, [pair[0] for pair in pairs], [pair[1] for pair in pairs]],
            versions={name: snapshot[name] for name in ("images", "annotations", "objects")},
            max_rows=None,
            timeout_s=None,
        ).arrow()
        self.lake.put("seen", found.select(schemas.SEEN.names).cast(schemas.SEEN), keys=["run"])

    def succeed(self, note: str | None = None) -> None:
        """Say in the row that the work is done."""
        self._end("succeeded", note)

    def fail(self, why: str) -> None:
        """Say in the row that the work has failed."""
        self._end("failed", why)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Take the seconds of a part of the work."""
        began = time.monotonic()
        yield
        self.metrics[f"{name}_s"] = time.monotonic() - began

    def _end(self, state: str, note: str | None) -> None:
        now = _row(self.lake, self.name)
        if now["state"] not in _AT_WORK or now["attempt"] != self.row["attempt"]:
            # Somebody has called it off, or another attempt is at work: theirs is the word that counts.
            log.warning("run was taken over", extra={"run": self.name, "state": now["state"]})
            return
        rounded = {name: round(value, 6) for name, value in self.metrics.items()}
        ended = {"state": state, "error": note, "ended_at": datetime.now(UTC)}
        self.row = {**now, **ended, "metrics": json.dumps(rounded), "outputs": json.dumps(self.outputs)}
        write_runs(self.lake, [self.row])


def fetch(lake: Lake, uri: str) -> Path:
    """A file of the lake's artifacts on this machine; it is copied where the lake is not."""
    if lake.store.is_directory:
        path = lake.artifacts.root / uri.removeprefix(lake.artifacts.uri(""))
        if not path.is_file():
            raise JobError(f"{uri}: the file is gone; run the step that made it again")
        return path
    key = uri.removeprefix(lake.artifacts.uri(""))
    info = lake.artifacts.head(key)
    if info is None:
        raise JobError(f"{uri}: the file is gone; run the step that made it again")
    path = Path(tempfile.gettempdir()) / "dropmill-artifacts" / key
    if path.is_file() and path.stat().st_size == info.size_bytes:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with lake.artifacts.open(key, info) as source, partial.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
    partial.replace(path)
    return path


_SEEN = """
WITH used AS (SELECT unnest($3) AS sample, unnest($4) AS role)
SELECT $2 AS run, i.dataset, i.sample, u.role, 'image' AS kind, i.key, i.version
FROM used u JOIN images i ON i.dataset = $1 AND i.sample = u.sample
UNION ALL
SELECT $2, a.dataset, a.sample, u.role, 'label', a.source, n.version
FROM used u JOIN (SELECT DISTINCT dataset, sample, source FROM annotations WHERE dataset = $1) a
       ON a.sample = u.sample
     LEFT JOIN (SELECT key, any_value(version) AS version FROM newest
                WHERE dataset = $1 AND state = 'done' GROUP BY key) n ON n.key = a.source"""


def _row(lake: Lake, run: str) -> dict[str, Any]:
    rows = lake.sql("SELECT * FROM runs WHERE run = $1", parameters=[run]).to_pylist()
    if not rows:
        raise ConfigError(f"{lake.url}: no run {run!r} in the table runs; see `dropmill jobs list`")
    return dict(rows[0])
