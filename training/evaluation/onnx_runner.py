"""Run an exported detector as its user will: the ONNX file in ONNX Runtime, not the model it came from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from storage.errors import ExportError

Images = npt.NDArray[np.float32]


class OnnxRunner:
    """One ONNX file with one image input, ready to run. ``threads`` 0 lets ONNX Runtime choose.

    ``classes`` come from the file's metadata and are empty where it has none. Raises :class:`ExportError`
    for a file that is no such model.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, providers: Iterable[str] | None = None) -> None:
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
        if not self.path.is_file():
            raise ExportError(f"{path}: no such file; expected an ONNX model")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:
            raise ExportError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            found = ", ".join(f"{value.name} {value.shape}" for value in inputs)
            raise ExportError(f"{path}: inputs are {found}; expected one (batch, channels, height, width)")
        self.input_name: str = inputs[0].name
        self.output_names: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())
        batch, *size = inputs[0].shape
        self.fixed_batch: int | None = batch if isinstance(batch, int) else None
        self.input_shape: tuple[int | None, ...] = tuple(n if isinstance(n, int) else None for n in size)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.classes: tuple[str, ...] = _classes(self.metadata.get("classes"), path)

    def run(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name, first axis the batch, of images (n, C, H, W) in [0, 1]."""
        expected = self.input_shape
        fits = images.ndim == 4 and all(
            e in (None, n) for e, n in zip(expected, images.shape[1:], strict=True)
        )
        if not fits or not len(images):
            raise ExportError(f"{self.path}: images have shape {images.shape}; expected (n, *{expected})")
        size = self.fixed_batch or len(images)
        parts = []
        for start in range(0, len(images), size):
            part = np.ascontiguousarray(images[start : start + size], dtype=np.float32)
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            outputs = self._session.run(list(self.output_names), {self.input_name: padded})
            parts.append([output[: len(part)] for output in outputs])
        joined = (np.concatenate(column) for column in zip(*parts, strict=True))
        return dict(zip(self.output_names, joined, strict=True))


def run_samples(
    runner: OnnxRunner, images: Iterable[Images], *, batch_size: int = 8
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """The outputs of each image (C, H, W), in order and without the batch axis; reads ``batch_size``
    ahead.
    """
    rest = iter(images)
    while batch := list(itertools.islice(rest, batch_size)):
        outputs = runner.run(np.stack(batch))
        for i in range(len(batch)):
            yield {name: values[i] for name, values in outputs.items()}


def _classes(text: str | None, path: str | Path) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExportError(f"{path}: metadata 'classes' is {text[:80]!r}; expected a JSON list of names")
    return tuple(names)
