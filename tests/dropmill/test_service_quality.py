"""Rules and users' expectations in the running service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dropmill.test_service import Served
from tests.ingest.mill import KITTI_CAR, picture

pytestmark = pytest.mark.slow


def test_a_drop_is_judged_by_the_rules_and_suites_of_the_configuration(tmp_path: Path) -> None:
    pytest.importorskip("great_expectations", reason="great-expectations is not installed")
    suite = {
        "name": "wheels",
        "expectations": [
            {
                "type": "expect_column_values_to_be_in_set",
                "kwargs": {"column": "category", "value_set": ["Car"]},
            }
        ],
    }
    (tmp_path / "wheels.json").write_text(json.dumps(suite))
    served = Served(
        tmp_path,
        quality={
            "rules": {"pixels": True, "skip": ["too_small"], "classes": {"*": ["Car"]}},
            "expectations": [{"suite": "wheels.json"}],
        },
    )
    try:
        for split in ("train", "val"):
            served.write(f"d/{split}/{split}.png", picture(64, 48))
            served.write(f"d/{split}/{split}.txt", KITTI_CAR.format(1, 1, 3, 9).replace("Car", "Bus"))
        rule = "expect_column_values_to_be_in_set"
        served.wait_for(holds(served, f"SELECT count(*) AS n FROM findings WHERE rule = '{rule}'", 2))
        rows = served.rows("SELECT rule, sample FROM findings WHERE stem NOT LIKE '/%' ORDER BY rule, sample")
        assert [(row["rule"], row["sample"]) for row in rows] == [
            ("leaked_image", "val/val"),
            ("unlisted_category", "train/train"),
            ("unlisted_category", "val/val"),
        ]
        assert list((tmp_path / "lake" / "artifacts" / "expectations").rglob("index.html"))
    finally:
        served.kill()


def holds(served: Served, query: str, n: int) -> Callable[[], bool]:
    return lambda: served.rows(query) == [{"n": n}]
