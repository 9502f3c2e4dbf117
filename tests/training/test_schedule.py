from __future__ import annotations

import math
from dataclasses import replace

import pytest

from training.detectnet_v2.schedule import EarlyStopping, learning_rate
from training.detectnet_v2.spec import (
    EarlyStoppingAnnealingSchedule,
    LearningRate,
    SoftStartAnnealingSchedule,
    TrainSpec,
    default_spec,
)

SCHEDULE = SoftStartAnnealingSchedule(
    min_learning_rate=1e-6, max_learning_rate=1e-4, soft_start=0.1, annealing=0.7
)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 1e-6), (0.05, 1e-5), (0.1, 1e-4), (0.5, 1e-4), (0.7, 1e-4), (0.85, 1e-5), (1.0, 1e-6)],
)
def test_the_rate_rises_stays_and_falls_on_a_log_scale(progress: float, rate: float) -> None:
    assert learning_rate(progress, SCHEDULE) == pytest.approx(rate)


def test_without_soft_start_training_begins_at_the_full_rate() -> None:
    schedule = SoftStartAnnealingSchedule(soft_start=0.0, annealing=0.0)
    assert learning_rate(0.0, schedule) == pytest.approx(5e-4)
    assert learning_rate(0.5, schedule) == pytest.approx(math.sqrt(5e-4 * 5e-6))


def with_schedule(**settings: int) -> TrainSpec:
    spec = default_spec(["a"], 64, 64, epochs=20)
    schedule = EarlyStoppingAnnealingSchedule(
        min_learning_rate=1e-5,
        max_learning_rate=1e-3,
        **{"soft_start_epochs": 2, "annealing_epochs": 4} | settings,
    )
    rate = LearningRate(early_stopping_annealing_schedule=schedule)
    return replace(spec, training_config=replace(spec.training_config, learning_rate=rate))


def test_early_stopping_anneals_once_the_cost_has_not_fallen_for_its_patience() -> None:
    stopping = EarlyStopping(with_schedule(patience_steps=2))
    assert stopping.rate(0) == pytest.approx(1e-5)
    assert stopping.rate(1) == pytest.approx(1e-4)
    assert stopping.rate(5) == pytest.approx(1e-3)
    for epoch, cost in enumerate([5.0, 4.0, 4.5, 4.1], start=3):
        assert not stopping.over(epoch)
        stopping.look(epoch, cost=cost)
    again = EarlyStopping(with_schedule(patience_steps=2))
    again.restore(stopping.state())
    assert again.annealing_from == 6
    assert again.rate(8) == pytest.approx(1e-4)
    assert again.rate(10) == pytest.approx(1e-5)
    assert [again.over(epoch) for epoch in (9, 10)] == [False, True]


def test_without_patience_running_out_the_last_epochs_anneal() -> None:
    stopping = EarlyStopping(with_schedule(patience_steps=5))
    for epoch in range(1, 17):
        stopping.look(epoch, cost=1 / epoch)
    assert stopping.annealing_from == 16
    assert [stopping.over(epoch) for epoch in (19, 20)] == [False, True]


def test_training_ends_after_validations_without_a_better_average_precision() -> None:
    spec = default_spec(["a"], 64, 64, epochs=20)
    config = replace(spec.evaluation_config, early_stopping_patience_steps=2)
    stopping = EarlyStopping(replace(spec, evaluation_config=config))
    for epoch, value in enumerate([0.1, 0.3, 0.2, None, 0.3], start=1):
        assert not stopping.over(epoch)
        stopping.look(epoch, map50=value)
    assert stopping.over(5)
    patient = EarlyStopping(spec)
    for epoch in range(1, 12):
        patient.look(epoch, map50=0.1)
    assert not patient.over(11)
    assert patient.over(20)
