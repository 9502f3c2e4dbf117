"""Questions to ten million annotations: our SQL beside DuckDB on the same files, polars and DataFusion.

Every answer is timed from nothing: open the lake (or list its files), ask, fetch. Ours and DuckDB's are asked
in turns and have to agree. Each of the others runs in a process of its own, which may take half a minute and
8 GiB of addresses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import QueryBuilder

from benchmarks.filled_tables import add_rows
from benchmarks.record import record
from storage.lake import Lake

_TABLES = ("annotations", "images", "findings")
_BOXES = 8
_LIMIT_S = 30.0
_LIMIT_BYTES = 8 * 2**30
_AT_ONCE = 1_000_000

QUESTIONS = {
    "class counts by split": """
        SELECT i.split, a.category, count(*) AS boxes FROM annotations a
        JOIN images i ON a.dataset = i.dataset AND a.sample = i.sample
        GROUP BY i.split, a.category ORDER BY i.split, a.category""",
    "box-size quantiles by class": """
        SELECT category, quantile_cont((xmax - xmin) * (ymax - ymin), [0.1, 0.5, 0.9]) AS area
        FROM annotations WHERE NOT ignore GROUP BY category ORDER BY category""",
    "images with most findings": """
        SELECT sample, count(*) AS n FROM findings GROUP BY sample ORDER BY n DESC, sample LIMIT 20""",
    "co-occurrence of classes": """
        WITH seen AS (SELECT DISTINCT dataset, sample, category FROM annotations)
        SELECT x.category AS one, y.category AS other, count(*) AS n
        FROM seen x JOIN seen y ON x.dataset = y.dataset AND x.sample = y.sample
        WHERE x.category < y.category GROUP BY x.category, y.category ORDER BY n DESC, one, other LIMIT 20""",
    "findings by split and class": """
        SELECT i.split, f.rule, a.category, count(*) AS n FROM findings f
        JOIN annotations a ON f.dataset = a.dataset AND f.source = a.source AND f.instance = a.instance
        JOIN images i ON a.dataset = i.dataset AND a.sample = i.sample
        GROUP BY i.split, f.rule, a.category ORDER BY n DESC, i.split, f.rule, a.category LIMIT 20""",
}
# The same question, where an engine has no list of quantiles.
_IN_OTHER_WORDS = {
    ("DataFusion", "box-size quantiles by class"): """
        SELECT category, approx_percentile_cont((xmax - xmin) * (ymax - ymin), 0.1) AS a,
               approx_percentile_cont((xmax - xmin) * (ymax - ymin), 0.5) AS b,
               approx_percentile_cont((xmax - xmin) * (ymax - ymin), 0.9) AS c
        FROM annotations WHERE NOT ignore GROUP BY category ORDER BY category""",
    ("polars", "box-size quantiles by class"): """
        SELECT category, quantile_cont((xmax - xmin) * (ymax - ymin), 0.1) AS a,
               quantile_cont((xmax - xmin) * (ymax - ymin), 0.5) AS b,
               quantile_cont((xmax - xmin) * (ymax - ymin), 0.9) AS c
        FROM annotations WHERE NOT ignore GROUP BY category ORDER BY category""",
}


def main() -> None:
    """Measure and print; ``--annotations`` sets the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-duckdb", action="store_true", help="Leave out polars and DataFusion.")
    parser.add_argument("--keep", type=Path, help="Where the lake is kept; one that is there is asked again.")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="dropmill-sql-"))
    try:
        if not (folder / "tables").exists():
            fill(Lake.create(folder), arguments.annotations)
        rows = []
        for name, query in QUESTIONS.items():
            ours, duck = _in_turns(folder, query, arguments.repeats)
            row: dict[str, object] = {
                "question": name,
                "lake.sql, s": round(ours, 2),
                "DuckDB on the files, s": round(duck, 2),
                "ratio": round(ours / duck, 2),
            }
            if not arguments.only_duckdb:
                row["Arrow data set in DuckDB, s"] = _apart(_ask_arrow, folder, query)
                for engine, ask in (("polars", _ask_polars), ("DataFusion", _ask_datafusion)):
                    row[f"{engine}, s"] = _apart(ask, folder, _IN_OTHER_WORDS.get((engine, name), query))
            rows.append(row)
            print(row, flush=True)
        actions = pa.table(Lake.open(folder).table("annotations").get_add_actions(flatten=True))
        record(
            "sql",
            rows,
            packages=["duckdb", "deltalake", "polars", "pyarrow"],
            notes={
                "annotations": sum(actions["num_records"].to_pylist()),
                "files_of_annotations": actions.num_rows,
            },
        )
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


def fill(lake: Lake, annotations: int) -> None:
    """Write annotations of 80 unevenly common classes, their images, and a finding for every twentieth."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 81)
    classes = np.array([f"class_{number:02}" for number in range(80)])
    for first in range(0, annotations, _AT_ONCE):
        count = min(_AT_ONCE, annotations - first)
        image = np.arange(first, first + count) // _BOXES
        stems = np.char.mod("%08d", image)
        x, y = rng.uniform(0, 1800, count), rng.uniform(0, 1000, count)
        width = np.exp(rng.normal(3.5, 1, count))
        add_rows(lake, "annotations", count, {
            "dataset": "road", "sample": stems, "stem": stems, "source": np.char.add(stems, ".txt"),
            "instance": np.arange(first, first + count) % _BOXES, "batch": first // _AT_ONCE,
            "category": rng.choice(classes, count, p=share / share.sum()), "xmin": x, "ymin": y,
            "xmax": x + width, "ymax": y + width * np.exp(rng.normal(0, 0.4, count)),
            "occlusion": rng.integers(0, 4, count), "truncation": 0.0, "iscrowd": False,
            "ignore": rng.random(count) < 0.02, "corrected": rng.random(count) < 0.01,
        })  # fmt: skip
        names = np.unique(stems)
        images = len(names)
        add_rows(lake, "images", images, {
            "dataset": "road", "sample": names, "stem": names, "key": names, "uri": names, "version": "1",
            "size_bytes": 100_000, "width": 1920, "height": 1080, "labelled": True, "batch": 1,
            "split": np.where(np.arange(images) % 10 == 0, "val", "train"),
        })  # fmt: skip
        found = count // 20
        # A few images are much worse than the rest.
        worst = names[(images * rng.random(found) ** 3).astype(int)]
        rules = np.array(["outside_image", "inverted_box", "zero_area", "duplicate"])
        add_rows(lake, "findings", found, {
            "dataset": "road", "sample": worst, "stem": worst, "source": np.char.add(worst, ".txt"),
            "instance": rng.integers(0, _BOXES, found), "rule": rng.choice(rules, found),
            "severity": "warning", "batch": 1,
        })  # fmt: skip


def _in_turns(folder: Path, query: str, repeats: int) -> tuple[float, float]:
    """The best of some runs of each, after one that warms the disk's cache."""
    best = [float("inf"), float("inf")]
    answers: list[Any] = [None, None]
    for turn in range(repeats + 1):
        for index, ask in enumerate((_ask_lake, _ask_duckdb)):
            began = time.perf_counter()
            answers[index] = ask(folder, query)
            if turn:
                best[index] = min(best[index], time.perf_counter() - began)
    assert answers[0].to_pylist() == answers[1].to_pylist(), f"the answers differ: {query}"
    return best[0], best[1]


def _ask_lake(folder: Path, query: str) -> pa.Table:
    return Lake.open(folder).sql(query).arrow()


def _ask_duckdb(folder: Path, query: str) -> pa.Table:
    lake = Lake.open(folder)
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        if query == QUESTIONS["findings by split and class"]:
            # Left alone it joins findings and images by their data set, and fills any disk with the pairs.
            connection.execute("SET disabled_optimizers = 'join_order'")
        for name in _TABLES:
            files = ", ".join(f"'{file}'" for file in lake.table(name).file_uris())
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")
        return connection.sql(query).to_arrow_table()


def _ask_arrow(folder: Path, query: str) -> None:
    lake = Lake.open(folder)
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false; SET memory_limit = '4GB'")
        for name in _TABLES:
            connection.register(name, lake.table(name).to_pyarrow_dataset())
        connection.sql(query).to_arrow_table()


def _ask_polars(folder: Path, query: str) -> None:
    tables = {name: pl.scan_delta(str(folder / "tables" / name)) for name in _TABLES}
    pl.SQLContext(tables).execute(query, eager=True)


def _ask_datafusion(folder: Path, query: str) -> None:
    lake = Lake.open(folder)
    builder = QueryBuilder()
    for name in _TABLES:
        builder.register(name, lake.table(name))
    pa.table(builder.execute(query))


def _apart(ask: Callable[[Path, str], None], folder: Path, query: str) -> float | str:
    """Seconds in a process of its own, the better of two; or what became of it."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_timed, args=(ask, folder, query, sender))
    process.start()
    process.join(_LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return f"over {_LIMIT_S:g}"
    return receiver.recv() if receiver.poll() else "out of memory"


def _timed(ask: Callable[[Path, str], None], folder: Path, query: str, sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    best = float("inf")
    try:
        for _ in range(2):
            began = time.perf_counter()
            ask(folder, query)
            best = min(best, time.perf_counter() - began)
        sender.send(round(best, 2))
    except Exception as error:  # noqa: BLE001
        sender.send(f"refused: {str(error).splitlines()[0][:60]}")


if __name__ == "__main__":
    main()
