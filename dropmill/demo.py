"""The demo: a running service, a set dropped in two halves, and the wait until a detector is compiled.

It only does what a user does: it writes a configuration, starts ``dropmill serve``, copies files into the
bucket and asks the lake.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dropmill.follow import epoch_text, last_epoch
from ingest.events import DatasetRule
from ingest.progress import OPEN
from ingest.triggers import GATE_REFUSES
from storage.errors import ConfigError, JobError, LakeError
from storage.lake import Lake
from storage.object_store import ObjectStore
from transforms.delivery import stem_of, without_extension
from transforms.images import is_image

MARKER = ".dropmill-demo"
_POLL_S = 0.3
_RUN_POLL_S = 2.0  # looking costs time that the training would use
_INGEST_LIMIT_S = 300.0
_TRAIN_LIMIT_S = 1800.0

Tell = Callable[[str], None]


@dataclass
class Demo:
    """One demo in folder ``out``: where its parts lie, and how long its stages took."""

    out: Path
    source: Path
    dataset: str
    steps: list[dict[str, Any]]
    """Of the pipeline, as ``dropmill.yaml`` has them."""
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def bucket(self) -> Path:
        """The watched directory."""
        return self.out / "bucket"

    @property
    def lake_folder(self) -> Path:
        """Where the tables are."""
        return self.out / "lake"

    @property
    def config(self) -> Path:
        """The service's configuration."""
        return self.out / "dropmill.yaml"

    @property
    def log(self) -> Path:
        """What the service wrote."""
        return self.out / "service.log"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Take the time of a stage."""
        began = time.monotonic()
        yield
        self.stages[name] = time.monotonic() - began


def make_room(out: Path) -> None:
    """Empty the folder of an earlier demo. Raises ConfigError where the folder holds anything else."""
    if out.exists() and not (out / MARKER).exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and is no folder of an earlier demo; name another with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def run_demo(demo: Demo, tell: Tell) -> Lake:
    """Drop, wait until the pipeline is through; returns the lake. Raises JobError where a run fails."""
    first, second = halves(demo.source)
    images = sum(_is_image_file(demo.source / name) for name in [*first, *second])
    demo.bucket.mkdir(exist_ok=True)
    _write_config(demo, images)
    with demo.stage("start the service"):
        service = _start(demo, tell)
    try:
        with demo.stage("first half: drop, parse, check, commit"):
            tell(f"dropping {len(first)} files into {demo.bucket / demo.dataset}")
            _drop(demo, first)
            _wait_for(demo, service, _ingested(demo, len(first)), _INGEST_LIMIT_S, tell)
        with demo.stage("second half, labels first"):
            tell(f"dropping {len(second)} files, labels before their images")
            _drop(demo, second)
            _wait_for(demo, service, _ingested(demo, len(first) + len(second)), _INGEST_LIMIT_S, tell)
        tell("all is in the tables; waiting for the rule to start the pipeline")
        with demo.stage("the pipeline, step by step"):
            _wait_for(demo, service, _runs_over(demo), _TRAIN_LIMIT_S, tell, poll_s=_RUN_POLL_S)
    finally:
        status = _stop(service)
    tell(f"the service was told to stop and ended with status {status}")
    lake = Lake.open(demo.lake_folder)
    failed = lake.sql("SELECT run, error FROM runs WHERE state <> 'succeeded' ORDER BY position").to_pylist()
    if failed or status != 0:
        raise JobError(
            f"run {failed[0]['run']} failed: {failed[0]['error']}" if failed else f"status {status}"
        )
    return lake


def count_images(source: Path) -> int:
    """How many images a folder holds."""
    return sum(_is_image_file(source / info.key) for info in ObjectStore.at(source).list())


def halves(source: Path) -> tuple[list[str], list[str]]:
    """The files of a set in two halves by image; the second begins with labels, and with what is about all.

    Keys are relative to ``source``. A label goes with the images that bear its name.
    """
    keys = sorted(info.key for info in ObjectStore.at(source).list())
    if not keys:
        raise ConfigError(f"{source}: the folder holds no files")
    images = [key for key in keys if _is_image_file(source / key)]
    early = {stem_of(without_extension(key)) for key in images[: len(images) // 2]}
    first = [key for key in keys if stem_of(without_extension(key)) in early]
    rest = [key for key in keys if key not in set(first)]
    shown = set(images)
    return first, [key for key in rest if key not in shown] + [key for key in rest if key in shown]


def _is_image_file(path: Path) -> bool:
    with path.open("rb") as file:
        return is_image(file.read(64)) is not None


def _write_config(demo: Demo, images: int) -> None:
    content = {
        "bucket": "bucket",
        "lake": "lake",
        "ingest": {"batch_wait_s": 1.0, "settle_s": 0.3},
        "pipelines": [
            {
                "name": "detector",
                "dataset": demo.dataset,
                # Too many for the first half to set it off.
                "when": {"gate": "warn", "new_images": max(1, int(0.7 * images)), "settle_s": 2.0},
                "steps": demo.steps,
            }
        ],
    }
    demo.config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _start(demo: Demo, tell: Tell) -> subprocess.Popen[bytes]:
    tell(f"dropmill serve -c {demo.config}")
    with demo.log.open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "dropmill", "serve", "-c", str(demo.config), "--log-format", "json"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    _wait_for(
        demo,
        service,
        lambda: (any(line["event"] == "serving" for line in _log(demo.log)), "starting"),
        120,
        tell,
    )
    return service


def _stop(service: subprocess.Popen[bytes]) -> int:
    service.send_signal(signal.SIGTERM)
    try:
        return service.wait(timeout=120)
    except subprocess.TimeoutExpired:
        service.kill()
        return service.wait()


def _drop(demo: Demo, keys: Sequence[str]) -> None:
    for key in keys:
        target = demo.bucket / demo.dataset / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(demo.source / key, target)


def _wait_for(
    demo: Demo,
    service: subprocess.Popen[bytes],
    look: Callable[[], tuple[bool, str]],
    limit_s: float,
    tell: Tell,
    *,
    poll_s: float = _POLL_S,
) -> None:
    """Look until it is so, and tell whenever there is something new to tell."""
    began = time.monotonic()
    told = ""
    while True:
        so, text = look()
        if text and text != told:
            tell(text)
            told = text
        if so:
            return
        if service.poll() is not None:
            raise JobError(f"the service ended with status {service.returncode}; see {demo.log}")
        if time.monotonic() - began > limit_s:
            raise JobError(f"not done after {limit_s:.0f} s: {text}; see {demo.log}")
        time.sleep(poll_s)


def _ingested(demo: Demo, files: int) -> Callable[[], tuple[bool, str]]:
    def look() -> tuple[bool, str]:
        try:
            lake = Lake.open(demo.lake_folder)
        except LakeError:
            return False, ""
        row = lake.sql(
            """SELECT count(*) FILTER (WHERE n.key IS NOT NULL) AS files,
                      (SELECT count(*) FROM images) AS images, (SELECT count(*) FROM annotations) AS boxes,
                      (SELECT count(*) FROM findings) AS findings FROM newest n"""
        ).to_pylist()[0]
        text = "{files} files: {images} images, {boxes} boxes, {findings} findings".format(**row)
        return row["files"] >= files, text if row["files"] else ""

    return look


def _runs_over(demo: Demo) -> Callable[[], tuple[bool, str]]:
    lake = Lake.open(demo.lake_folder)

    def look() -> tuple[bool, str]:
        runs = lake.sql("SELECT run, state FROM runs ORDER BY position").to_pylist()
        if not runs:
            refusals = [line["reasons"] for line in _log(demo.log) if line.get("event") == GATE_REFUSES]
            if refusals:
                raise JobError(f"the gate refuses to train on this set: {'; '.join(refusals[-1])}")
            return False, ""
        waiting = [run for run in runs if run["state"] in OPEN]
        run = waiting[0] if waiting else runs[-1]
        return not waiting, f"{run['run']}: {_progress(demo, run['run']) or run['state']}"

    return look


def _progress(demo: Demo, run: str) -> str:
    """How far the training of a run is."""
    last = last_epoch(demo.lake_folder / "artifacts" / "runs" / run / "results" / "metrics.jsonl")
    return epoch_text(last) if last else ""


def _log(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def dataset_name(folder: Path) -> str:
    """What a folder's data set is called: like the folder, unless that name only says what it is for."""
    name = folder.resolve().name
    rule = DatasetRule(bucket="dropped")
    return name if rule.of(f"{name}/x")[0] == name else f"{name}-set"


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
