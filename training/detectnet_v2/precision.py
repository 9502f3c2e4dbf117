"""Number formats of training: which one is used where, and the scaling of the cost that fp16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from storage.errors import ConfigError
from training.detectnet_v2.spec import CostScaling, TrainSpec

_LARGEST_EXPONENT = 126  # of a float32 that is normal, as its inverse is
_NEVER = 2**31 - 1

Precision = Literal["fp32", "fp16", "bf16"]


def choose_precision(spec: TrainSpec, device: torch.device) -> Precision:
    """fp32 unless the spec asks for mixed precision: then fp16 on a GPU, bf16 on a CPU that has it."""
    if not spec.amp:
        return "fp32"
    if device.type == "cuda":
        return "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
    return "bf16" if native else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the network computes; its weights stay fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype)


def cost_scaler(precision: Precision, config: CostScaling, device: torch.device) -> torch.amp.GradScaler:
    """The cost times 2^x: x grows by ``increment`` after finite gradients and falls by ``decrement`` after
    others.

    Steps with gradients that are not finite are left out. Only fp16 needs it; elsewhere it does nothing.
    Raises ``ConfigError`` for scales that could never become right.
    """
    if precision != "fp16":
        return torch.amp.GradScaler(device.type, enabled=False)
    if not (abs(config.initial_exponent) <= _LARGEST_EXPONENT and config.increment >= 0 < config.decrement):
        raise ConfigError(
            f"training_config.cost_scaling has initial_exponent {config.initial_exponent:g}, increment "
            f"{config.increment:g} and decrement {config.decrement:g}; expected {-_LARGEST_EXPONENT} to "
            f"{_LARGEST_EXPONENT}, 0 or more, and more than 0",
            key="cost_scaling",
        )
    return torch.amp.GradScaler(
        device.type,
        init_scale=2.0**config.initial_exponent,
        growth_factor=2.0 ** (config.increment or 1.0),
        backoff_factor=2.0**-config.decrement,
        growth_interval=1 if config.increment else _NEVER,
    )
