"""Class balance, and the gate's verdict on it."""

from __future__ import annotations

import math

import polars as pl
import pytest

from quality.balance import Balance, class_balance
from quality.gate import Thresholds, Verdict, judge


def annotations(**counts: int) -> pl.DataFrame:
    rows = [
        {"category": name, "sample": f"s{i % 3}", "ignore": name == "DontCare"}
        for name, count in counts.items()
        for i in range(count)
    ]
    return pl.DataFrame(rows, schema={"category": pl.String, "sample": pl.String, "ignore": pl.Boolean})


def test_shares_are_of_the_boxes_that_count() -> None:
    balance = class_balance(annotations(car=6, van=2, DontCare=5))
    assert [(c.category, c.boxes, c.images, c.share) for c in balance.classes] == [
        ("car", 6, 3, 0.75),
        ("van", 2, 2, 0.25),
    ]
    assert balance.imbalance == 3
    assert 0 < balance.entropy < 1


def test_even_classes_have_full_entropy_and_one_class_is_even() -> None:
    assert class_balance(annotations(a=4, b=4)).entropy == pytest.approx(1)
    assert class_balance(annotations(a=4)).entropy == 1
    assert math.isnan(class_balance(annotations()).imbalance)


def verdict(
    balance: Balance, *, thresholds: Thresholds | None = None, **counts: int
) -> tuple[Verdict, tuple[str, ...]]:
    given = {"delivered": 100, "invalid": 0, "objects": 20, "quarantined": 0, **counts}
    result = judge(balance=balance, thresholds=thresholds, **given)
    return result.verdict, result.reasons


def test_a_sound_set_passes_without_a_word() -> None:
    assert verdict(class_balance(annotations(a=5, b=5))) == (Verdict.PASS, ())


@pytest.mark.parametrize(
    ("counts", "expected", "word"),
    [
        ({"invalid": 1}, Verdict.WARN, "1 of 100 boxes are invalid"),
        ({"invalid": 6}, Verdict.FAIL, "6.0% of the boxes are invalid"),
        ({"quarantined": 1}, Verdict.WARN, "1 of 20 objects"),
        ({"quarantined": 3}, Verdict.FAIL, "15.0% of the objects"),
    ],
)
def test_what_is_wrong_is_said(counts: dict[str, int], expected: Verdict, word: str) -> None:
    given, reasons = verdict(class_balance(annotations(a=5, b=5)), **counts)
    assert given is expected
    assert any(word in reason for reason in reasons)


def test_imbalance_warns_and_fails_where_asked_to() -> None:
    lopsided = class_balance(annotations(a=30, b=1))
    assert verdict(lopsided)[0] is Verdict.WARN
    assert verdict(lopsided, thresholds=Thresholds(fail_imbalance=20))[0] is Verdict.FAIL
    assert verdict(lopsided, thresholds=Thresholds(warn_imbalance=31))[0] is Verdict.PASS


def test_a_set_without_boxes_fails() -> None:
    assert verdict(class_balance(annotations()))[0] is Verdict.FAIL


def test_verdicts_are_ordered() -> None:
    assert Verdict.PASS.at_least(Verdict.WARN)
    assert Verdict.WARN.at_least(Verdict.WARN)
    assert not Verdict.FAIL.at_least(Verdict.WARN)
