"""Samples derived again from what the tables hold, without reading the bucket: after a change of rules."""

from __future__ import annotations

from collections.abc import Callable

from ingest.batch import Batch, Committer, Counts
from ingest.events import Event
from ingest.reconcile import cut
from storage.errors import QueryError
from storage.lake import Lake


def replay(
    lake: Lake,
    committer: Committer,
    dataset: str,
    *,
    from_version: int | None = None,
    batch_objects: int = 2_000,
    on_batch: Callable[[Batch, Counts, int], None] = lambda _batch, _counts, _left: None,
) -> Counts:
    """Derive the samples of a data set again; with ``from_version`` those whose labels have come since that
    version of the table ``labels``.

    Raises QueryError where there is no such data set, or no such version.
    """
    stems = _stems(lake, dataset, from_version)
    events = [Event(action="replay", key=stem, version="", size_bytes=0, dataset=dataset) for stem in stems]
    total, left = Counts(), len(events)
    for chunk in cut(events, batch_objects):
        batch = committer.plan(chunk)
        counts = committer.run(batch)
        left -= len(chunk)
        total = total + counts
        on_batch(batch, counts, left)
    return total


def _stems(lake: Lake, dataset: str, from_version: int | None) -> list[str]:
    if from_version is None:
        query = """SELECT stem FROM images WHERE dataset = $1
                   UNION SELECT stem FROM mentions WHERE dataset = $1
                   UNION SELECT stem FROM labels WHERE dataset = $1 ORDER BY stem"""
        rows = lake.sql(query, parameters=[dataset]).to_pylist()
        if not rows:
            known = lake.sql("SELECT DISTINCT dataset FROM images ORDER BY 1").to_pylist()
            names = ", ".join(row["dataset"] for row in known) or "none"
            raise QueryError(f"data set {dataset!r}: nothing is known of it; known: {names}")
    else:
        # Every row says in which batch it came, and a batch is one version of the table.
        old = lake.sql(
            "SELECT coalesce(max(batch), 0) AS batch FROM labels", versions={"labels": from_version}
        ).to_pylist()[0]["batch"]
        rows = lake.sql(
            "SELECT DISTINCT stem FROM labels WHERE dataset = $1 AND batch > $2 ORDER BY stem",
            parameters=[dataset, old],
        ).to_pylist()
    return [row["stem"] for row in rows]
