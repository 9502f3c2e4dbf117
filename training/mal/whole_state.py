"""Weights and the optimiser's state as a checkpoint has them: whole, also where processes share them out.

What is shared out is put together in a few large pieces, so that for a checkpoint the processes meet a few
times and not once for each tensor. Who takes a checkpoint up cuts its own share out of it and meets nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from storage.errors import TrainingError

_Key = TypeVar("_Key")
_PIECE_BYTES = 64 << 20
"""Of one process. The first holds such a piece of each process at a time."""


def model_state(network: nn.Module) -> dict[str, Tensor]:
    """All weights, on the CPU. Every process has to call it; those after the first get nothing."""
    return _together(network.state_dict())


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by names of weights, with its groups; as :func:`model_state`."""
    names = _names(network)
    shared: dict[tuple[str, str], Tensor] = {}
    state: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            state[name] = dict(optimizer.state.get(parameter, {}))
            shared |= {(name, key): v for key, v in state[name].items() if isinstance(v, Tensor)}
    for (name, key), tensor in _together(shared).items():
        state[name][key] = tensor
    groups = [
        {**group, "params": [names[each] for each in group["params"]]} for group in optimizer.param_groups
    ]
    return {"state": state, "param_groups": groups} if _is_first() else {}


def restore_model(network: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Put weights of :func:`model_state` back, each process its share. Raises ``ValueError`` for others."""
    own = network.state_dict()
    if set(own) != set(whole):
        raise ValueError(f"weights: {', '.join(sorted(set(own) ^ set(whole))[:3])} on one side only")
    with torch.no_grad():
        for name, tensor in own.items():
            share = _share(whole[name], tensor, name)
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).copy_(share)


def restore_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, whole: Mapping[str, Any]) -> None:
    """Put a state of :func:`optimizer_state` back, each process its share. Raises ``ValueError`` or
    ``KeyError`` for one of other weights.
    """
    names = _names(network)
    state, groups, number = {}, [], 0
    for group, given in zip(optimizer.param_groups, whole["param_groups"], strict=True):
        mine = [names[parameter] for parameter in group["params"]]
        if mine != list(given["params"]):
            raise ValueError("optimizer: the state of other weights")
        for parameter in group["params"]:
            found = whole["state"][names[parameter]]
            if found:
                state[number] = {key: _as(value, parameter) for key, value in found.items()}
            number += 1
        groups.append({**given, "params": list(range(number - len(mine), number))})
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _names(network: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in network.named_parameters()}


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _together(tensors: Mapping[_Key, Tensor]) -> dict[_Key, Tensor]:
    whole: dict[_Key, Tensor] = {}
    for piece in _pieces({key: one for key, one in tensors.items() if isinstance(one, DTensor)}):
        whole |= _gathered(piece)
    if not _is_first():
        return {}
    return {key: whole[key] if key in whole else one.detach().cpu() for key, one in tensors.items()}


def _pieces(tensors: Mapping[_Key, DTensor]) -> Iterator[dict[_Key, DTensor]]:
    """Tensors of one type, in their order, until they are large; the same pieces in every process."""
    piece: dict[_Key, DTensor] = {}
    size, dtype = 0, None
    for key, tensor in tensors.items():
        bytes_ = _count(tensor, 0) * tensor.element_size()
        if piece and (tensor.dtype != dtype or size + bytes_ > _PIECE_BYTES):
            yield piece
            piece, size = {}, 0
        piece[key], dtype = tensor, tensor.dtype
        size += bytes_
    if piece:
        yield piece


def _gathered(piece: Mapping[_Key, DTensor]) -> dict[_Key, Tensor]:
    mesh = next(iter(piece.values())).device_mesh
    counts = [[_count(tensor, rank) for tensor in piece.values()] for rank in range(mesh.size())]
    flat = torch.cat([tensor.to_local().detach().reshape(-1) for tensor in piece.values()])
    # No share is larger than that of the first process.
    sent = torch.nn.functional.pad(flat, (0, sum(counts[0]) - len(flat)))
    received = [torch.empty_like(sent) for _ in counts] if _is_first() else None
    dist.gather(sent, received, dst=0, group=mesh.get_group())
    if received is None:
        return {}
    shares = [part.cpu()[: sum(count)].split(count) for part, count in zip(received, counts, strict=True)]
    return {
        key: torch.cat([share[number] for share in shares]).reshape(tensor.shape)
        for number, (key, tensor) in enumerate(piece.items())
    }


def _rows(tensor: DTensor, rank: int) -> tuple[int, int]:
    """The rows of a process: shares as large as the first one's as long as there are rows."""
    if tuple(tensor.placements) != (Shard(0),):
        raise TrainingError(f"weights shared out by {tensor.placements}; expected rows, over one dimension")
    each = -(-tensor.shape[0] // tensor.device_mesh.size())
    return min(rank * each, tensor.shape[0]), min((rank + 1) * each, tensor.shape[0])


def _count(tensor: DTensor, rank: int) -> int:
    first, end = _rows(tensor, rank)
    return (end - first) * tensor.shape[1:].numel()


def _share(whole: Tensor, like: Tensor, name: str) -> Tensor:
    if whole.shape != like.shape:
        raise ValueError(f"{name}: found {list(whole.shape)}; expected {list(like.shape)}")
    if not isinstance(like, DTensor):
        return whole
    first, end = _rows(like, like.device_mesh.get_local_rank())
    return whole[first:end]


def _as(value: Any, parameter: Tensor) -> Any:
    """A part of the state as the parameter it belongs to is laid out; numbers of steps stay as they are."""
    if not isinstance(value, Tensor) or not isinstance(parameter, DTensor) or not value.dim():
        return value
    share = _share(value, parameter, "optimizer").to(parameter.to_local().device).clone()
    return DTensor.from_local(
        share, parameter.device_mesh, parameter.placements, run_check=False,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip
