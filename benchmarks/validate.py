"""The rules for boxes over ten million rows of a Delta table, beside Great Expectations on pandas and a loop.

All three read the same table and tell which rows are wrong. Great Expectations has the rules in its own
expectations for pandas, once with all rows that fail (as findings need them) and once for verdicts alone; the
loop is plain Python over rows, measured on a part and scaled to the whole.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from deltalake import DeltaTable

from benchmarks.record import record
from quality.check import scan_boxes
from quality.rules import CORNERS

_PER_IMAGE = 10
_LOOPED = 200_000
_DEFECTS = 0.002
_ROWS_AT_ONCE = 2_000_000


def main() -> None:
    """Measure and print; ``--boxes`` sets the size of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-validate-"))
    try:
        for part in _tables(arguments.boxes):
            part.write_delta(folder / "boxes", mode="append")
        ours, found = _ours(folder / "boxes", arguments.repeats)
        loop, looped = _loop(folder / "boxes", arguments.boxes)
        verdicts, _ = _great_expectations(folder / "boxes", complete=False)
        rows_too, failed = _great_expectations(folder / "boxes", complete=True)
        assert failed == found, f"Great Expectations finds {failed} boxes, the rules {found}"
        known = DeltaTable(folder / "boxes").to_pyarrow_dataset().count_rows()
        assert known == arguments.boxes
        measured = {
            "dropmill: findings": ours,
            "Great Expectations, pandas: verdicts": verdicts,
            "Great Expectations, pandas: rows": rows_too,
            f"Python loop (from {looped:,} boxes)": loop,
        }
        record(
            "validate",
            [
                {
                    "what": name,
                    "seconds": round(seconds, 2),
                    "million boxes/s": round(arguments.boxes / seconds / 1e6, 3),
                    "times dropmill's": round(seconds / ours, 1),
                }
                for name, seconds in measured.items()
            ],
            packages=["polars", "deltalake", "great-expectations", "pandas"],
            notes={"boxes": arguments.boxes, "boxes_with_an_error": found, "repeats": arguments.repeats},
        )
    finally:
        shutil.rmtree(folder)


def _ours(table: Path, repeats: int) -> tuple[float, int]:
    """Median of the seconds, and the number of boxes that break a rule.

    The first run is not counted: it brings the files into the system's cache, where the others find them.
    """
    seconds, found = [], 0
    for _ in range(repeats + 1):
        began = time.perf_counter()
        findings = scan_boxes(pl.scan_delta(table))
        seconds.append(time.perf_counter() - began)
        found = findings.select("source", "instance").unique().height
    return median(seconds[1:]), found


def _great_expectations(table: Path, *, complete: bool) -> tuple[float, int]:
    """Seconds with reading, and the number of boxes that fail (with ``complete``)."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    began = time.perf_counter()
    frame = pl.read_delta(table).to_pandas()
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("boxes")
    batch = source.add_dataframe_asset("boxes").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name="rules", expectations=_native(gx.expectations)))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="rules", data=batch, suite=suite)
    )
    form: Any = {"result_format": "COMPLETE", "unexpected_index_column_names": ["source", "instance"]}
    result = definition.run(
        batch_parameters={"dataframe": frame}, result_format=form if complete else "BOOLEAN_ONLY"
    )
    seconds = time.perf_counter() - began
    failed = {
        (row["source"], row["instance"])
        for outcome in result.results
        for row in outcome.result.get("unexpected_index_list") or ()
    }
    return seconds, len(failed)


def _native(core: Any) -> list[Any]:
    """The rules in Great Expectations' own words: there, finite, not negative, not inverted, an area, inside.

    A box without area fails the strict comparison alone, an inverted one both.
    """
    pair = core.ExpectColumnPairValuesAToBeGreaterThanB
    found = [core.ExpectColumnValuesToNotBeNull(column=name) for name in CORNERS]
    found += [
        core.ExpectColumnValuesToBeBetween(column=name, min_value=0, max_value=1e300) for name in CORNERS
    ]
    found += [
        pair(column_A=f"{axis}max", column_B=f"{axis}min", or_equal=equal)
        for axis in "xy"
        for equal in (True, False)
    ]
    sides = {"x": "width", "y": "height"}
    found += [
        pair(column_A=side, column_B=f"{axis}{end}", or_equal=True)
        for axis, side in sides.items()
        for end in ("min", "max")
    ]
    return found


def _loop(table: Path, boxes: int) -> tuple[float, int]:
    """Seconds that a loop over all rows would take, and the rows that it was measured on."""
    rows = pl.scan_delta(table).head(_LOOPED).collect()
    began = time.perf_counter()
    findings = []
    for row in rows.iter_rows(named=True):
        findings += _broken(row)
    return (time.perf_counter() - began) * boxes / rows.height, rows.height


def _broken(row: dict[str, Any]) -> list[tuple[str, int, str]]:
    corners = [row[name] for name in CORNERS]
    who = row["source"], row["instance"]
    if any(value is None for value in corners):
        return [(*who, "missing_box")]
    if not all(math.isfinite(value) for value in corners):
        return [(*who, "not_finite")]
    x1, y1, x2, y2 = corners
    found = []
    if x2 < x1 or y2 < y1:
        found.append((*who, "inverted_box"))
    if min(corners) < 0:
        found.append((*who, "negative_coordinate"))
    if max(x1, x2) > row["width"] or max(y1, y2) > row["height"]:
        found.append((*who, "beyond_image"))
    if x1 == x2 or y1 == y2:
        found.append((*who, "zero_area"))
    return found


def _tables(boxes: int) -> Iterator[pl.DataFrame]:
    """Boxes in images of 1280x720, some of them broken; ten to an image."""
    for first in range(0, boxes, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, boxes - first)
        rng = np.random.default_rng(first)
        x, y = rng.uniform(0, 1100, count).round(2), rng.uniform(0, 600, count).round(2)
        corners = np.stack([x, y, x + rng.uniform(5, 180, count), y + rng.uniform(5, 120, count)], axis=1)
        bad = np.flatnonzero(rng.random(count) < _DEFECTS)
        kind = rng.integers(0, 5, len(bad))
        corners[bad[kind == 0]] = corners[bad[kind == 0]][:, [2, 1, 0, 3]]
        corners[bad[kind == 1], 0] = -3.5
        corners[bad[kind == 2], 2] = 1281.0
        corners[bad[kind == 3], 3] = corners[bad[kind == 3], 1]
        corners[bad[kind == 4], 2] = np.inf
        number = np.arange(first, first + count)
        image = pl.Series(number // _PER_IMAGE).cast(pl.String).str.zfill(8)
        yield pl.DataFrame(
            {
                "dataset": pl.Series(["road"]).new_from_index(0, count),
                "sample": "image_2/" + image,
                "stem": image,
                "source": "road/label_2/" + image + ".txt",
                "instance": number % _PER_IMAGE,
                "line": number % _PER_IMAGE + 1,
                "category": pl.Series(["Car", "Van", "Pedestrian", "Cyclist", "Truck"])[
                    rng.integers(0, 5, count)
                ],
                **{name: corners[:, i] for i, name in enumerate(CORNERS)},
                "width": np.full(count, 1280, np.int32),
                "height": np.full(count, 720, np.int32),
            }
        )


if __name__ == "__main__":
    main()
