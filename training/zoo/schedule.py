"""Learning rates as a function of the update, and the optimiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from training.zoo.spec import TrainSpec


def peak_rate(spec: TrainSpec, world: int) -> float:
    """The rate at its highest: ``lr`` for ``base_batch`` images an update, in proportion for others."""
    if not spec.auto_scale_lr:
        return spec.lr
    return spec.lr * world * spec.batch_size * spec.accumulate / spec.base_batch


def learning_rate(spec: TrainSpec, update: int, updates_per_epoch: int, world: int) -> float:
    """The rate of one update, counted from 0 over the whole training.

    Warm-up grows linearly and meets the schedule at ``warmup_steps``, so that they multiply.
    """
    epoch = update // updates_per_epoch
    if spec.schedule == "step":
        share = spec.gamma ** sum(epoch >= milestone for milestone in spec.milestones)
    elif spec.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * update / (spec.epochs * updates_per_epoch)))
    else:
        share = 1.0
    warm = 1.0
    if update < spec.warmup_steps:
        warm = spec.warmup_factor + (1 - spec.warmup_factor) * update / spec.warmup_steps
    return peak_rate(spec, world) * share * warm


def build_optimizer(network: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over what is trained; norms and biases decay not under AdamW."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=spec.lr, weight_decay=spec.weight_decay
    )
