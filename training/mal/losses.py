"""The losses of MAL: what the box says of the mask (MIL), and what the colours say (CRF).

Probabilities and box masks are ``[B, 1, H, W]`` in 0 to 1. Source: Lan et al., CVPR 2023, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.mal.mean_field import mean_field
from training.mal.spec import TrainSpec

_SMOOTH = 1e-3
_PER_OBJECT = 1e-4


def dice(u: Tensor, v: Tensor) -> Tensor:
    """1 - 2 sum(uv) / (sum(u^2) + 0.001 + sum(v^2) + 0.001) of each row of ``[B, ...]``: ``[B]``, 0 to 1."""
    u, v = u.flatten(1).float(), v.flatten(1).float()
    return 1 - 2 * (u * v).sum(1) / (u.square().sum(1) + v.square().sum(1) + 2 * _SMOOTH)


def mil_loss(probability: Tensor, box: Tensor) -> Tensor:
    """Every row and column that crosses the box has a pixel of the object, and no other has: a scalar.

    The maxima over rows, and those over columns, of the probability and of the box are compared by Dice.
    """
    over_rows = dice(probability.amax(2), box.amax(2))
    over_columns = dice(probability.amax(3), box.amax(3))
    return (over_rows + over_columns).sum() / (len(probability) + _PER_OBJECT)


def crf_loss(student: Tensor, teacher: Tensor, box: Tensor, image: Tensor, spec: TrainSpec) -> Tensor:
    """Dice between the student's probability and the mean field of its mean with the teacher's: a scalar.

    ``image [B, 3, ...]`` is the normalised crop that the student saw, of any size; the field is as large as
    the probabilities times ``crf_size_ratio``. Gradients flow to ``student`` only.
    """
    size = tuple(max(1, round(side * spec.crf_size_ratio)) for side in student.shape[-2:])
    small = functional.interpolate(image.float(), size, mode="bilinear", antialias=True, align_corners=False)
    mean = (student.detach() + teacher.detach()).float() / 2
    if size != tuple(student.shape[-2:]):
        student, mean, box = (
            functional.interpolate(each.float(), size, mode="bilinear", align_corners=False)
            for each in (student, mean, box)
        )
    target = mean_field(
        small,
        mean,
        box,
        kernel_size=spec.crf_kernel_size,
        zeta=spec.crf_zeta,
        iterations=spec.crf_num_iter,
        low=spec.crf_value_low_thres,
        high=spec.crf_value_high_thres,
    )
    return dice(student, target).mean() if len(student) else student.sum()


def mal_loss(
    student: Tensor,
    teacher: Tensor,
    box: Tensor,
    image: Tensor,
    spec: TrainSpec,
    *,
    epoch: int,
    step: int,
) -> tuple[Tensor, dict[str, float]]:
    """The total and its parts ``mil`` and ``crf`` (weighted); ``epoch`` and ``step`` count from 0.

    In the first epoch the parts grow with the steps (``loss_mil_step``, ``loss_crf_step``).
    """
    mil = mil_loss(student, box) * spec.loss_mil_weight * warm_up(epoch, step, spec.loss_mil_step)
    crf = crf_loss(student, teacher, box, image, spec)
    crf = crf * spec.loss_crf_weight * warm_up(epoch, step, spec.loss_crf_step)
    return mil + crf, {"mil": float(mil.detach()), "crf": float(crf.detach())}


def warm_up(epoch: int, step: int, steps: int) -> float:
    """The part of a loss that counts at ``step`` of ``epoch``: in epoch 0 it grows to 1 in ``steps``."""
    return 1.0 if epoch > 0 or steps <= 0 else min(1.0, step / steps)


def ema_update(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
    """Move the teacher: t becomes m t + (1 - m) s, parameter by parameter, and buffers of batch norm too.

    Numbers that are not of floating point are copied.
    """
    with torch.no_grad():
        for mine, other in zip(teacher.parameters(), student.parameters(), strict=True):
            mine.lerp_(other.detach().to(mine.dtype), 1 - momentum)
        for buffer, given in zip(teacher.buffers(), student.buffers(), strict=True):
            if buffer.is_floating_point():
                buffer.lerp_(given.to(buffer.dtype), 1 - momentum)
            else:
                buffer.copy_(given)
