"""Adam over parameters as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class FlatAdam(torch.optim.Adam):
    """torch's fused Adam (Kingma and Ba 2015, arXiv 1412.6980) over a flat view of each parameter.

    The fused step goes through storage. On a CPU (torch 2.15) it copies every tensor in channels-last first,
    and takes a gradient in another layout than its parameter's for the wrong weights without a word; a view
    ``[numel]`` has no layout. Call ``collect`` between the backward pass and all that reads gradients. States
    that are saved have the parameters' shapes, as those of torch's Adam. Parameters must stay in their
    storage.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, rate: float, betas: tuple[float, float], eps: float
    ) -> None:
        self._shaped = list(parameters)
        self._flat = [flat(parameter.detach()) for parameter in self._shaped]
        super().__init__(self._flat, lr=rate, betas=betas, eps=eps, fused=True)

    def collect(self) -> None:
        """See the gradients that the backward pass left; what changes them in place changes them here."""
        for parameter, view in zip(self._shaped, self._flat, strict=True):
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            view.grad = None if parameter.grad is None else flat(parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        super().zero_grad(set_to_none)
        for parameter in self._shaped if set_to_none else ():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        found = super().state_dict()
        found["state"] = {
            index: {
                name: torch.as_strided(value, parameter.shape, parameter.stride())
                if _is_per_weight(value, parameter)
                else value
                for name, value in found["state"][index].items()
            }
            for index, parameter in enumerate(self._shaped)
            if index in found["state"]
        }
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From a checkpoint; tensors may be in any layout."""
        state = {
            index: {
                name: flat(torch.empty_like(self._shaped[index], device=value.device).copy_(value))
                if _is_per_weight(value, self._shaped[index])
                else value
                for name, value in values.items()
            }
            for index, values in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": state})


def flat(tensor: Tensor) -> Tensor:
    """A view ``[numel]`` of a tensor without gaps, in the order of its storage."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,))


def _is_per_weight(value: Any, parameter: Tensor) -> bool:
    """Whether ``value`` is one of Adam's averages, not its count of steps."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.numel() == parameter.numel()
