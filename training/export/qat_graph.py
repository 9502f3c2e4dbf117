"""A network of quantisation-aware training as an INT8 ONNX graph with the ranges that it was trained with."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from storage.errors import ExportError
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.qat import LEVELS, folded_twin
from training.evaluation.onnx_runner import OnnxRunner
from training.export.files import write_atomically
from training.export.onnx_graph import OUTPUTS, export_onnx, probe_pictures
from training.export.precision import read_onnx

_LOG = logging.getLogger(__name__)

# Both sides add in another order, and then a value at the border of two steps goes either way. How much of
# that reaches the outputs is the network's own doing: one of 18 layers that was hardly trained makes a tenth
# of their spread of a hundred-thousandth of the input. So the model is also compared with itself.
_TOLERANCE = 0.05
_SHAKE = 1e-5
_OF_ITS_OWN = 2.0


def export_qat_onnx(
    model: DetectNetV2,
    path: str | Path,
    *,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = True,
) -> dict[str, float]:
    """Write ``model``, prepared by ``prepare_qat`` and trained, with QuantizeLinear and DequantizeLinear.

    Returns the mean difference of each output between ONNX Runtime and the model on two pictures; where it is
    larger than 5 % of the output's spread, and than twice what a change of the input by a hundred-thousandth
    does to the model, :class:`ExportError` is raised and nothing is written. Also raised where the model has
    seen no image since it was prepared.
    """
    target = Path(path)
    twin, ranges = folded_twin(model)
    if not ranges or min(ranges.values()) <= 0:
        blind = [name for name, value in ranges.items() if value <= 0]
        raise ExportError(
            f"{target}: {'the layers ' + ', '.join(blind[:3]) + ' have' if blind else 'the network has'} no "
            "range; train with enable_qat, or export int8 with calibration images"
        )
    with tempfile.TemporaryDirectory(prefix="dropmill-qat-") as folder:
        plain = Path(folder) / "plain.onnx"
        export_onnx(
            twin,
            plain,
            input_shape=input_shape,
            classes=classes,
            metadata=metadata,
            dynamic_batch=dynamic_batch,
        )
        graph = insert_ranges(read_onnx(plain), ranges, str(target))
    pictures = probe_pictures(input_shape)

    def check(written: Path) -> dict[str, float]:
        onnx.checker.check_model(str(written), full_check=True)
        found = OnnxRunner(written).run(pictures)
        device = next(model.parameters()).device
        with torch.inference_mode():
            images = torch.from_numpy(pictures).to(device)
            expected, shaken = model.eval()(images), model(images * (1 + _SHAKE))
        difference = {}
        for name, values, others in zip(OUTPUTS, expected, shaken, strict=True):
            reference = values.float().cpu().numpy()
            difference[name] = float(np.abs(found[name] - reference).mean())
            own = _OF_ITS_OWN * float((others - values).abs().mean())
            if not difference[name] <= max(_TOLERANCE * max(float(reference.std()), 1e-3), own):
                raise ExportError(
                    f"{target}: in ONNX Runtime {name} differs from the trained model by "
                    f"{difference[name]:.3g} in the mean, where its spread is {reference.std():.3g}"
                )
        return difference

    difference = write_atomically(target, lambda temporary: onnx.save(graph, str(temporary)), check)
    _LOG.info("exported qat onnx path=%s layers=%d mean_difference=%s", target, len(ranges), difference)
    return difference


def insert_ranges(graph: onnx.ModelProto, ranges: Mapping[str, float], path: str) -> onnx.ModelProto:
    """Put QuantizeLinear and DequantizeLinear around the inputs of the convolutions of ``ranges``, and int8
    kernels with a scale per channel in place of theirs.
    """
    body = graph.graph
    kernels = {value.name: value for value in body.initializer}
    nodes: list[onnx.NodeProto] = []
    shared: dict[tuple[str, float], str] = {}
    done = set()
    for node in body.node:
        name = node.input[1].removesuffix(".weight") if node.op_type == "Conv" else ""
        if name in ranges and node.input[1] in kernels:
            step = ranges[name] / LEVELS
            key = (node.input[0], step)
            if key not in shared:
                shared[key] = _round_trip(body, nodes, node.input[0], step, name)
            node.input[0] = shared[key]
            node.input[1] = _int8_kernel(body, nodes, kernels[node.input[1]], name)
            done.add(name)
        nodes.append(node)
    if missing := sorted(set(ranges) - done):
        raise ExportError(f"{path}: the graph has no convolutions named {', '.join(missing[:3])}")
    del body.node[:]
    body.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for value in [value for value in body.initializer if value.name not in used]:
        body.initializer.remove(value)
    return graph


def _round_trip(
    body: onnx.GraphProto, nodes: list[onnx.NodeProto], source: str, step: float, name: str
) -> str:
    scale, zero = f"{name}.input_scale", f"{name}.input_zero"
    _add(body, scale, np.array(step, np.float32))
    _add(body, zero, np.array(0, np.int8))
    quantised, back = f"{name}.input_quantised", f"{name}.input_dequantised"
    nodes.append(onnx.helper.make_node("QuantizeLinear", [source, scale, zero], [quantised], name=quantised))
    nodes.append(onnx.helper.make_node("DequantizeLinear", [quantised, scale, zero], [back], name=back))
    return back


def _int8_kernel(
    body: onnx.GraphProto, nodes: list[onnx.NodeProto], kernel: onnx.TensorProto, name: str
) -> str:
    values = numpy_helper.to_array(kernel).astype(np.float32)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    steps = np.maximum(largest / np.float32(LEVELS), np.finfo(np.float32).tiny).astype(np.float32)
    shaped = steps.reshape(-1, *(1,) * (values.ndim - 1))
    whole = np.rint(values / shaped).clip(-LEVELS - 1, LEVELS).astype(np.int8)
    _add(body, f"{name}.weight_int8", whole)
    _add(body, f"{name}.weight_scale", steps)
    _add(body, f"{name}.weight_zero", np.zeros(len(values), np.int8))
    back = f"{name}.weight_dequantised"
    inputs = [f"{name}.weight_int8", f"{name}.weight_scale", f"{name}.weight_zero"]
    nodes.append(onnx.helper.make_node("DequantizeLinear", inputs, [back], name=back, axis=0))
    return back


def _add(body: onnx.GraphProto, name: str, values: npt.NDArray[np.generic]) -> None:
    body.initializer.append(numpy_helper.from_array(np.asarray(values), name))
