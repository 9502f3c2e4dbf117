"""Run a compiled engine on the CUDA device, with the same face as the runner of ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from storage.errors import ExportError
from training.evaluation.onnx_runner import Images
from training.export.files import sha256_of
from training.export.tensorrt_build import BuildError, bindings


class EngineRunner:
    """One engine that :func:`~training.export.engine.build_engine` made, on the first CUDA device.

    The file beside it says which runtime it needs. Raises :class:`ExportError` without that file, where the
    engine is not the one described there, and where runtime, device or driver do not fit.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        report = _report(self.path)
        if not torch.cuda.is_available():
            raise ExportError(f"{path}: an engine runs on a CUDA device, and the driver shows none")
        try:
            self._trt: Any = bindings(str(report["backend"]))
        except BuildError as error:
            raise ExportError(f"{path}: {error}") from error
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(self.path.read_bytes())
        if self._engine is None:
            major, minor = torch.cuda.get_device_capability()
            raise ExportError(
                f"{path}: cannot be read by {report['backend']} {self._trt.__version__} on compute "
                f"capability {major}.{minor}; built by {report['version']} for {report['architectures']}"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = self._trt.TensorIOMode.INPUT
        self.input_name: str = next(n for n in names if self._engine.get_tensor_mode(n) == is_input)
        self.output_names: tuple[str, ...] = tuple(name for name in names if name != self.input_name)
        if any(self._engine.get_tensor_dtype(name) != self._trt.float32 for name in names):
            raise ExportError(f"{path}: inputs and outputs are not all float32; build it with build_engine")
        batch, *size = tuple(self._engine.get_tensor_shape(self.input_name))
        self.fixed_batch: int | None = batch if batch > 0 else None
        self.max_batch: int = int(report["max_batch"])
        self.input_shape: tuple[int, ...] = tuple(size)

    def run(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name, first axis the batch, of images (n, C, H, W) in [0, 1]; any n."""
        if images.ndim != 4 or not len(images) or images.shape[1:] != self.input_shape:
            raise ExportError(
                f"{self.path}: images have shape {images.shape}; expected (n, *{self.input_shape})"
            )
        parts: list[list[torch.Tensor]] = []
        for start in range(0, len(images), self.max_batch):
            part = np.ascontiguousarray(images[start : start + self.max_batch], dtype=np.float32)
            size = self.fixed_batch or len(part)
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            parts.append([values[: len(part)] for values in self._execute(torch.from_numpy(padded).cuda())])
        joined = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        return dict(zip(self.output_names, joined, strict=True))

    def _execute(self, images: torch.Tensor) -> list[torch.Tensor]:
        self._context.set_input_shape(self.input_name, tuple(images.shape))
        self._context.set_tensor_address(self.input_name, images.data_ptr())
        outputs = []
        for name in self.output_names:
            values = torch.empty(
                tuple(self._context.get_tensor_shape(name)), dtype=torch.float32, device="cuda"
            )
            self._context.set_tensor_address(name, values.data_ptr())
            outputs.append(values)
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise ExportError(f"{self.path}: the engine failed on a batch of {len(images)}")
        stream.synchronize()
        return [values.cpu() for values in outputs]


def _report(path: Path) -> dict[str, Any]:
    beside = path.with_name(f"{path.name}.json")
    if not path.is_file() or not beside.is_file():
        absent = beside if path.is_file() else path
        raise ExportError(f"{absent}: no such file; expected an engine and, beside it, its report")
    try:
        report = json.loads(beside.read_text(encoding="utf-8"))
        wanted = report["sha256"]
        _ = report["backend"], report["version"], report["max_batch"], report["architectures"]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{beside}: not the report of an engine: {error!r}") from error
    # Deserialising hands the bytes to native code: only what was built is handed on.
    if (found := sha256_of(path)) != wanted:
        raise ExportError(f"{path}: SHA-256 is {found}; its report says {wanted}; build it again")
    assert isinstance(report, dict)
    return report
