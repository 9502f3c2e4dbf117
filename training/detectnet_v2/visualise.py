"""What a training looks like while it runs: TensorBoard files, and Weights & Biases where a spec asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import ConfigError
from training.detectnet_v2.infer import scale_inputs
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.spec import TrainSpec


class Visualiser:
    """Writes below ``folder/events`` what ``training_config.visualizer`` asks for, if anything."""

    def __init__(self, spec: TrainSpec, folder: Path) -> None:
        self._config = spec.training_config.visualizer
        self._classes = spec.classes
        self._threshold = [
            shown.coverage_threshold if (shown := self._config.target_class_config.get(name)) else 0.0
            for name in spec.classes
        ]
        self._board: Any = None
        self._wandb: Any = None
        if not self._config.enabled:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError("visualizer needs tensorboardX: pip install dropmill[train]") from error
        self._board = SummaryWriter(str(folder / "events"))
        if self._config.wandb_config is not None and self._config.wandb_config.enabled:
            self._wandb = _wandb_run(spec, folder)

    def step(self, number: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a training step, each ``scalar_logging_frequency`` steps."""
        if self._board is not None and number % self._config.scalar_logging_frequency == 0:
            for name, value in scalars.items():
                self._board.add_scalar(f"step/{name}", value, number)

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an epoch."""
        if self._board is not None:
            for name, value in metrics.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, number)
            self._board.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=number)

    def wants_pictures(self, epoch: int) -> bool:
        """Whether ``pictures`` are due after ``epoch`` epochs."""
        often = self._config.infrequent_logging_frequency
        return self._board is not None and self._config.num_images > 0 and epoch % often == 0

    def pictures(self, number: int, model: DetectNetV2, pixels: Tensor) -> None:
        """Inputs ``[B, C, H, W]`` uint8 with the predicted coverage of each class in red over them."""
        shown = pixels[: self._config.num_images]
        with torch.inference_mode():
            cov, _ = model(scale_inputs(shown.to(next(model.parameters()).device)))
        grey = shown.float().mean(dim=1, keepdim=True).cpu().numpy() / 255
        for index, name in enumerate(self._classes):
            grid = cov[:, index : index + 1].float().cpu().numpy()
            grid = (
                np.where(grid > self._threshold[index], grid, 0)
                .repeat(model.stride, 2)
                .repeat(model.stride, 3)
            )
            picture = np.concatenate([np.maximum(grey, grid), grey * (1 - grid), grey * (1 - grid)], axis=1)
            self._show(f"coverage/{name}", picture.clip(0, 1), number)

    def _show(self, name: str, pictures: NDArray[np.float32], number: int) -> None:
        """``[B, 3, H, W]``, 0 to 1, in both places."""
        self._board.add_images(name, pictures, number)
        if self._wandb is not None:
            import wandb

            shown = [wandb.Image(np.uint8(255 * picture.transpose(1, 2, 0))) for picture in pictures]
            self._wandb.log({name: shown}, step=number)

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(spec: TrainSpec, folder: Path) -> Any:
    config = spec.training_config.visualizer.wandb_config
    assert config is not None
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("visualizer.wandb_config needs the package wandb: pip install wandb") from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return wandb.init(
            project=config.project,
            entity=config.entity or None,
            name=config.name or None,
            notes=config.notes or None,
            tags=list(config.tags) or None,
            save_code=config.save_code,
            dir=str(folder),
            config=dataclasses.asdict(spec),
        )
    except wandb.Error as error:
        raise ConfigError(f"W&B: {error}; WANDB_MODE=offline needs no account") from error
