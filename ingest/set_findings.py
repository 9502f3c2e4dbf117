"""Findings about whole data sets: drift of the class mix, and users' expectations of any table.

They belong to no group of samples, so they stand under stems that no file can have (``/drop/...``,
``/run/...``), and are replaced as a whole: once for every newest batch by the service, or on command.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ingest.gates import judge_dataset
from quality.limits import Limits
from quality.selection import Selection
from quality.sets import drift_findings, findings_of
from storage import schemas
from storage.errors import CommitConflictError, ConfigError, DropmillError, UnknownKeyError
from storage.lake import Lake, LaneCommit
from storage.views import VIEWS

log = logging.getLogger(__name__)

_MOST_ROWS = 5_000_000
_TRIES = 5
_BOXES = """SELECT a.*, i.width, i.height, i.split FROM annotations a
    LEFT JOIN (SELECT dataset, sample, width, height, split FROM images) i USING (dataset, sample)
    WHERE a.dataset = $1"""


@dataclass(frozen=True, kw_only=True)
class TableSuite:
    """A suite of expectations for one table or view of the lake."""

    source: str
    """A JSON file, or ``module:name``."""
    table: str = "annotations"


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """How running suites over one table of a data set ended."""

    dataset: str
    table: str
    outcomes: tuple[tuple[str, bool, tuple[str, ...]], ...]
    """Suite, success, and what failed."""
    findings: pl.DataFrame
    docs: str
    """Address of the Data Docs."""


def note_batch(
    lake: Lake,
    suites: Sequence[TableSuite] = (),
    *,
    rules: Selection | None = None,
    datasets: Collection[str] | None = None,
    lane: str = "main",
) -> bool:
    """Write the findings about data sets (none: all) as the newest batch of a lane left them; False where
    that was done before.

    Exactly once for a batch: a transaction of its own tells which batch the table has.
    """
    number = _newest(lake, lane)
    own = f"{lane}/sets"
    if not number or LaneCommit(lake, own, number).has("findings"):
        return False
    if datasets is None:
        datasets = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM objects").to_pylist()]
    chosen = rules or Selection()
    frames = []
    if chosen.runs("class_drift"):
        frames += [_drift(lake, dataset, chosen.limits) for dataset in datasets]
    frames += [_noted(lake, dataset, suite) for dataset in datasets for suite in suites]
    rows = pl.concat(frames) if frames else findings_of([])
    rows = rows.with_columns(batch=pl.lit(number, pl.Int64))
    _replace(lake, (own, number), rows, "/drop/", datasets=datasets)
    return True


def run_suites_on_table(
    lake: Lake, dataset: str, sources: Sequence[str], *, table: str = "annotations", docs: Path | None = None
) -> SuiteRun:
    """Run suites over the rows of a data set in a table or view, as a checkpoint with Data Docs.

    ``annotations`` come with ``width, height, split`` of their image. Data Docs go to ``docs``, else below
    ``artifacts/expectations`` of the lake. Raises UnknownKeyError for a table that is none, ConfigError for
    suites that are none, for a data set without rows, and for more rows than pandas should hold (5 million).
    """
    from quality.expectations.run import pandas_of, run_on_frame
    from quality.expectations.suite import load_suite

    frame = _rows(lake, dataset, table)
    suites = [load_suite(source) for source in sources]
    with tempfile.TemporaryDirectory(prefix="dropmill-expectations-") as folder:
        results = run_on_frame(pandas_of(frame), suites, Path(folder), dataset=dataset, table=table)
        site = results.docs.parent
        if docs is not None:
            shutil.copytree(site, docs, dirs_exist_ok=True)
            address = str(docs / results.docs.name)
        else:
            store = lake.artifacts.below("expectations", dataset, table)
            for path in sorted(site.rglob("*")):
                if path.is_file():
                    store.write(path.relative_to(site).as_posix(), path.read_bytes())
            address = store.uri(results.docs.name)
    return SuiteRun(
        dataset=dataset, table=table, outcomes=results.outcomes, findings=results.findings, docs=address
    )


def note_run(lake: Lake, run: SuiteRun) -> None:
    """Write the findings of a run on command, in place of those of the same suites before."""
    own = "expectations"
    where = [f"/run/{run.table}/{suite}" for suite, _, _ in run.outcomes]
    number = (lake.table("findings").transaction_version(own) or 0) + 1
    rows = _under(run, "/run").with_columns(batch=pl.lit(_newest(lake, "main"), pl.Int64))
    _replace(lake, (own, number), rows, *where, datasets={run.dataset})


def _noted(lake: Lake, dataset: str, suite: TableSuite) -> pl.DataFrame:
    try:
        return _under(run_suites_on_table(lake, dataset, [suite.source], table=suite.table), "/drop")
    except DropmillError as error:
        # A batch is in the tables whatever becomes of the suites: the gate tells of it.
        log.warning("expectations not run: suite=%s dataset=%s error=%s", suite.source, dataset, error)
        row = {"dataset": dataset, "rule": "expectations_not_run", "observed": str(error)}
        return findings_of([{**row, "stem": f"/drop/{suite.table}/{suite.source}"}])


def _under(run: SuiteRun, root: str) -> pl.DataFrame:
    """The findings under the stem of their suite, whose name begins what was observed."""
    suite = pl.col("observed").str.split_exact(": ", 1).struct.field("field_0")
    return run.findings.with_columns(
        pl.format("{}/{}/{}", pl.lit(root), pl.lit(run.table), suite).alias("stem")
    )


def _drift(lake: Lake, dataset: str, limits: Limits) -> pl.DataFrame:
    state = judge_dataset(lake, dataset, limits=limits)
    drifts = [*state.split_drift, *([state.drop_drift] if state.drop_drift else [])]
    return drift_findings(dataset, drifts, limits).with_columns(pl.lit("/drop/drift").alias("stem"))


def _replace(
    lake: Lake, transaction: tuple[str, int], rows: pl.DataFrame, *where: str, datasets: Collection[str]
) -> None:
    """Replace the findings under stems that begin with one of ``where``, in one commit."""
    table = rows.select(schemas.FINDINGS.names).to_arrow().cast(schemas.FINDINGS)
    for attempt in range(1, _TRIES + 1):
        commit = LaneCommit(lake, *transaction)
        begins = pads.scalar(False)
        for start in where:
            begins |= pc.starts_with(pc.field("stem"), start)
        old = commit.read("findings", columns=["dataset", "stem"], where=begins)
        stems: dict[str, set[str]] = {}
        for owner, stem in zip(old["dataset"].to_pylist(), old["stem"].to_pylist(), strict=True):
            if owner in datasets:
                stems.setdefault(owner, set()).add(stem)
        for owner, stem in rows.select("dataset", "stem").unique().iter_rows():
            stems.setdefault(owner, set()).add(stem)
        try:
            commit.replace("findings", table, ("stem", stems))
            return
        except CommitConflictError:
            if attempt == _TRIES:
                raise


def _rows(lake: Lake, dataset: str, table: str) -> pl.DataFrame:
    if table not in schemas.TABLES and table not in VIEWS:
        raise UnknownKeyError("--table", table, sorted({*schemas.TABLES, *VIEWS}))
    count = lake.sql(
        f"SELECT count(*) AS n FROM {table} WHERE dataset = $1", parameters=[dataset]
    ).to_pylist()[0]["n"]
    if not count:
        raise ConfigError(f"{lake.url}: the table {table} has no rows of the data set {dataset!r}")
    if count > _MOST_ROWS:
        raise ConfigError(f"{count} rows of {table} are too many for pandas; {_MOST_ROWS} would do")
    query = _BOXES if table == "annotations" else f"SELECT * FROM {table} WHERE dataset = $1"
    return lake.sql(query, parameters=[dataset]).polars()


def _newest(lake: Lake, lane: str) -> int:
    rows = lake.sql(
        "SELECT max(number) AS n FROM batches WHERE state = 'done' AND lane = $1", parameters=[lane]
    ).to_pylist()
    return int(rows[0]["n"] or 0)
