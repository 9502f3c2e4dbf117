"""What was done in a lake: batches, quarantine, runs with their curves, models."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import polars as pl

from dropmill.page.answers_work import (
    Batch,
    Batches,
    Curves,
    Lineage,
    Model,
    Models,
    ObjectsBehind,
    Quarantine,
    Quarantined,
    RestsOn,
    Run,
    Runs,
)
from dropmill.page.open_lake import OpenLake
from storage.errors import ConfigError, DropmillError

_SOON_S = 0.15
_MOST_ROWS = 500
_MOST_BATCHES = 10_000
_MOST_IN_QUARANTINE = 100_000
_MOST_CURVE_BYTES = 4_000_000
_MOST_MEASURES = 60
_MOST_KEPT = 32
T = TypeVar("T")


class Work:
    """Answers about one lake, kept for as long as their tables do not change."""

    def __init__(self, lake: OpenLake) -> None:
        self._lake = lake
        self._answers: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._running: dict[str, Future[Any]] = {}

    def batches(self, before: str | None, limit: int) -> Batches:
        """Batches, newest first; ``before`` is the cursor of the page before."""
        every = self._kept("batches", ("batches",), self._batches)
        first = 0
        if before is not None:
            names = [f"{batch.lane}/{batch.number}" for batch in every]
            if before not in names:
                raise ConfigError(f"{before[:80]!r} is no batch; take `next` of the page before")
            first = names.index(before) + 1
        shown = every[first : first + limit]
        more = len(every) > first + limit
        return Batches(batches=shown, next=f"{shown[-1].lane}/{shown[-1].number}" if more else None)

    def quarantine(
        self, after: str | None, limit: int, dataset: str | None, *, wait_s: float = _SOON_S
    ) -> Quarantine:
        """Objects in quarantine beyond the key ``after``, as they are, or were before the newest commits.

        The ledger of a large bucket takes longer to look through than a person should wait.
        """
        found = self._soon("quarantine", ("objects",), self._quarantined, wait_s)
        every = found or []
        mine = [one for one in every if dataset in (None, one.dataset)]
        rest = [one for one in mine if after is None or one.key > after]
        shown = rest[:limit]
        is_newest = found is not None and found is self._newest("quarantine", ("objects",))
        return Quarantine(
            state="current" if is_newest else "looking",
            total=len(mine),
            objects=shown,
            next=shown[-1].key if len(rest) > limit else None,
        )

    def runs(self, run: str | None = None) -> Runs:
        """The newest runs, newest first; or the one of that name, however old."""
        return self._kept(f"runs {run or ''}", ("runs",), lambda: self._runs(run))

    def models(self, model: str | None = None, run: str | None = None) -> Models:
        """The newest models, newest first; or the one of that name, or those that a run made, however old."""
        name = json.dumps(["models", model, run])
        return self._kept(name, ("models", "runs"), lambda: self._models(model, run))

    def lineage(self, model: str) -> Lineage | None:
        """The runs and the objects behind a model; None where there is no such model."""
        found = self.models(model).models
        if not found:
            return None
        tables = ("models", "runs", "shards", "seen", "objects")
        return self._kept(f"lineage {model}", tables, lambda: self._lineage(model, found[0].run))

    def curves(self, run: str) -> Curves | None:
        """What the training of a run measured after each epoch; None where there is no such run."""
        if not self.runs(run).runs:
            return None
        return Curves(run=run, **_curves(self._lines(run)))

    def _kept(self, name: str, tables: tuple[str, ...], make: Callable[[], T]) -> T:
        versions = self._lake.versions()
        key = (name, *(versions.get(table) for table in tables))
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                kept: T = self._answers[key]
                return kept
        made = make()
        with self._lock:
            self._answers[key] = made
            while len(self._answers) > _MOST_KEPT:
                self._answers.popitem(last=False)
        return made

    def _newest(self, name: str, tables: tuple[str, ...]) -> Any:
        """The answer about the newest versions; None where there is none yet."""
        versions = self._lake.versions()
        with self._lock:
            return self._answers.get((name, *(versions.get(table) for table in tables)))

    def _soon(self, name: str, tables: tuple[str, ...], make: Callable[[], T], wait_s: float) -> T | None:
        """The answer where it is there within ``wait_s``, else the one before it, else None."""
        if (newest := self._newest(name, tables)) is not None:
            known: T = newest
            return known
        with self._lock:
            running = self._running.get(name)
            if running is None or running.done():
                running = self._running[name] = self._pool.submit(self._kept, name, tables, make)
            before: T | None = next(
                (self._answers[key] for key in reversed(self._answers) if key[0] == name), None
            )
        try:
            made: T = running.result(wait_s)
        except TimeoutError:
            return before
        return made

    def _batches(self) -> list[Batch]:
        # File by file, because those that were read before are held; of their columns all but the events.
        files, places = self._lake.places("batches")
        parts = [self._lake.rows(files, place.path, tuple(Batch.model_fields)) for place in places]
        if not parts:
            return []
        rows = pl.concat(parts).sort(
            ["planned_at", "lane", "number"], descending=[True, False, True], nulls_last=True
        )
        return [Batch(**row) for row in rows.head(_MOST_BATCHES).iter_rows(named=True)]

    def _quarantined(self) -> list[Quarantined]:
        # The view "quarantine" orders the whole ledger; only keys that ever were in quarantine matter here.
        rows = self._lake.lake.sql(
            f"""SELECT coalesce(dataset, '') AS dataset, key, version, error, batch, seen_at FROM (
                  SELECT * FROM objects
                  WHERE key IN (SELECT key FROM objects WHERE state = 'quarantined')
                  QUALIFY row_number() OVER (PARTITION BY lane, key ORDER BY batch DESC) = 1)
                WHERE state = 'quarantined' ORDER BY key LIMIT {_MOST_IN_QUARANTINE}"""
        )
        return [Quarantined(**row) for row in rows.to_pylist()]

    def _runs(self, run: str | None) -> Runs:
        rows = self._lake.lake.sql(
            f"""SELECT * FROM runs WHERE $1::VARCHAR IS NULL OR run = $1
                ORDER BY submitted_at DESC NULLS LAST, run LIMIT {_MOST_ROWS}""",
            parameters=[run],
        )
        return Runs(
            runs=[
                Run(
                    **{name: row[name] for name in _PLAIN_OF_RUNS},
                    snapshot=_object(row["snapshot"]),
                    parameters=_object(row["parameters"]),
                    metrics=_object(row["metrics"]),
                    outputs=_object(row["outputs"]),
                )
                for row in rows.to_pylist()
            ]
        )

    def _models(self, model: str | None, run: str | None) -> Models:
        rows = self._lake.lake.sql(
            f"""SELECT m.*, r.labelled_images, r.state AS run_state FROM models m
                LEFT JOIN (SELECT run, labelled_images, state FROM runs) r ON r.run = m.run
                WHERE ($1::VARCHAR IS NULL OR m.model = $1) AND ($2::VARCHAR IS NULL OR m.run = $2)
                ORDER BY m.made_at DESC NULLS LAST, m.model LIMIT {_MOST_ROWS}""",
            parameters=[model, run],
        )
        return Models(
            models=[
                Model(
                    **{name: row[name] for name in _PLAIN_OF_MODELS},
                    categories=[name for name in row["categories"] or [] if name is not None],
                    metrics=_object(row["metrics"]),
                    snapshot=_object(row["snapshot"]),
                    state=row.get("state"),
                )
                for row in rows.to_pylist()
            ]
        )

    def _lineage(self, model: str, run: str) -> Lineage:
        runs = self._lake.lake.sql(
            """SELECT a.rests_on AS run, a.step, a.dataset, r.state, coalesce(s.shards, 0) AS shards
               FROM ancestry a JOIN runs r ON r.run = a.rests_on
               LEFT JOIN (SELECT run, count(*) AS shards FROM shards GROUP BY run) s ON s.run = a.rests_on
               WHERE a.run = $1 ORDER BY a.position DESC NULLS LAST, a.rests_on""",
            parameters=[run],
        )
        objects = self._lake.lake.sql(
            """SELECT kind, now, count(DISTINCT key) AS objects FROM model_objects WHERE model = $1
               GROUP BY kind, now ORDER BY kind, now""",
            parameters=[model],
        )
        return Lineage(
            model=model,
            runs=[RestsOn(**row) for row in runs.to_pylist()],
            objects=[ObjectsBehind(**row) for row in objects.to_pylist()],
        )

    def _lines(self, run: str) -> list[dict[str, Any]]:
        """The epochs of a run's metrics file; none where there is none, or not yet."""
        artifacts = self._lake.lake.artifacts
        key = f"runs/{run}/results/metrics.jsonl"
        try:
            info = artifacts.head(key)
            if info is None:
                return []
            with artifacts.open(key) as file:
                file.seek(max(0, info.size_bytes - _MOST_CURVE_BYTES))
                text = file.read(_MOST_CURVE_BYTES).decode("utf-8", "replace")
        except (DropmillError, OSError):
            return []
        lines = [_object(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if _is_number(line.get("epoch"))]


_PLAIN_OF_RUNS = (
    *("run", "pipeline", "step", "dataset", "state"),
    *("labelled_images", "error", "submitted_at", "ended_at"),
)
_PLAIN_OF_MODELS = (
    *("model", "run", "dataset", "architecture", "kind", "uri", "size_bytes", "sha256", "made_at"),
    *("labelled_images", "run_state"),
)


def _curves(lines: list[dict[str, Any]]) -> dict[str, Any]:
    # A training that went on from a checkpoint may have written an epoch twice: the later one counts.
    by_epoch = {float(line["epoch"]): line for line in lines}
    epochs = sorted(by_epoch)
    names = dict.fromkeys(
        name for epoch in epochs for name, value in by_epoch[epoch].items() if _is_number(value)
    )
    names.pop("epoch", None)
    curves = {
        name: [_number(by_epoch[epoch].get(name)) for epoch in epochs]
        for name in list(names)[:_MOST_MEASURES]
    }
    return {"epochs": epochs, "curves": curves}


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object; empty where the text is none."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    finite: dict[str, Any] = _finite(value)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
