"""A DetectNet_v2 model as an ONNX file, checked against the model it came from."""

from __future__ import annotations

import collections
import copy
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from storage.errors import ExportError
from training.evaluation.onnx_runner import OnnxRunner
from training.export.files import sha256_of, write_atomically

INPUT = "input_1"
OUTPUTS = ("output_cov/Sigmoid", "output_bbox/BiasAdd")

# The lowest opset that torch's exporter writes without converting down; TensorRT 10 and 11 both read it.
OPSET = 18

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was written, and how far ONNX Runtime's outputs are from the model's."""

    path: Path
    size_bytes: int
    sha256: str
    opset: int
    input_shape: tuple[int, int, int]
    dynamic_batch: bool
    output_shapes: dict[str, tuple[int, ...]]
    """Without the batch axis."""
    operators: dict[str, int]
    max_difference: dict[str, float]
    """Largest absolute difference per output."""
    images_compared: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the lake."""
        return {**asdict(self), "path": str(self.path)}


def export_onnx(
    model: torch.nn.Module,
    path: str | Path,
    *,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = True,
    opset: int = OPSET,
    samples: npt.NDArray[np.float32] | None = None,
    tolerance: float = 1e-3,
) -> OnnxReport:
    """Write ``model``, which gives coverage and boxes for images (n, C, H, W), to ``path``.

    The graph's input is ``input_1`` (float32 in [0, 1]), its outputs ``output_cov/Sigmoid`` (n, K, h, w) and
    ``output_bbox/BiasAdd`` (n, 4K, h, w) with K classes. Batch normalisation is folded into the convolutions.
    ``metadata`` goes into the file (versions, hash of the spec); ``classes`` are added as a JSON list.

    The file is checked by onnx, then ONNX Runtime's outputs are compared with the model's: on noise, on
    smooth pictures with edges, and on ``samples`` (n, C, H, W) where given. A difference above
    ``tolerance`` times the output's largest value (at least 1) is an :class:`ExportError`, and nothing is
    written; an older file at ``path`` stays. The model itself is not changed.
    """
    path = Path(path)
    names = tuple(classes)
    clash = {"classes", "input_shape"} & set(metadata or {})
    if clash or not names or len(set(names)) != len(names):
        raise ExportError(
            f"{path}: cannot export with classes {list(names)} and metadata keys {sorted(metadata or {})}; "
            "expected at least one class, each once, and no metadata named classes or input_shape"
        )
    twin = copy.deepcopy(model).cpu().eval()
    shapes = _output_shapes(twin, input_shape, len(names), path)
    graph = _trace(twin, input_shape, dynamic_batch=dynamic_batch, opset=opset, path=path)
    _strip_sources(graph)
    facts = {"classes": json.dumps(names, ensure_ascii=False), "input_shape": json.dumps(input_shape)}
    onnx.helper.set_model_props(graph, {**(metadata or {}), **facts})

    pictures = probe_pictures(input_shape)
    if samples is not None:
        pictures = np.concatenate([pictures, samples.astype(np.float32)])

    def check(written: Path) -> dict[str, float]:
        onnx.checker.check_model(str(written), full_check=True)
        return _compare(twin, OnnxRunner(written, threads=torch.get_num_threads()), pictures, tolerance, path)

    difference = write_atomically(path, lambda temporary: onnx.save(graph, str(temporary)), check)
    report = OnnxReport(
        path=path,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        opset=next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")),
        input_shape=input_shape,
        dynamic_batch=dynamic_batch,
        output_shapes=shapes,
        operators=dict(sorted(collections.Counter(node.op_type for node in graph.graph.node).items())),
        max_difference=difference,
        images_compared=len(pictures),
    )
    _LOG.info("exported onnx path=%s size_bytes=%d max_difference=%s", path, report.size_bytes, difference)
    return report


def write_labels(path: str | Path, classes: Sequence[str]) -> None:
    """The file labels.txt: one class per line, in the order of the coverage channels."""
    if broken := [name for name in classes if not name.strip() or len(name.splitlines()) != 1]:
        raise ExportError(f"{path}: class names {broken} cannot stand on one line each")

    def write(temporary: Path) -> None:
        temporary.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")

    write_atomically(Path(path), write, lambda _: None)


def _output_shapes(
    model: torch.nn.Module, input_shape: tuple[int, int, int], classes: int, path: Path
) -> dict[str, tuple[int, ...]]:
    """Shapes of coverage and boxes for one image; an error where they do not fit the classes."""
    with torch.inference_mode():
        outputs = model(torch.zeros(1, *input_shape))
    shapes = [tuple(value.shape) for value in outputs] if isinstance(outputs, tuple | list) else []
    grid = shapes[0][2:] if shapes else ()
    if shapes != [(1, classes, *grid), (1, 4 * classes, *grid)]:
        raise ExportError(
            f"{path}: the model gives {shapes or type(outputs).__name__} for one image; expected coverage "
            f"(1, {classes}, h, w) and boxes (1, {4 * classes}, h, w) for {classes} classes"
        )
    return {name: shape[1:] for name, shape in zip(OUTPUTS, shapes, strict=True)}


def _trace(
    model: torch.nn.Module, input_shape: tuple[int, int, int], *, dynamic_batch: bool, opset: int, path: Path
) -> onnx.ModelProto:
    # Two images, because a batch of one is taken for a constant.
    images = torch.zeros(2 if dynamic_batch else 1, *input_shape)
    batch = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (images,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=opset,
                dynamic_shapes=batch,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(f"{path}: torch cannot write this model as ONNX, opset {opset}: {error}") from error
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    return graph


def _strip_sources(graph: onnx.ModelProto) -> None:
    """Take out the stack traces that the exporter leaves on every node: they name folders of this machine."""
    graph.doc_string = ""
    graph.graph.doc_string = ""
    del graph.graph.metadata_props[:]
    for part in (
        *graph.graph.node,
        *graph.graph.value_info,
        *graph.graph.initializer,
        *graph.graph.input,
        *graph.graph.output,
    ):
        part.doc_string = ""
        del part.metadata_props[:]


def probe_pictures(input_shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Noise, and something more like a photograph: wide gradients with bright rectangles. (2, C, H, W) in
    [0, 1].
    """
    random = np.random.default_rng(0)
    channels, height, width = input_shape
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([0.5 + 0.3 * np.sin((c + 1) * (x / width + 2 * y / height)) for c in range(channels)])
    for _ in range(12):
        left, top = random.integers(width), random.integers(height)
        right, bottom = left + random.integers(1, width // 4 + 2), top + random.integers(1, height // 4 + 2)
        smooth[:, top:bottom, left:right] = random.random((channels, 1, 1))
    return np.stack([random.random(input_shape), smooth]).astype(np.float32)


def _compare(
    model: torch.nn.Module,
    runner: OnnxRunner,
    pictures: npt.NDArray[np.float32],
    tolerance: float,
    path: Path,
) -> dict[str, float]:
    difference = dict.fromkeys(OUTPUTS, 0.0)
    largest = dict.fromkeys(OUTPUTS, 1.0)
    for picture in pictures:
        outputs = runner.run(picture[None])
        with torch.inference_mode():
            expected = model(torch.from_numpy(picture[None]))
        for name, value in zip(OUTPUTS, expected, strict=True):
            reference = value.numpy()
            difference[name] = max(difference[name], float(np.abs(outputs[name] - reference).max()))
            largest[name] = max(largest[name], float(np.abs(reference).max()))
    for name in OUTPUTS:
        # Written so that NaN fails as well.
        if not difference[name] <= tolerance * largest[name]:
            raise ExportError(
                f"{path}: in ONNX Runtime {name} differs from the model by {difference[name]:.3g} where "
                f"its values reach {largest[name]:.3g}; expected at most {tolerance:g} of that"
            )
    return difference
