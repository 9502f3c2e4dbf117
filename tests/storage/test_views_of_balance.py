"""The balance of classes in SQL is the one that is reckoned in Python."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ingest.derive import Settings
from quality.balance import balances_by, class_balance
from tests.ingest.mill import KITTI_CAR, Mill


@pytest.fixture
def mill(tmp_path: Path) -> Mill:
    (tmp_path / "drops").mkdir()
    mill = Mill(tmp_path / "drops", tmp_path / "lake", Settings())
    for number, (split, names) in enumerate(
        [("train", "CCCCV"), ("train", "CCCCCC"), ("val", "CVV"), ("val", "")], start=1
    ):
        mill.image(f"d/{split}/{number}.png")
        boxes = [
            KITTI_CAR.format(9 * i, 1, 9 * i + 8, 9).replace("Car", name) for i, name in enumerate(names)
        ]
        mill.write(f"d/{split}/{number}.txt", "".join(boxes))
        mill.ingest()
    return mill


def test_shares_weights_and_effective_numbers_are_the_same_in_sql_and_in_python(mill: Mill) -> None:
    rows = mill.lake.sql("SELECT * FROM class_balance ORDER BY boxes DESC").to_pylist()
    frame = mill.lake.sql(
        "SELECT a.*, i.split FROM annotations a JOIN images i USING (dataset, sample)"
    ).polars()
    balance = class_balance(frame)
    weights = balance.class_weights()
    for row, entry in zip(rows, balance.classes, strict=True):
        assert (row["category"], row["boxes"], row["images"]) == (entry.category, entry.boxes, entry.images)
        assert row["share"] == pytest.approx(entry.share)
        assert row["ratio_to_largest"] == pytest.approx(entry.ratio_to_largest)
        assert row["effective_number"] == pytest.approx(entry.effective_number())
        assert row["weight"] == pytest.approx(weights[entry.category])
    by_split = mill.lake.sql("SELECT split, category, boxes, share FROM class_balance_by_split").polars()
    for split, part in balances_by(frame, "split").items():
        shown = by_split.filter(pl.col("split") == split)
        assert dict(shown.select("category", "boxes").iter_rows()) == part.counts
        assert shown["share"].sum() == pytest.approx(1)


def test_each_batch_that_brought_boxes_has_its_mix_and_time(mill: Mill) -> None:
    rows = mill.lake.sql("SELECT * FROM class_balance_over_time ORDER BY batch, category").to_pylist()
    assert [(row["batch"], row["category"], row["boxes"]) for row in rows] == [
        (1, "C", 4), (1, "V", 1), (2, "C", 6), (3, "C", 1), (3, "V", 2),
    ]  # fmt: skip
    assert all(row["done_at"] is not None for row in rows)
    first = mill.lake.sql("SELECT sum(boxes) AS n FROM class_balance AT (VERSION => 1)").to_pylist()
    assert first == [{"n": 5}]
