"""The learning rate over the training: soft start, plateau, annealing."""

from __future__ import annotations

import math

from training.detectnet_v2.spec import SoftStartAnnealingSchedule


def learning_rate(progress: float, schedule: SoftStartAnnealingSchedule) -> float:
    """The rate at ``progress`` (done / all steps), geometric between the schedule's two rates."""
    if progress < schedule.soft_start:
        share = progress / schedule.soft_start
    elif progress > schedule.annealing:
        share = (1 - progress) / (1 - schedule.annealing)
    else:
        share = 1.0
    low, high = math.log(schedule.min_learning_rate), math.log(schedule.max_learning_rate)
    return math.exp(low + max(share, 0.0) * (high - low))
