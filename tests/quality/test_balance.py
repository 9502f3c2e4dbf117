"""Balance and drift: numbers that can be worked out by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.balance import balances_by, class_balance, sampling_probabilities
from quality.drift import compare, drift_between_splits, drift_over_drops, js_divergence, psi
from quality.limits import Limits
from quality.sets import drift_findings


def annotations(**counts: int) -> pl.DataFrame:
    rows = [
        {"category": name, "sample": f"{name}{i}", "ignore": name == "DontCare"}
        for name, count in counts.items()
        for i in range(count)
    ]
    return pl.DataFrame(rows, schema={"category": pl.String, "sample": pl.String, "ignore": pl.Boolean})


def test_the_effective_number_grows_from_one_to_its_limit() -> None:
    one, many = (class_balance(annotations(a=n)).classes[0] for n in (1, 3))
    assert one.effective_number(0.9) == pytest.approx(1)
    assert many.effective_number(0.9) == pytest.approx(1 + 0.9 + 0.81)
    assert class_balance(annotations(a=5000)).classes[0].effective_number(0.9) == pytest.approx(10)


def test_weights_are_inverse_frequencies_where_beta_is_near_one_and_even_where_it_is_zero() -> None:
    balance = class_balance(annotations(a=90, b=10, DontCare=500))
    near = balance.class_weights(1 - 1e-9)
    assert near["b"] / near["a"] == pytest.approx(9, rel=1e-5)
    assert sum(near.values()) == pytest.approx(2)
    assert balance.class_weights(1e-12) == pytest.approx({"a": 1, "b": 1})
    assert class_balance(annotations()).class_weights() == {}


def test_images_of_rare_classes_are_drawn_more_often() -> None:
    frame = annotations(a=96, b=4)
    factors = class_balance(frame).repeat_factors(0.16)
    assert factors == pytest.approx({"a": 1.0, "b": 2.0})
    negatives = pl.Series("sample", [*frame["sample"], "empty"])
    drawn = sampling_probabilities(frame, factors, negatives)
    assert drawn["probability"].sum() == pytest.approx(1)
    by_name = dict(drawn.iter_rows())
    assert by_name["b0"] == pytest.approx(2 * by_name["a0"])
    assert by_name["empty"] == pytest.approx(by_name["a0"])


def test_divergence_is_zero_for_the_same_and_one_for_nothing_in_common() -> None:
    assert js_divergence([0.3, 0.7], [0.3, 0.7]) == 0
    assert js_divergence([1, 0], [0, 1]) == pytest.approx(1)
    half = 0.5 * (math.log2(1 / 0.75) + 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25))
    assert js_divergence([1, 0], [0.5, 0.5]) == pytest.approx(half)


def test_the_stability_index_is_as_its_formula_says() -> None:
    assert psi([0.5, 0.5], [0.5, 0.5]) == 0
    assert psi([0.8, 0.2], [0.6, 0.4]) == pytest.approx(-0.2 * math.log(0.75) + 0.2 * math.log(2))


_mix = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000), min_size=1)


@settings(deadline=None)
@given(_mix, _mix)
def test_drift_is_symmetric_bounded_and_zero_only_for_the_same_mix(
    one: dict[str, int], two: dict[str, int]
) -> None:
    drift = compare("one", one, "two", two)
    back = compare("two", two, "one", one)
    if not sum(one.values()) or not sum(two.values()):
        assert drift is None
        return
    assert drift is not None
    assert back is not None
    assert 0 <= drift.js_divergence <= 1 + 1e-12
    assert drift.js_divergence == pytest.approx(back.js_divergence)
    assert drift.psi == pytest.approx(back.psi)
    assert drift.psi >= 0
    shares = [{name: n / sum(mix.values()) for name, n in mix.items() if n} for mix in (one, two)]
    if shares[0] != pytest.approx(shares[1]) and shares[0].keys() == shares[1].keys():
        assert drift.psi > 0


def test_splits_and_drops_that_drift_are_found_and_small_ones_are_not_judged() -> None:
    frame = pl.concat(
        [
            annotations(a=100, b=100).with_columns(split=pl.lit("train"), batch=pl.lit(1)),
            annotations(a=10, b=90).with_columns(split=pl.lit("val"), batch=pl.lit(2)),
            annotations(b=3).with_columns(split=pl.lit("test"), batch=pl.lit(3)),
        ]
    )
    limits = Limits()
    splits = drift_between_splits(balances_by(frame, "split"), limits)
    assert [(drift.reference, drift.current) for drift in splits] == [("train", "val")]
    drops = drift_over_drops(balances_by(frame, "batch"), limits)
    assert [drift.current for drift in drops] == ["drop 2"]
    findings = drift_findings("d", [*splits, *drops], limits)
    assert findings["rule"].to_list() == ["class_drift", "class_drift"]
    assert "from 50.0% to 10.0%" in findings["observed"][0]
    same = balances_by(frame.with_columns(split=pl.lit("all")), "split")
    assert drift_between_splits(same, limits) == []
