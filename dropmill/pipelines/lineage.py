"""Where a model comes from, down to the objects of the bucket, and which models an object went into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from storage.errors import ConfigError
from storage.lake import Lake
from storage.sql import Rows

_TABLES_SHOWN = ("images", "annotations", "labels", "objects", "masks")


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A model's files, the runs behind them (newest first), its shards, and the objects behind it."""

    model: str
    run: str
    dataset: str
    state: str | None
    files: tuple[dict[str, Any], ...]
    runs: tuple[dict[str, Any], ...]
    shards: tuple[dict[str, Any], ...]
    objects: Rows

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "model": self.model,
            "run": self.run,
            "dataset": self.dataset,
            "state": self.state,
            "files": list(self.files),
            "runs": list(self.runs),
            "shards": list(self.shards),
            "objects": json.loads(self.objects.json()),
        }


def lineage_of(lake: Lake, model: str) -> Lineage:
    """The lineage of a model: by the name of one of its files, of its run, or ``current`` or
    ``current:DATASET``.

    Raises ConfigError for a name that is none, or that says no single model.
    """
    run, dataset, state = _find(lake, model)
    rests = lake.sql(
        """SELECT a.rests_on AS run, a.step, a.snapshot, r.state, r.metrics, r.ended_at
           FROM ancestry a JOIN runs r ON r.run = a.rests_on
           WHERE a.run = $1 ORDER BY a.position DESC, a.rests_on""",
        parameters=[run],
    ).to_pylist()
    inputs: dict[str, dict[str, str]] = {}
    for row in lake.sql("SELECT * FROM run_inputs").to_pylist():
        inputs.setdefault(row["run"], {})[row["what"]] = row["made_by"]
    names = [row["run"] for row in rests]
    files = lake.sql(
        """SELECT model, kind, uri, sha256, state FROM models WHERE list_contains($1, run)
           ORDER BY made_at DESC, kind""",
        parameters=[names],
    ).to_pylist()
    shards = lake.sql(
        """SELECT run, count(*) AS shards, sum(samples)::BIGINT AS samples, min(uri) AS first FROM shards
           WHERE list_contains($1, run) GROUP BY run ORDER BY run""",
        parameters=[names],
    ).to_pylist()
    objects = lake.sql(
        """SELECT DISTINCT kind, sample, key, version, roles, now FROM model_objects
           WHERE model IN (SELECT model FROM models WHERE run = $1) ORDER BY kind, key, sample""",
        parameters=[run],
        max_rows=None,
    )
    return Lineage(
        model=model,
        run=run,
        dataset=dataset,
        state=state,
        files=tuple(files),
        runs=tuple(_run(row, inputs.get(row["run"], {})) for row in rests),
        shards=tuple(shards),
        objects=objects,
    )


def models_that_saw(lake: Lake, key: str) -> Rows:
    """Every model that an object of the bucket went into, at which version and as what, the newest first."""
    known = lake.sql("SELECT count(*) AS n FROM objects WHERE key = $1", parameters=[key]).to_pylist()
    if not known[0]["n"]:
        raise ConfigError(
            f"{lake.url}: no object {key!r}; keys are paths below the bucket, such as those that "
            'dropmill sql "SELECT key FROM newest" shows'
        )
    return lake.sql(
        """SELECT o.model, o.file, o.model_state, o.version, o.roles, o.now, m.made_at
           FROM model_objects o JOIN models m ON m.model = o.model
           WHERE o.key = $1 AND o.file <> 'card' ORDER BY m.made_at DESC, o.model""",
        parameters=[key],
    )


def removed_but_seen(lake: Lake) -> Rows:
    """Objects that were removed or replaced since, each with the models that were made from it."""
    return lake.sql(
        """SELECT dataset, key, version, now, list_sort(list(DISTINCT model)) AS models,
                  bool_or(coalesce(model_state = 'current', false)) AS in_a_current_model
           FROM model_objects WHERE now <> 'current' AND file <> 'card'
           GROUP BY ALL ORDER BY in_a_current_model DESC, dataset, key, version"""
    )


def _find(lake: Lake, model: str) -> tuple[str, str, str | None]:
    word, _, dataset = model.partition(":")
    if word == "current":
        rows = lake.sql(
            """SELECT DISTINCT run, dataset, state FROM models
               WHERE state = 'current' AND ($1 = '' OR dataset = $1)""",
            parameters=[dataset],
        ).to_pylist()
    else:
        rows = lake.sql(
            """SELECT run, dataset, max(state) AS state FROM models
               WHERE model = $1 OR run = $1 GROUP BY run, dataset""",
            parameters=[model],
        ).to_pylist()
    if len(rows) == 1:
        return rows[0]["run"], rows[0]["dataset"], rows[0]["state"]
    if rows:
        names = ", ".join(f"current:{row['dataset']}" for row in rows)
        raise ConfigError(f"{lake.url}: {len(rows)} models are current; say which: {names}")
    known = lake.sql(
        "SELECT model FROM models WHERE kind <> 'card' ORDER BY made_at DESC LIMIT 5"
    ).to_pylist()
    raise ConfigError(
        f"{lake.url}: no model {model!r}; the newest: {', '.join(row['model'] for row in known) or 'none'}"
    )


def _run(row: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
    snapshot = json.loads(row["snapshot"] or "{}")
    return {
        "run": row["run"],
        "step": row["step"],
        "state": row["state"],
        "takes": inputs,
        "versions": {name: snapshot[name] for name in _TABLES_SHOWN if name in snapshot},
        "ended_at": None if row["ended_at"] is None else row["ended_at"].isoformat(),
    }
