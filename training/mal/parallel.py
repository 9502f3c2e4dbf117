"""Several processes: DDP keeps a copy of the student in each, FSDP shares all weights out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from training.mal.network import MalNetwork
from training.place import Place

_IMAGES_IN_HAND = 64


def wrap(student: MalNetwork, teacher: MalNetwork, strategy: str, place: Place) -> nn.Module:
    """The student as it is to be called. ``fsdp`` (and ``ddp_sharded``) share out both networks' weights."""
    if place.world == 1:
        return student
    if strategy in {"fsdp", "ddp_sharded"}:
        from torch.distributed.fsdp import fully_shard

        for network in (student, teacher):
            network.to(memory_format=torch.contiguous_format)  # FSDP shares out no other layout
            for part in _parts(network.backbone.stages):
                if any(True for _ in part.parameters()):
                    fully_shard(part)
            # The teacher has no backward pass, after which the outermost weights would be shared out again.
            fully_shard(network, reshard_after_forward=True)
        return student
    return DistributedDataParallel(student)


def _parts(stages: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The stages, and in place of lists their members: timm goes through these itself, and weights come
    together only where the module that was sharded is called.
    """
    for stage in stages:
        if isinstance(stage, nn.Sequential | nn.ModuleList):
            yield from _parts(stage)
        else:
            yield stage


class CropOrder(Sampler[int]):
    """Indices of this process in one epoch, drawn from (seed, epoch).

    ``images`` has the image of each index. Some images are in hand at a time, and the boxes of those come in
    any order, so that an image is decoded once an epoch. Every process gets the same number of indices: some
    come twice where they cannot be shared out evenly.
    """

    def __init__(self, images: Sequence[int], *, seed: int, place: Place) -> None:
        self._images = np.asarray(images)
        self._seed, self._place = seed, place
        self.epoch = 0

    def __len__(self) -> int:
        return (len(self._images) + self._place.world - 1) // self._place.world

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self._seed, self.epoch))
        turn = np.empty(self._images.max() + 1, np.int64)
        turn[draw.permutation(len(turn))] = np.arange(len(turn))
        hand = turn[self._images] // _IMAGES_IN_HAND
        order = np.lexsort((draw.random(len(hand)), hand))
        dealt = np.resize(order, len(self) * self._place.world)
        return iter(dealt[self._place.rank :: self._place.world].tolist())
