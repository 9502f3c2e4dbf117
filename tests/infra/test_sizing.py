"""The simulation behind docs/sizing.md behaves as a queue does."""

from __future__ import annotations

import math

import pytest

from benchmarks.committer import Cost, fit, simulate

_COST = Cost(fixed_s=0.5, object_s=0.001)


def test_a_batch_costs_what_the_line_through_the_measured_ones_says():
    measured = [{"pairs": pairs, "commit, s": 0.3 + 2 * pairs * 0.002} for pairs in (1, 10, 100, 1_000)]
    cost = fit(measured)
    assert cost.fixed_s == pytest.approx(0.3)
    assert cost.object_s == pytest.approx(0.002)


def test_an_idle_committer_takes_an_object_at_once():
    median, _ = simulate(0.1, _COST, parse_s=0.01, parsers=1, duration_s=2_000)
    assert median == pytest.approx(0.5 + 0.001 + 0.01, abs=0.02)


def test_waiting_ends_below_saturation_and_not_above_it():
    # At most 2,000 objects in 0.5 + 2,000 x 0.001 + 2,000 x 0.001 seconds: 444 a second.
    assert math.isfinite(simulate(350, _COST, parse_s=0.008, parsers=8)[1])
    assert math.isinf(simulate(550, _COST, parse_s=0.008, parsers=8)[1])


def test_more_parsers_help_until_the_committer_itself_is_full():
    below = simulate(550, _COST, parse_s=0.008, parsers=32)[1]
    assert math.isfinite(below)
    # 0.5 + 2,000 x 0.001 seconds alone allow 800 a second, however many parse.
    assert math.isinf(simulate(900, _COST, parse_s=0.008, parsers=10_000)[1])
