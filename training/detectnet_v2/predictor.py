"""One face for a trained network, whatever it became: a checkpoint, an ONNX file, an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.checkpoint import load_model
from training.detectnet_v2.grid import Grid, OutputGrid
from training.detectnet_v2.infer import scale_inputs
from training.detectnet_v2.model import OUTPUT_NAMES
from training.evaluation.onnx_runner import Images, OnnxRunner

_CHECKPOINTS = {".pt", ".pth"}
_FOREIGN = {".tlt", ".etlt", ".hdf5", ".uff", ".caffemodel"}


class Predictor(Protocol):
    """Runs inputs ``[B, C, H, W]`` uint8 to coverage ``[B, K, H/16, W/16]`` and boxes ``[B, 4K, …]``, on the
    CPU and in float32.
    """

    kind: str
    grid: Grid

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage and boxes."""


class _Runner(Protocol):
    def run(self, images: Images) -> dict[str, Images]: ...


def open_predictor(
    path: str | Path,
    *,
    classes: tuple[str, ...] = (),
    scale: float = 35.0,
    offset: float = 0.5,
    device: str | None = None,
) -> Predictor:
    """Open a model by the ending of its file: ``.pt``, ``.onnx`` or ``.engine`` (``.plan``, ``.trt``).

    A checkpoint says itself what its outputs mean; an ONNX file does where it was exported here; else
    ``classes``, ``scale`` and ``offset`` do. Raises ``ConfigError`` for other files and for classes that
    contradict the model's, ``TrainingError`` and ``ExportError`` for files that are not what they seem.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; expected a model (.pt, .onnx or .engine)")
    if path.suffix in _CHECKPOINTS:
        return _agreeing(_TorchPredictor(path, device), classes, path)
    if path.suffix == ".onnx":
        runner = OnnxRunner(path)
        said = runner.metadata
        grid = OutputGrid(
            classes=runner.classes or classes,
            scale=float(said.get("bbox_scale", scale)),
            offset=float(said.get("bbox_offset", offset)),
        )
        return _agreeing(_RunnerPredictor(runner, grid, "onnx"), classes, path)
    if path.suffix in {".engine", ".plan", ".trt"}:
        from training.export.engine_runner import EngineRunner

        return _agreeing(
            _RunnerPredictor(
                EngineRunner(path), OutputGrid(classes=classes, scale=scale, offset=offset), "engine"
            ),
            classes,
            path,
        )
    hint = "; models of TAO 3 are encrypted or of Keras: train again here" if path.suffix in _FOREIGN else ""
    raise ConfigError(
        f"{path}: the ending {path.suffix or '(none)'} is no model's; expected .pt, .onnx or .engine{hint}"
    )


def gpu(index: int) -> str | None:
    """The device of a spec's ``gpu_index``; None, which is the CPU, where there is no GPU at all.

    Raises ``ConfigError`` where there are others only.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and not 0 <= index < count:
        raise ConfigError(f"gpu_index is {index}; expected 0 to {count - 1}, the GPUs that are there")
    return f"cuda:{index}" if count else None


def _agreeing(predictor: Predictor, classes: tuple[str, ...], path: Path) -> Predictor:
    found = predictor.grid.classes
    if not found:
        raise ConfigError(f"{path}: does not say its classes; name them in the spec (target_classes)")
    if classes and classes != found:
        raise ConfigError(
            f"{path}: has the classes {', '.join(found)}, and the spec {', '.join(classes)}; expected the "
            "same in the same order"
        )
    return predictor


class _TorchPredictor:
    kind = "pytorch"

    def __init__(self, path: Path, device: str | None) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._path = path
        self._model, self.spec = load_model(path, self._device)
        self._model = self._model.to(memory_format=torch.channels_last)
        self.grid: Grid = self._model

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.shape[1] != self._model.channels:
            raise ConfigError(
                f"{self._path}: images of {pixels.shape[1]} channels; expected {self._model.channels} "
                "(image_channels of inference, output_image_channel of the other commands)"
            )
        with torch.inference_mode():
            cov, bbox = self._model(scale_inputs(pixels.to(self._device)))
        return cov.float().cpu(), bbox.float().cpu()


class _RunnerPredictor:
    def __init__(self, runner: _Runner, grid: OutputGrid, kind: str) -> None:
        self._runner = runner
        self.grid: Grid = grid
        self.kind = kind

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._runner.run(pixels.numpy().astype(np.float32) / np.float32(255))
        cov, bbox = (torch.from_numpy(outputs[name]) for name in OUTPUT_NAMES)
        return cov, bbox
