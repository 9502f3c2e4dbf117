"""Mixed precision: fp16 on a GPU, bf16 on a CPU that computes in it, else single."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, *, enabled: bool) -> AbstractContextManager[Any]:
    """The context in which networks compute; their weights stay as they are."""
    if not enabled:
        return nullcontext()
    if device.type == "cuda":
        return torch.autocast("cuda", torch.float16)
    return torch.autocast(device.type, torch.bfloat16) if computes_in_half(device) else nullcontext()


def computes_in_half(device: torch.device) -> bool:
    """Whether a device has instructions for numbers of 16 bits."""
    if device.type == "cuda":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001


def loss_scaler(device: torch.device, *, enabled: bool) -> torch.amp.GradScaler:
    """Scales the loss where gradients of fp16 would vanish; does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=enabled and device.type == "cuda")
