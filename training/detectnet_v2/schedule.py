"""The learning rate over the training: soft start, plateau, annealing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from training.detectnet_v2.spec import SoftStartAnnealingSchedule, TrainSpec


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


class EarlyStopping:
    """When training ends before its last epoch, and the learning rate on the way there.

    Without ``early_stopping_annealing_schedule`` the rate follows the soft start schedule over all epochs,
    and training ends after ``early_stopping_patience_steps`` validations without a better average precision.
    With it the validation cost is watched: once it has not fallen for its patience (or few epochs are left)
    the rate is annealed, and then training ends.
    """

    def __init__(self, spec: TrainSpec) -> None:
        self._rates = spec.training_config.learning_rate
        self._epochs = spec.training_config.num_epochs
        self._patience = spec.evaluation_config.early_stopping_patience_steps
        self.best: float | None = None
        self.waited = 0
        self.annealing_from: int | None = None

    def rate(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs (a fraction within one)."""
        schedule = self._rates.early_stopping_annealing_schedule
        if schedule is None:
            return learning_rate(epoch / self._epochs, self._rates.soft_start_annealing_schedule)
        height = 1.0
        if self.annealing_from is not None:
            height = 1 - min((epoch - self.annealing_from) / max(schedule.annealing_epochs, 1e-9), 1)
        elif epoch < schedule.soft_start_epochs:
            height = epoch / schedule.soft_start_epochs
        low, high = math.log(schedule.min_learning_rate), math.log(schedule.max_learning_rate)
        return math.exp(low + height * (high - low))

    def look(self, epoch: int, *, map50: float | None = None, cost: float | None = None) -> None:
        """Take note of what a validation after ``epoch`` epochs said (nothing where there was none)."""
        schedule = self._rates.early_stopping_annealing_schedule
        if schedule is None:
            self._wait(None if map50 is None else -map50)
            return
        self._wait(cost)
        late = epoch >= self._epochs - schedule.annealing_epochs
        if self.annealing_from is None and (self.waited >= schedule.patience_steps or late):
            self.annealing_from = epoch

    def over(self, epoch: int) -> bool:
        """Whether training ends after ``epoch`` epochs."""
        schedule = self._rates.early_stopping_annealing_schedule
        if schedule is None:
            return epoch >= self._epochs or bool(self._patience and self.waited >= self._patience)
        annealed = (
            self.annealing_from is not None and epoch >= self.annealing_from + schedule.annealing_epochs
        )
        return epoch >= self._epochs or annealed

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited, "annealing_from": self.annealing_from}

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.waited = state["best"], int(state["waited"])
        self.annealing_from = state["annealing_from"]

    def _wait(self, value: float | None) -> None:
        if value is None:
            return
        if self.best is None or value < self.best:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
