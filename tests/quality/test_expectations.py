"""Great Expectations: the same verdicts as the rules, users' suites, Data Docs without a request."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("great_expectations", reason="great-expectations is not installed")

import great_expectations as gx

from dropmill.delivered import read_folder
from quality.expectations.boxes import (
    ExpectBoxAspectAtMost,
    ExpectBoxesToPassRule,
    ExpectBoxesWithinImage,
    ExpectBoxSidesAtLeast,
    ExpectClassShareBetween,
    ExpectNoDuplicateBoxes,
)
from quality.expectations.run import pandas_of, run_on_frame, run_suites
from quality.expectations.suite import load_suite, rules_suite
from quality.review import Review, review
from quality.rules import ADVISORY_RULES, RULES
from storage.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cropped(shared_data: Path) -> Review:
    folder = shared_data / "kitti-cropped" / "training"
    return review(read_folder(folder / "label_2", folder / "image_2").material)


def boxes() -> pl.DataFrame:
    """One sound box and one that breaks each rule of corners that pandas can tell."""
    corners = [
        (10.0, 10.0, 30.0, 30.0),
        (30.0, 10.0, 10.0, 30.0),
        (-1.0, 10.0, 20.0, 30.0),
        (80.0, 10.0, 101.0, 30.0),
        (50.0, 50.0, 50.0, 60.0),
        (60.0, 60.0, 62.0, 90.0),
        (10.0, 10.0, 30.0, 30.5),
        (0.0, 40.0, 99.0, 44.5),
        (float("inf"), 1.0, 2.0, 3.0),
    ]
    return pl.DataFrame(
        [
            {
                "dataset": "d", "sample": "s", "stem": "s", "source": "a.txt", "instance": i, "line": i + 1,
                "category": "car" if i else "van", "width": 100, "height": 100,
                "ignore": False, "iscrowd": False,
                "segmentation": "[[1,1,9,9,9,1,1,9]]" if i == 6 else None,
                **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
            }
            for i, box in enumerate(corners)
        ]
    )  # fmt: skip


def test_every_rule_gives_in_great_expectations_the_boxes_that_it_gives_here(tmp_path: Path) -> None:
    from quality.check import check_boxes

    rules = [
        rule for rule in (*RULES, *ADVISORY_RULES) if rule.name not in {"missing_box", "unlisted_category"}
    ]
    frame = boxes()
    here = check_boxes(frame, correct=False, rules=rules).findings
    suite = rules_suite(frame.columns, rules, name="rules")
    results = run_on_frame(pandas_of(frame), [suite], tmp_path, dataset="d")
    ((_, success, failed),) = results.outcomes
    assert not success
    assert set(failed) == set(here["rule"])
    assert set(here["rule"]) >= {"inverted_box", "beyond_image", "zero_area", "self_intersecting_polygon"}
    there = sorted(results.findings["instance"].to_list())
    assert there == sorted(here["instance"].to_list())


def test_the_suite_goes_through_json_and_back(tmp_path: Path) -> None:
    suite = rules_suite(boxes().columns)
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(suite.to_json_dict()))
    again = load_suite(str(path))
    assert [e.rule for e in again.expectations] == [rule.name for rule in (*RULES, *ADVISORY_RULES)]
    words = [e.meta["documentation"] for e in again.expectations]
    assert words == [rule.documentation for rule in (*RULES, *ADVISORY_RULES)]
    severities = {e.rule: e.severity.value for e in again.expectations}
    assert (severities["zero_area"], severities["too_small"]) == ("critical", "warning")


def test_a_users_suite_becomes_findings_and_data_docs(cropped: Review, tmp_path: Path) -> None:
    mine = gx.ExpectationSuite(
        name="mine",
        expectations=[
            ExpectBoxesWithinImage(),
            ExpectClassShareBetween(category="Car", min_value=0.5, max_value=0.9),
            ExpectNoDuplicateBoxes(),
            gx.expectations.ExpectColumnValuesToBeInSet(column="category", value_set=["Car"], mostly=0.1),
        ],
    )
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(mine.to_json_dict()))
    results = run_suites(cropped, tmp_path / "docs", [str(path)])
    assert [name for name, _, _ in results.outcomes] == ["dropmill rules", "mine"]
    assert results.outcomes[0][1:] == (False, ("beyond_image",))
    assert results.outcomes[1][1:] == (False, ("expect_boxes_within_image", "expect_class_share_between"))
    rows = results.findings
    outside = rows.filter(rule="expect_boxes_within_image")
    known = cropped.findings.filter(rule="beyond_image")
    who = ["source", "instance"]
    assert outside.select(who).sort(who).rows() == known.select(who).sort(who).rows()
    (share,) = rows.filter(rule="expect_class_share_between").to_dicts()
    assert share["instance"] is None
    assert "0.314" in share["observed"]


def test_data_docs_fetch_and_run_nothing(cropped: Review, tmp_path: Path) -> None:
    results = run_suites(cropped, tmp_path)
    pages = list(results.docs.parent.rglob("*.html"))
    assert results.docs in pages
    assert len(pages) >= 3
    for page in pages:
        html = page.read_text()
        assert "default-src 'none'" in html
        assert not re.search(r"<(script|link|img|iframe)\b|\bsrc=|@import|url\(", html), page
    index = results.docs.read_text()
    (link,) = re.findall(r'href="(validations/[^"]+)"', index)
    from urllib.parse import unquote

    result = (results.docs.parent / unquote(link)).read_text()
    assert "No box may break the rule beyond_image" in result
    assert "000010.txt" in result


@pytest.mark.parametrize(
    ("expectation", "unexpected"),
    [
        (ExpectBoxesWithinImage(), [2, 3, 8]),
        (ExpectBoxesWithinImage(tolerance_px=1), [8]),
        (ExpectBoxSidesAtLeast(), [1, 4, 8]),
        (ExpectBoxSidesAtLeast(min_side_px=4), [1, 4, 5, 8]),
        (ExpectBoxAspectAtMost(max_aspect=14), [4, 5, 7, 8]),
        (ExpectBoxesToPassRule(rule="zero_area"), [4]),
        (ExpectNoDuplicateBoxes(column_list=["sample", "dataset", "xmin", "ymin", "xmax", "ymax"]), [6]),
        (ExpectClassShareBetween(category="van", max_value=0.2), None),
        (ExpectClassShareBetween(category="van", min_value=0.2), []),
    ],
)
def test_expectations_serve_in_a_project_without_dropmills_tables(
    expectation: Any, unexpected: list[int] | None
) -> None:
    frame = pandas_of(boxes())[
        ["sample", "dataset", "category", "xmin", "ymin", "xmax", "ymax", "width", "height"]
    ]
    context = gx.get_context(mode="ephemeral")
    batch = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )
    suite = gx.ExpectationSuite(
        name="s",
        expectations=[expectation.model_copy() if hasattr(expectation, "model_copy") else expectation.copy()],
    )
    suite = context.suites.add(suite)
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="v", data=batch, suite=suite)
    )
    result = definition.run(batch_parameters={"dataframe": frame}, result_format="COMPLETE").results[0]
    assert not (result.exception_info or {}).get("raised_exception")
    if unexpected:
        assert result.result["unexpected_index_list"] == unexpected
    assert result.success is (not unexpected and unexpected is None)


def test_a_suite_can_be_a_python_object_or_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "suites_of_mine.py").write_text(
        "import great_expectations as gx\n"
        "from quality.expectations.boxes import ExpectBoxesWithinImage\n"
        "one = gx.ExpectationSuite(name='one', expectations=[ExpectBoxesWithinImage()])\n"
        "def two():\n    return gx.ExpectationSuite(name='two')\n"
        "three = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "suites_of_mine", raising=False)
    assert load_suite("suites_of_mine:one").name == "one"
    assert load_suite("suites_of_mine:two").name == "two"
    with pytest.raises(ConfigError, match="found int, expected an ExpectationSuite"):
        load_suite("suites_of_mine:three")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "TypeError"),
        ('{"name": "x"}', "expectations"),
        ('{"name": "x", "expectations": [{"type": "expect_the_moon", "kwargs": {}}]}', "expect_the_moon"),
        (
            '{"name": "x", "expectations": [{"type": "expect_boxes_to_pass_rule", "kwargs": {"rule": 1}}]}',
            "no rule .1.",
        ),
        (None, "No such file"),
    ],
)
def test_a_suite_that_is_none_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "suite.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_suite(str(path))
    assert "suite.json" in str(caught.value)


def test_what_is_neither_file_nor_module_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a \.json file or module:name"):
        load_suite("suite")
    with pytest.raises(ConfigError, match="no_such_module"):
        load_suite("no_such_module:suite")


def test_usage_reporting_is_off() -> None:
    import os

    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
