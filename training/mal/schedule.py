"""The learning rate by epoch, fractions included."""

from __future__ import annotations

import math

from training.mal.spec import TrainSpec


def learning_rate(epoch: float, spec: TrainSpec, *, processes: int = 1) -> float:
    """Linear warm-up over ``warmup_epochs``, then a cosine from the rate to its ``min_lr_rate``.

    The rate is ``lr`` times processes times ``batch_size``; ``num_wave`` half waves of the cosine are run
    through. ``min_lr``, where it is set, is the floor.
    """
    peak = spec.lr * processes * spec.batch_size
    floor = max(peak * spec.min_lr_rate, spec.min_lr)
    if epoch < spec.warmup_epochs:
        return peak * epoch / spec.warmup_epochs
    rest = max(spec.num_epochs - spec.warmup_epochs, 1e-9)
    turn = math.pi * (epoch - spec.warmup_epochs) / rest * spec.num_wave
    return floor + (peak - floor) * 0.5 * (1 + math.cos(turn))
