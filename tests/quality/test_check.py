"""The rules for boxes: what they see, what they mend, what they leave alone."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.check import check_boxes
from quality.rules import CORNERS, RULES

_WIDTH, _HEIGHT = 100, 50


def boxes(*corners: tuple[float | None, float | None, float | None, float | None]) -> pl.DataFrame:
    rows = [
        {
            "dataset": "d",
            "sample": f"s{i}",
            "stem": f"s{i}",
            "source": "labels.txt",
            "instance": i,
            "line": i + 1,
            "category": "car",
            **dict(zip(CORNERS, box, strict=True)),
            "width": _WIDTH,
            "height": _HEIGHT,
        }
        for i, box in enumerate(corners)
    ]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(CORNERS, pl.Float64))


def corners(frame: pl.DataFrame) -> list[tuple[float, ...]]:
    return frame.select(CORNERS).rows()


@pytest.mark.parametrize(
    ("box", "rules", "mended"),
    [
        ((10, 10, 20, 20), [], (10, 10, 20, 20)),
        ((0, 0, _WIDTH, _HEIGHT), [], (0, 0, _WIDTH, _HEIGHT)),
        ((20, 10, 10, 20), ["inverted_box"], (10, 10, 20, 20)),
        ((10, 20, 20, 10), ["inverted_box"], (10, 10, 20, 20)),
        ((-5, -1, 20, 20), ["negative_coordinate"], (0, 0, 20, 20)),
        ((10, 10, 101, 60), ["beyond_image"], (10, 10, 100, 50)),
        ((-5, 10, 120, 20), ["beyond_image", "negative_coordinate"], (0, 10, 100, 20)),
        ((120, 30, -5, 20), ["beyond_image", "inverted_box", "negative_coordinate"], (0, 20, 100, 30)),
        ((10, 10, 10, 20), ["zero_area"], None),
        ((10, 10, 20, 10), ["zero_area"], None),
        ((110, 10, 120, 20), ["beyond_image"], None),
        ((-20, 10, -10, 20), ["negative_coordinate"], None),
        ((math.nan, 10, 20, 20), ["not_finite"], None),
        ((10, 10, math.inf, 20), ["not_finite"], None),
        ((None, 10, 20, 20), ["missing_box"], None),
        ((10, 10, None, 20), ["missing_box"], None),
        ((10, None, 20, math.inf), ["missing_box"], None),
    ],
)
def test_a_box_breaks_these_rules_and_is_mended_to_this(
    box: tuple[float, ...], rules: list[str], mended: tuple[float, ...] | None
) -> None:
    checked = check_boxes(boxes(box), correct=True)  # type: ignore[arg-type]
    assert sorted(checked.findings["rule"].to_list()) == rules
    assert corners(checked.boxes) == ([mended] if mended else [])
    if mended and rules:
        assert checked.boxes["corrected"].to_list() == [True]
    left = check_boxes(boxes(box), correct=False)  # type: ignore[arg-type]
    assert sorted(left.findings["rule"].to_list()) == rules
    assert str(corners(left.boxes)) == str([tuple(None if c is None else float(c) for c in box)])
    assert left.findings["correction"].to_list() == [None] * len(rules)


def test_a_finding_names_the_box_what_was_seen_and_what_was_done() -> None:
    (row,) = check_boxes(boxes((10, 10, 20, 20), (20, 10, 10, 20)), correct=True).findings.to_dicts()
    assert (row["source"], row["instance"], row["line"], row["severity"]) == ("labels.txt", 1, 2, "error")
    assert row["observed"] == "20,10,10,20 in 100x50"
    assert row["correction"] == "swapped to 10,10,20,20"


def test_what_was_delivered_stays_with_the_corrected_box() -> None:
    row = check_boxes(boxes((-5, 10, 20, 20)), correct=True).boxes.to_dicts()[0]
    assert row["changes"] == '{"xmin":-5.0,"ymin":10.0,"xmax":20.0,"ymax":20.0}'


_coordinate = st.one_of(
    st.floats(-300, 300), st.integers(-200, 200).map(float), st.sampled_from([math.nan, math.inf]), st.none()
)


@settings(deadline=None)
@given(st.lists(st.tuples(_coordinate, _coordinate, _coordinate, _coordinate), min_size=1, max_size=8))
def test_after_correction_no_box_breaks_a_rule_and_nothing_vanishes_in_silence(given_boxes: list) -> None:
    checked = check_boxes(boxes(*given_boxes), correct=True)
    again = check_boxes(checked.boxes.drop("corrected", "changes"), correct=True)
    assert again.findings.height == 0
    assert corners(again.boxes) == corners(checked.boxes)
    kept = set(checked.boxes["instance"].to_list())
    found = set(checked.findings["instance"].to_list())
    assert set(range(len(given_boxes))) - kept <= found
    assert set(checked.boxes.filter("corrected")["instance"].to_list()) <= found


def test_no_boxes_are_no_findings() -> None:
    empty = boxes((1, 1, 2, 2)).clear()
    checked = check_boxes(empty, correct=True)
    assert (checked.boxes.height, checked.findings.height) == (0, 0)


def test_every_rule_has_a_name_in_snake_case_and_a_documentation() -> None:
    for rule in RULES:
        assert rule.name == rule.name.lower().replace(" ", "_")
        assert rule.documentation.endswith(".")
