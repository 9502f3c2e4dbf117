"""The precision of an ONNX graph. Builders since TensorRT 10 take it from there and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from storage.errors import ExportError
from training.evaluation.onnx_runner import OnnxRunner
from training.export.files import write_atomically

Precision = Literal["fp32", "fp16", "int8"]


def read_onnx(path: Path) -> onnx.ModelProto:
    """The graph in ``path``; :class:`ExportError` where it is none."""
    try:
        return onnx.load(str(path))
    except FileNotFoundError as error:
        raise ExportError(f"{path}: no such file; expected an ONNX model") from error
    except Exception as error:
        raise ExportError(f"{path}: not an ONNX model: {error}") from error


def graph_precision(graph: onnx.ModelProto) -> Precision:
    """``int8`` where values pass through QuantizeLinear, ``fp16`` where a weight is half precision, else
    ``fp32``.
    """
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    return "fp16" if any(weight.data_type == half for weight in graph.graph.initializer) else "fp32"


def to_fp16(path: Path, out_path: Path) -> dict[str, float]:
    """Write the graph of ``path`` with half precision inside and float32 inputs and outputs to ``out_path``.

    Returns the largest absolute difference of each output from the float32 graph, on noise in [0, 1]. Raises
    :class:`ExportError` where half precision overflows.
    """
    # Slow to import, and needed for this alone.
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph: Any = convert_float_to_float16(read_onnx(path), keep_io_types=True)

    def compare(written: Path) -> dict[str, float]:
        full, half = OnnxRunner(path), OnnxRunner(written)
        size = [n or 64 for n in full.input_shape]
        images = np.random.default_rng(0).random((1, *size), dtype=np.float32)
        expected, found = full.run(images), half.run(images)
        difference = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
        if not all(np.isfinite(list(difference.values()))):
            raise ExportError(f"{path}: outputs overflow in half precision; keep fp32, or use int8")
        return difference

    return write_atomically(out_path, lambda temporary: onnx.save(graph, str(temporary)), compare)
