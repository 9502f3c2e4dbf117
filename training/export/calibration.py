"""Pictures for calibration: TAO's tensorfile, and the cache of ranges that TensorRT up to 10 takes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from storage.errors import ConfigError, ExportError
from training.evaluation.onnx_runner import Images
from training.export.files import write_atomically

_KEY = "_tensorfile_array_key__"
_HEADER = "TRT-100000-EntropyCalibration2"


def write_tensorfile(path: Path, batches: Iterable[Images]) -> int:
    """Write batches ``[B, C, H, W]`` in [0, 1] as an HDF5 tensorfile; the number of batches.

    Raises ``ConfigError`` where ``path`` is there already, ``ExportError`` where there is no batch.
    """
    import h5py

    if path.exists():
        raise ConfigError(f"{path}: is there already; name another file, or delete it")

    def write(temporary: Path) -> int:
        count = 0
        shape: tuple[int, ...] = ()
        with h5py.File(temporary, "w") as file:
            for batch in batches:
                file.create_dataset(f"{_KEY}{count}", data=batch.astype(np.float32), compression="gzip")
                count, shape = count + 1, batch.shape
            file.attrs["count"] = count
            file.attrs["shape"] = shape
        if not count:
            raise ExportError(f"{path}: there is no picture to write")
        written.append(count)
        return count

    written: list[int] = []
    write_atomically(path, write, lambda _: None)
    return written[0]


def read_tensorfile(path: Path, *, batches: int | None = None) -> Iterator[Images]:
    """The pictures ``[C, H, W]`` of a tensorfile (ours or TAO's), of its first ``batches`` batches.

    Raises ``ConfigError`` for a file that is none.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ConfigError(f"{path}: {error}; expected a file of calibration_tensorfile (HDF5)") from None
    with file:
        names = sorted((name for name in file if name.startswith(_KEY)), key=_number)
        if not names:
            raise ConfigError(f"{path}: no arrays named {_KEY}0 …; expected a tensorfile")
        for name in names[:batches]:
            values = file[name]
            if not isinstance(values, h5py.Dataset) or values.ndim != 4 or values.dtype.kind != "f":
                raise ConfigError(f"{path}: {name} is no batch of pictures")
            yield from values[:].astype(np.float32)


def _number(name: str) -> int:
    digits = name.removeprefix(_KEY)
    return int(digits) if digits.isdigit() else -1


def write_calibration_cache(path: Path, graph: onnx.ModelProto) -> int:
    """Write the ranges of a quantised graph as the text that TensorRT 7 to 10 reads beside the float graph;
    the number of tensors.

    One line per tensor: its name and the step of its int8 values, as the hexadecimal digits of a float32.
    TensorRT 11 has no such file: there the ranges are the QuantizeLinear nodes of the graph.
    """
    values = {value.name: value for value in graph.graph.initializer}
    lines = {}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in values and node.input[0] not in values:
            step = numpy_helper.to_array(values[node.input[1]])
            if step.size == 1:
                lines[node.input[0]] = struct.pack(">f", float(step.reshape(()))).hex()
    if not lines:
        raise ExportError(f"{path}: the graph has no ranges; export it as int8")
    text = "\n".join([_HEADER, *(f"{name}: {digits}" for name, digits in lines.items())]) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), lambda _: None)
    return len(lines)


def stacked(images: Iterable[npt.NDArray[np.uint8]], size: int) -> Iterator[Images]:
    """Network inputs ``[C, H, W]`` uint8 as batches ``[size, C, H, W]`` in [0, 1]; a smaller rest is last."""
    batch: list[npt.NDArray[np.uint8]] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch).astype(np.float32) / np.float32(255)
            batch = []
    if batch:
        yield np.stack(batch).astype(np.float32) / np.float32(255)
