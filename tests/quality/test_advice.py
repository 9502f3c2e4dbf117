"""Warnings of boxes: planted defects are found, all of them and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.check import check_boxes, scan_boxes
from quality.limits import Limits
from quality.measures import find_twins
from quality.rules import ADVISORY_RULES, CORNERS, RULES, advisory_rules

_SIDE = 2500
_EVERY = (*RULES, *ADVISORY_RULES)


def square(x: float, y: float, wide: float, high: float) -> str:
    return json.dumps([[x, y, x + wide, y, x + wide, y + high, x, y + high]])


def box(number: int, **changes: Any) -> dict[str, Any]:
    """A sound box of 60x30 in rows of its own, with a mask that fits."""
    x, y = 20.0 + 25 * number, 30.0 + 40 * number
    row = {
        "dataset": "d",
        "sample": "s",
        "stem": "s",
        "source": "labels.json",
        "instance": number,
        "line": None,
        "category": "car",
        "xmin": x,
        "ymin": y,
        "xmax": x + 60,
        "ymax": y + 30,
        "width": _SIDE,
        "height": _SIDE,
        "iscrowd": False,
        "ignore": False,
        "segmentation": square(x, y, 60, 30),
    }
    return row | changes


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    types = {**dict.fromkeys(CORNERS, pl.Float64), "line": pl.Int64, "segmentation": pl.String}
    return pl.DataFrame(rows, schema_overrides=types)


def found(rows: list[dict[str, Any]], **options: Any) -> set[tuple[int, str]]:
    findings = check_boxes(frame(rows), correct=False, rules=_EVERY, **options).findings
    return set(findings.select("instance", "rule").rows())


def _shift(row: dict[str, Any], by: float) -> dict[str, Any]:
    return {"xmin": row["xmin"] + by, "xmax": row["xmax"] + by}


# Each makes one defect in a sound box and nothing else.
_DEFECTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "missing_box": lambda row: dict.fromkeys(CORNERS),
    "not_finite": lambda row: {"xmax": float("nan")},
    "inverted_box": lambda row: {"xmin": row["xmax"], "xmax": row["xmin"], "segmentation": None},
    "negative_coordinate": lambda row: {"xmin": -1.0, "xmax": 61.0, "segmentation": None},
    "beyond_image": lambda row: {"xmin": _SIDE - 50.0, "xmax": _SIDE + 1.0, "segmentation": None},
    "zero_area": lambda row: {"ymax": row["ymin"], "segmentation": None},
    "too_small": lambda row: {"ymax": row["ymin"] + 3.9, "segmentation": None},
    "extreme_aspect": lambda row: {"ymax": row["ymin"] + 5, "xmax": row["xmin"] + 101, "segmentation": None},
    "unlisted_category": lambda row: {"category": "carr"},
    "malformed_mask": lambda row: {"segmentation": "[[1, 2, 3, 4]]"},
    "mask_outside_box": lambda row: {"segmentation": square(row["xmin"] - 2.5, row["ymin"], 60, 30)},
    "self_intersecting_polygon": lambda row: {
        "segmentation": json.dumps(
            [
                [
                    row["xmin"],
                    row["ymin"],
                    row["xmax"],
                    row["ymax"],
                    row["xmax"],
                    row["ymin"],
                    row["xmin"],
                    row["ymax"],
                ]
            ]
        )
    },
    "crowd_misuse": lambda row: {"iscrowd": True, "ignore": True},
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, *_DEFECTS, "duplicate_box"]), min_size=1, max_size=60))
def test_what_is_planted_is_found_and_nothing_else(plan: list[str | None]) -> None:
    rows, truth = [], set()
    for number, defect in enumerate(plan):
        row = box(number)
        if defect == "duplicate_box":
            # Overlap of 58 in a union of 62 columns: IoU 0.935.
            twin = {**row, "instance": 1000 + number, **_shift(row, 2.0), "segmentation": None}
            rows += [row, twin]
            truth.add((1000 + number, defect))
            continue
        rows.append(row | (_DEFECTS[defect](row) if defect else {}))
        if defect:
            truth.add((number, defect))
    assert found(rows, categories=["car", "van"]) == truth


def test_every_advisory_rule_has_a_planted_defect() -> None:
    assert {rule.name for rule in _EVERY} == {*_DEFECTS, "duplicate_box"}


@pytest.mark.parametrize(
    "changes",
    [
        {"ignore": True, "xmax": 21.0, "segmentation": None},
        {"ignore": True, "category": "DontCare", "ymax": 31.0, "segmentation": None},
    ],
)
def test_ignored_regions_are_no_objects_and_may_be_of_any_shape(changes: dict[str, Any]) -> None:
    assert found([box(0, **changes)]) == set()


def test_boxes_without_the_columns_of_masks_and_flags_are_checked_all_the_same() -> None:
    plain = frame([box(0, xmax=21.0)]).drop("segmentation", "iscrowd", "ignore")
    findings = check_boxes(plain, correct=True, rules=_EVERY).findings
    assert (
        findings.select("rule", "severity", "correction").rows()
        == [("extreme_aspect", "warning", None), ("too_small", "warning", None)][::-1]
    )


def test_limits_move_the_rules() -> None:
    rules = advisory_rules(Limits(min_side_px=31, max_aspect=1.4, mask_outside_px=0))
    names = check_boxes(frame([box(0)]), correct=False, rules=rules).findings["rule"].to_list()
    assert names == ["too_small", "extreme_aspect"]


def test_warnings_change_no_box() -> None:
    rows = frame([box(0, xmax=21.0), box(1)])
    checked = check_boxes(rows, correct=True, rules=_EVERY)
    assert checked.boxes.select(CORNERS).rows() == rows.select(CORNERS).rows()
    assert checked.boxes["corrected"].to_list() == [False, False]
    assert checked.boxes.columns == [*rows.columns, "corrected", "changes"]


def test_the_frame_that_is_checked_stays_as_it_was() -> None:
    rows = frame([box(0, xmin=-5.0), box(1)])
    before = rows.clone()
    mended = check_boxes(rows, correct=True).boxes
    assert mended["xmin"][0] == 0.0
    assert rows.equals(before)


_corner = st.integers(0, 12)
_small = st.tuples(
    _corner, _corner, st.integers(1, 12), st.integers(1, 12), st.sampled_from("ab"), st.sampled_from("st")
)


@settings(deadline=None)
@given(st.lists(_small, max_size=25), st.sampled_from([0.5, 0.7, 0.9]))
def test_twins_are_those_that_comparing_each_with_each_finds(boxes: list[Any], least: float) -> None:
    rows = [
        {"dataset": "d", "sample": s, "category": c, "xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        for x, y, w, h, c, s in boxes
    ]
    types = {
        "dataset": pl.String,
        "sample": pl.String,
        "category": pl.String,
        **dict.fromkeys(CORNERS, pl.Float64),
    }
    twins = find_twins(pl.DataFrame(rows, schema=types), min_iou=least)
    expected = {}
    for j, (x, y, w, h, c, s) in enumerate(boxes):
        for i, (x0, y0, w0, h0, c0, s0) in enumerate(boxes[:j]):
            wide, high = min(x + w, x0 + w0) - max(x, x0), min(y + h, y0 + h0) - max(y, y0)
            if c == c0 and s == s0 and wide > 0 and high > 0:
                iou = wide * high / (w * h + w0 * h0 - wide * high)
                if iou >= least:
                    expected[i, j] = iou
    given_pairs = dict(
        zip(zip(twins.first.tolist(), twins.second.tolist(), strict=True), twins.iou.tolist(), strict=True)
    )
    assert given_pairs == pytest.approx(expected)


def test_the_finding_of_a_twin_names_the_other() -> None:
    row = box(3)
    (finding,) = check_boxes(
        frame([row, {**row, "instance": 9}]), correct=False, rules=ADVISORY_RULES
    ).findings.to_dicts()
    assert (finding["rule"], finding["instance"]) == ("duplicate_box", 9)
    assert finding["observed"] == "IoU 1.0 with instance 3"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([None, *_DEFECTS]), min_size=1, max_size=30))
def test_a_scan_finds_what_a_frame_in_memory_gives(plan: list[str | None]) -> None:
    rows = frame([box(i) | (_DEFECTS[defect](box(i)) if defect else {}) for i, defect in enumerate(plan)])
    rules = [
        rule for rule in _EVERY if not {"twin", "mask_kind", "mask_xmin", "mask_crosses"} & set(rule.measures)
    ]
    there = scan_boxes(rows.lazy(), rules, categories=["car"])
    here = check_boxes(rows, correct=False, rules=rules, categories=["car"]).findings
    assert there.sort("instance", "rule").equals(here.sort("instance", "rule"))


def test_rules_that_compare_boxes_are_refused_for_a_scan() -> None:
    with pytest.raises(ValueError, match="duplicate_box cannot be checked box by box"):
        scan_boxes(frame([box(0)]).lazy(), ADVISORY_RULES)
