"""Class balance, and the gate's verdict on it."""

from __future__ import annotations

import math

import polars as pl
import pytest

from quality.balance import Balance, class_balance
from quality.drift import compare
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


def test_the_new_measures_warn_by_default_and_fail_where_asked_to() -> None:
    even = class_balance(annotations(a=50, b=50))
    drift = compare("train", {"a": 50, "b": 50}, "val", {"a": 5, "b": 95})
    assert drift is not None
    facts = {"delivered": 100, "invalid": 0, "objects": 20, "quarantined": 0}
    given = judge(balance=even, **facts, doubtful=6, leaked=2, drifts=[drift])
    assert given.verdict is Verdict.WARN
    assert len(given.reasons) == 3
    for words in ("6.0% of the boxes have a warning", "2 images show", "train to val: JS divergence"):
        assert any(words in reason for reason in given.reasons)
    strict = Thresholds(fail_leaked_images=1, fail_js_divergence=0.05)
    failed = judge(balance=even, **facts, leaked=2, drifts=[drift], thresholds=strict)
    assert failed.verdict is Verdict.FAIL
    assert len(failed.reasons) == 2


def test_entropy_and_the_worth_of_the_smallest_class_are_judged_where_a_limit_is_set() -> None:
    lopsided = class_balance(annotations(a=95, b=5))
    assert verdict(lopsided, thresholds=Thresholds(warn_imbalance=100))[0] is Verdict.PASS
    limits = Thresholds(warn_imbalance=100, warn_entropy_below=0.5, warn_effective_number=10)
    given, reasons = verdict(lopsided, thresholds=limits)
    assert given is Verdict.WARN
    assert [reason.split(",")[0] for reason in reasons] == [
        "the class mix has an entropy of 0.29",
        "b is worth 5 samples",
    ]
    assert (
        verdict(lopsided, thresholds=Thresholds(warn_imbalance=100, fail_entropy_below=0.5))[0]
        is Verdict.FAIL
    )
