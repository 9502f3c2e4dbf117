"""An INT8 graph from a float32 one, with ranges measured on images (post-training quantisation).

The result carries QuantizeLinear and DequantizeLinear nodes, the only form that TensorRT 10, 11 and
TensorRT for RTX all read: int8, symmetric, zero point 0, weights per output channel, biases left in float.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from storage.errors import ExportError
from training.evaluation.onnx_runner import Images, OnnxRunner
from training.export.files import sha256_of, write_atomically
from training.export.precision import graph_precision, read_onnx

_LOG = logging.getLogger(__name__)

AnyImages = npt.NDArray[np.floating]

# ONNX Runtime's entropy method has as many bins as levels here, and so gives the ranges of minmax.
Method = Literal["minmax", "percentile"]

_METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
_PERCENTILE = 99.99

# TensorRT's parser refuses quantised biases and zero points other than 0.
_TENSORRT_FORM = {"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True}


@dataclass(frozen=True, kw_only=True)
class QuantisedReport:
    """What was written, from how many images, and how far its outputs are from the float32 graph's."""

    path: Path
    size_bytes: int
    sha256: str
    method: Method
    calibration_images: int
    quantised_convolutions: int
    mean_difference: dict[str, float]
    """Mean absolute difference per output over the last batch of calibration images."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the lake."""
        return {**asdict(self), "path": str(self.path)}


def quantise_onnx(
    path: str | Path,
    out_path: str | Path,
    images: Iterable[AnyImages],
    *,
    method: Method = "minmax",
    batch_size: int = 8,
) -> QuantisedReport:
    """Quantise the convolutions of ``path`` by what ``images`` (C, H, W) in [0, 1] make of them.

    Images should look like those of use and be without augmentation. Convolutions that lead to an output
    (the heads) stay in float: they cost little and the boxes need their range. ``minmax`` takes the largest
    value seen and needs memory for one batch; ``percentile`` leaves out the largest 0.01 % and keeps every
    activation of all images. Raises :class:`ExportError` where there is no image, or the graph is quantised
    or halved already.
    """
    source, target = Path(path), Path(out_path)
    graph = read_onnx(source)
    if (precision := graph_precision(graph)) != "fp32":
        raise ExportError(f"{source}: the graph is {precision} already; expected fp32")
    runner = OnnxRunner(source)
    # ONNX Runtime's histograms fail on a last batch that is smaller than the others.
    reader = _Batches(runner, images, 1 if method == "percentile" else batch_size)
    heads = _heads(graph)

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="dropmill-quantise-") as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # its calibrator prints
                    quantize_static(
                        str(prepared),
                        str(temporary),
                        reader,
                        quant_format=QuantFormat.QDQ,
                        op_types_to_quantize=["Conv"],
                        nodes_to_exclude=heads,
                        per_channel=True,
                        activation_type=QuantType.QInt8,
                        weight_type=QuantType.QInt8,
                        calibrate_method=_METHODS[method],
                        extra_options={**_TENSORRT_FORM, "CalibPercentile": _PERCENTILE},
                    )
            except ValueError as error:
                raise ExportError(
                    f"{source}: cannot calibrate with {reader.count} images: {error}"
                ) from error
        written = onnx.load(str(temporary))
        onnx.helper.set_model_props(written, runner.metadata)
        onnx.save(written, str(temporary))

    def compare(written: Path) -> tuple[int, dict[str, float]]:
        nodes = read_onnx(written).graph.node
        dequantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
        count = sum(node.op_type == "Conv" and set(node.input[:2]) <= dequantised for node in nodes)
        if not count:
            raise ExportError(f"{source}: has no convolution to quantise besides its heads")
        expected, found = runner.run(reader.last), OnnxRunner(written).run(reader.last)
        return count, {name: float(np.abs(found[name] - expected[name]).mean()) for name in expected}

    count, difference = write_atomically(target, write, compare)
    report = QuantisedReport(
        path=target,
        size_bytes=target.stat().st_size,
        sha256=sha256_of(target),
        method=method,
        calibration_images=reader.count,
        quantised_convolutions=count,
        mean_difference=difference,
    )
    _LOG.info("quantised onnx path=%s images=%d mean_difference=%s", target, reader.count, difference)
    return report


class _Batches(CalibrationDataReader):
    """Images by the batch, as the calibrator asks for them."""

    def __init__(self, runner: OnnxRunner, images: Iterable[AnyImages], batch_size: int) -> None:
        self.count = 0
        self._name = runner.input_name
        self._fixed = runner.fixed_batch
        self._rest = self._stacked(iter(images), runner.fixed_batch or batch_size)
        first = next(self._rest, None)
        if first is None:
            raise ExportError(f"{runner.path}: no calibration image; ranges must not be guessed")
        self.last: Images = first
        # The whole calibration would fail late on a size that does not fit.
        runner.run(first[:1])
        self._batches = itertools.chain([first], self._rest)

    def _stacked(self, images: Iterator[AnyImages], size: int) -> Iterator[Images]:
        while batch := list(itertools.islice(images, size)):
            self.count += len(batch)
            # Images that come twice change no range, and a graph of fixed batch takes no other number.
            batch += batch[-1:] * ((self._fixed or 0) - len(batch))
            yield np.stack(batch).astype(np.float32)

    def get_next(self) -> dict[str, Images] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        self.last = batch
        return {self._name: batch}


def _heads(graph: onnx.ModelProto) -> list[str]:
    """Names of the convolutions between which and an output there is no other."""
    producer = {name: node for node in graph.graph.node for name in node.output}
    found, open_names = [], [value.name for value in graph.graph.output]
    while open_names:
        node = producer.get(open_names.pop())
        if node is None:
            continue
        if node.op_type == "Conv":
            found.append(node.name)
        else:
            open_names.extend(node.input)
    return sorted(set(found))
