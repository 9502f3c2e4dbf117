"""An execution of a pipeline, planned as a whole: a row of ``runs`` for each step, before any work.

All steps of an execution read the same version of every table. A step names the runs whose outputs it takes,
so that no step has to know where another puts its files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from storage import schemas
from storage.errors import ConfigError
from storage.lake import Lake

Row = dict[str, Any]
"""A row of ``runs``."""

_MODELS = ("train", "prune", "retrain", "quantise", "export")
TAKES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "masks": {},
    "augment": {"masks": ("masks",)},
    "train": {"masks": ("masks",), "shards": ("augment",)},
    "prune": {"model": ("train", "retrain")},
    "retrain": {"shards": ("augment",), "model": ("prune", "train", "retrain")},
    "quantise": {"shards": ("augment",), "model": ("prune", "train", "retrain")},
    "export": {"shards": ("augment",), "model": ("train", "prune", "retrain", "quantise")},
    "evaluate": {"model": _MODELS},
    "promote": {"evaluation": ("evaluate",)},
}
"""Step to what it takes, and from which steps: the nearest before it counts."""
_NEEDED = ("model", "evaluation")
# What the tables of the bucket say: commits to the others (runs, models) make no other execution.
_DATA = ("annotations", "images")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a step's job asks the cluster for; None asks for nothing."""

    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a pipeline: a subcommand of ``dropmill step``, and how its job is run."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the step is told; goes into ``runs`` as it is."""
    resources: Resources = field(default_factory=Resources)
    retries: int = 0
    """How often it is tried again where it fails for another reason than bad input."""
    retry_wait_s: float = 30.0
    """Before the second attempt; doubles with each."""


def inputs_of(names: Sequence[str]) -> list[dict[str, int]]:
    """For every step what it takes, and the place (from 0) of the step that makes it.

    Raises ConfigError for steps that nobody knows, or that lack what they work on.
    """
    found = []
    for place, name in enumerate(names):
        if name not in TAKES:
            raise ConfigError(f"step {place + 1}: {name!r} is none; expected one of {', '.join(TAKES)}")
        takes = {}
        for what, makers in TAKES[name].items():
            makes = [earlier for earlier in range(place) if names[earlier] in makers]
            if makes:
                takes[what] = makes[-1]
            elif what in _NEEDED:
                raise ConfigError(
                    f"step {place + 1}, {name}: has no {what} to work on; expected one of "
                    f"{', '.join(makers)} before it"
                )
        found.append(takes)
    return found


def plan_execution(
    pipeline: str,
    steps: Sequence[Step],
    dataset: str,
    snapshot: Mapping[str, int],
    *,
    labelled_images: int,
    now: datetime,
    again: int = 0,
) -> list[Row]:
    """The rows of an execution. The same pipeline, data set, data and steps get the same names.

    ``again`` tells apart executions that somebody wants a second time.
    """
    said = [pipeline, dataset, [snapshot.get(name) for name in _DATA], [asdict(step) for step in steps]]
    digest = hashlib.sha256(json.dumps([*said, again] if again else said, sort_keys=True).encode())
    execution = f"{slug(pipeline)}-{slug(dataset)}-{digest.hexdigest()[:8]}"
    names = [f"{execution}-{place}-{slug(step.name)}" for place, step in enumerate(steps, start=1)]
    return [
        {
            "run": name,
            "pipeline": pipeline,
            "step": step.name,
            "dataset": dataset,
            "state": "planned",
            "snapshot": json.dumps(dict(snapshot)),
            "parameters": json.dumps(dict(step.parameters)),
            "metrics": "{}",
            "outputs": "{}",
            "labelled_images": labelled_images,
            "error": None,
            "submitted_at": now,
            "ended_at": None,
            "execution": execution,
            "position": place,
            "inputs": json.dumps({what: names[maker] for what, maker in takes.items()}),
            "attempt": 1,
            "policy": json.dumps(
                {
                    "retries": step.retries,
                    "retry_wait_s": step.retry_wait_s,
                    "resources": {key: value for key, value in asdict(step.resources).items() if value},
                }
            ),
            "not_before": None,
        }
        for place, (step, name, takes) in enumerate(
            zip(steps, names, inputs_of([step.name for step in steps]), strict=True), start=1
        )
    ]


def write_runs(lake: Lake, rows: Sequence[Row]) -> None:
    """Put rows into ``runs``, in one commit."""
    if rows:
        lake.put("runs", pa.Table.from_pylist(list(rows), schema=schemas.RUNS), keys=["run"])


def slug(name: str) -> str:
    """A name that is safe in addresses; where that changes it, a digest keeps it apart from its likes."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "x"
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
