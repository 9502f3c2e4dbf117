"""A trained MAL as a labeler: crops of many images in one batch, masks back on their images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.mal.checkpoint import load_checkpoint, restored
from training.mal.data import normalised
from training.mal.folded import fold
from training.mal.network import size_groups
from training.mal.precision import autocast, computes_in_half
from training.mal.spec import MalSpec, TrainSpec, with_thresholds
from transforms.masks.crops import Floats, Window, cut, expand, uncut
from transforms.masks.labeler import BoxedImage

_DIGITS = 12


class MalLabeler:
    """Masks by the mean logits of ``networks`` (the student, the teacher, or both).

    With ``flip`` the mean of each crop and its mirror image is taken. ``batch_size`` crops are looked at at
    once, of whichever images they are.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        spec: MalSpec,
        *,
        version: str = "",
        batch_size: int = 16,
        flip: bool = False,
        device: torch.device | str = "cpu",
        amp: bool = False,
    ) -> None:
        self.spec = spec
        self.name, self.arch = f"mal/{spec.model.arch}", spec.model.arch
        self.version = version
        self._networks = [network.eval() for network in networks]
        self._batch_size, self._flip = max(1, batch_size), flip
        self._device, self._amp = torch.device(device), amp

    @classmethod
    def of_checkpoint(
        cls,
        path: str | Path,
        *,
        batch_size: int = 16,
        teacher: bool = False,
        mixed: bool = False,
        flip: bool = False,
        device: torch.device | str = "cpu",
        amp: bool | None = None,
        given: TrainSpec | None = None,
    ) -> MalLabeler:
        """The labeler of a checkpoint: its student, its ``teacher``, or both ``mixed``. Raises
        ``TrainingError`` for a file that is none.

        Thresholds and margins are those of the checkpoint's spec, and what ``given`` sets of them. With
        ``amp`` they compute in half precision; if it is not said, wherever the device does so natively.
        """
        checkpoint = load_checkpoint(path)
        parts = ("student", "teacher") if mixed else ("teacher",) if teacher else ("student",)
        networks = [restored(checkpoint, part, path).to(device) for part in parts]
        spec = with_thresholds(checkpoint.spec, given) if given is not None else checkpoint.spec
        said = [spec.dataset.crop_size, spec.train.mask_thres, spec.train.test_margin_rate[0], flip]
        version = weights_version(networks, json.dumps(said))
        return cls(
            [fold(network) for network in networks],
            spec,
            version=version,
            batch_size=batch_size,
            flip=flip,
            device=device,
            amp=computes_in_half(torch.device(device)) if amp is None else amp,
        )

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        """See :class:`transforms.masks.labeler.Labeler`."""
        crop_size = self.spec.dataset.crop_size
        regions, crops = [], []
        margin = 0.5 * self.spec.train.test_margin_rate[0]
        for image in images:
            found = expand(image.boxes, np.full((len(image.boxes), 4), margin))
            regions.append(found)
            crops += [cut(image.pixels, region, crop_size) for region in found]
        boxes = np.concatenate([np.zeros((0, 4)), *[image.boxes for image in images]])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        logits = self._logits(crops, areas)
        thresholds = self._thresholds(areas)
        windows, place = [], 0
        for image, found in zip(images, regions, strict=True):
            size = (image.pixels.shape[1], image.pixels.shape[0])
            mine = []
            for region, box in zip(found, image.boxes, strict=True):
                mine.append(uncut(logits[place], region, box, size, threshold=thresholds[place]))
                place += 1
            windows.append(mine)
        return windows

    def _logits(self, crops: Sequence[NDArray[np.uint8]], areas: NDArray[np.float64]) -> Floats:
        side = self.spec.dataset.crop_size // 4
        out = np.empty((len(crops), side, side), np.float32)
        # Crops of one scale together: the network then runs its head once for a batch.
        order = np.argsort(size_groups(torch.from_numpy(areas)).numpy(), kind="stable")
        for start in range(0, len(crops), self._batch_size):
            chosen = order[start : start + self._batch_size]
            pixels = np.stack([crops[number] for number in chosen]).transpose(0, 3, 1, 2)
            batch = normalised(torch.from_numpy(pixels).to(self._device))
            out[chosen] = self._predicted(batch, torch.from_numpy(areas[chosen])).cpu().numpy()
        return out

    @torch.inference_mode()
    def _predicted(self, crops: Tensor, areas: Tensor) -> Tensor:
        areas = areas.to(self._device)
        found = []
        with autocast(self._device, enabled=self._amp):
            for network in self._networks:
                found.append(network(crops, areas).float())
                if self._flip:
                    found.append(network(crops.flip(3), areas).float().flip(3))
        return torch.stack(found).mean(0)[:, 0]

    def _thresholds(self, areas: NDArray[np.float64]) -> list[float]:
        given = self.spec.train.mask_thres
        each = given * 3 if len(given) == 1 else given
        return [each[group] for group in size_groups(torch.from_numpy(areas)).tolist()]


def weights_version(networks: Sequence[nn.Module], settings: str = "") -> str:
    """A digest of all weights and of ``settings``, of 12 digits, wherever they lie."""
    digest = hashlib.sha256(settings.encode())
    for network in networks:
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]
