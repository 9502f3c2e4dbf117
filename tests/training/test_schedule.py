from __future__ import annotations

import math

import pytest

from training.detectnet_v2.schedule import learning_rate
from training.detectnet_v2.spec import SoftStartAnnealingSchedule

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
