"""What runs an exported detector elsewhere: DeepStream's nvinfer, and Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from storage.errors import ExportError
from training.detectnet_v2.spec import ClusteringAlgorithm, ClusteringConfig
from training.export.files import write_atomically
from training.export.onnx_graph import INPUT, OUTPUTS
from training.export.precision import Precision

_NETWORK_MODE: Mapping[Precision, int] = {"fp32": 0, "int8": 1, "fp16": 2}
# nvinfer's cluster-mode
_CLUSTER_MODE = {ClusteringAlgorithm.DBSCAN: 1, ClusteringAlgorithm.NMS: 2, ClusteringAlgorithm.HYBRID: 3}
_STRIDE = 16


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An exported detector: its classes, its input (channels, height, width) and how its boxes are joined."""

    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    clustering: Mapping[str, ClusteringConfig]
    precision: Precision
    max_batch: int
    scale: float = 35.0
    offset: float = 0.5


def write_nvinfer_config(
    path: Path,
    deployment: Deployment,
    *,
    onnx: Path,
    labels: Path,
    engine: Path | None = None,
    calibration_cache: Path | None = None,
) -> None:
    """Write a configuration of the GStreamer element nvinfer, with paths relative to itself.

    nvinfer decodes DetectNet_v2's outputs itself, with a scale of 35 and an offset of 0.5 pixels; a network
    with other values is an :class:`ExportError`, because it would find nothing there without saying so.
    """
    if (deployment.scale, deployment.offset) != (35.0, 0.5):
        raise ExportError(
            f"{path}: objective_set.bbox has scale {deployment.scale:g} and offset {deployment.offset:g}; "
            "nvinfer knows only 35 and 0.5"
        )
    channels, height, width = deployment.input_shape
    first = deployment.clustering[deployment.classes[0]].clustering_algorithm
    properties = {
        "gpu-id": "0",
        "net-scale-factor": "0.00392156862745098",
        "offsets": ";".join(["0"] * channels),
        "model-color-format": "0" if channels == 3 else "2",
        "onnx-file": _relative(onnx, path),
        "model-engine-file": _relative(engine, path) if engine else "",
        "labelfile-path": _relative(labels, path),
        "int8-calib-file": _relative(calibration_cache, path) if calibration_cache else "",
        "batch-size": str(deployment.max_batch),
        "infer-dims": f"{channels};{height};{width}",
        "network-mode": str(_NETWORK_MODE[deployment.precision]),
        "network-type": "0",
        "num-detected-classes": str(len(deployment.classes)),
        "output-blob-names": ";".join(OUTPUTS),
        "process-mode": "1",
        "interval": "0",
        "gie-unique-id": "1",
        "maintain-aspect-ratio": "0",
        "output-tensor-meta": "0",
        "cluster-mode": str(_CLUSTER_MODE[first]),
    }
    lines = ["[property]", *(f"{key}={value}" for key, value in properties.items() if value)]
    for index, name in enumerate(deployment.classes):
        wanted = deployment.clustering[name].clustering_algorithm
        other = "" if wanted is first else f"; {wanted.name} in the spec, but cluster-mode is one for all"
        lines += ["", f"# {name}{other}", f"[class-attrs-{index}]"]
        lines += _class_lines(replace(deployment.clustering[name], clustering_algorithm=first))
    text = "\n".join(lines) + "\n"
    _write(path, text)


def write_triton_repository(
    folder: Path,
    deployment: Deployment,
    *,
    name: str,
    model: Path,
    platform: Literal["onnxruntime_onnx", "tensorrt_plan"],
) -> Path:
    """Write ``folder/name`` as Triton's model repository wants it: ``config.pbtxt``, ``labels.txt`` and the
    model as version 1. Returns the model's folder.
    """
    if not name or "/" in name or name.startswith("."):
        raise ExportError(f"{folder}: a model cannot be named {name!r}; expected a plain name")
    target = folder / name
    version = target / "1"
    version.mkdir(parents=True, exist_ok=True)
    file = version / ("model.onnx" if platform == "onnxruntime_onnx" else "model.plan")
    write_atomically(file, lambda temporary: shutil.copyfile(model, temporary), lambda _: None)
    channels, height, width = deployment.input_shape
    grid = (height // _STRIDE, width // _STRIDE)
    count = len(deployment.classes)
    text = (
        f"name: {json.dumps(name)}\n"
        f'platform: "{platform}"\n'
        f"max_batch_size: {deployment.max_batch}\n"
        f"input [ {_tensor(INPUT, (channels, height, width))} ]\n"
        f"output [\n  {_tensor(OUTPUTS[0], (count, *grid), labels='labels.txt')},\n"
        f"  {_tensor(OUTPUTS[1], (4 * count, *grid))}\n]\n"
        "dynamic_batching { }\n"
    )
    _write(target / "config.pbtxt", text)
    _write(target / "labels.txt", "".join(f"{label}\n" for label in deployment.classes))
    return target


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), lambda _: None)


def _tensor(name: str, dims: Sequence[int], *, labels: str = "") -> str:
    said = f' label_filename: "{labels}"' if labels else ""
    return f'{{ name: "{name}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, dims))} ]{said} }}'


def _class_lines(config: ClusteringConfig) -> list[str]:
    lines = [f"pre-cluster-threshold={config.coverage_threshold:g}", "topk=-1"]
    if config.clustering_algorithm is not ClusteringAlgorithm.NMS:
        # nvinfer counts boxes where the spec sums coverage: one box is the least it can ask for.
        lines += [
            f"eps={config.dbscan_eps:g}",
            "minBoxes=1",
            f"dbscan-min-score={config.dbscan_confidence_threshold:g}",
        ]
    if config.clustering_algorithm is not ClusteringAlgorithm.DBSCAN:
        lines += [
            f"nms-iou-threshold={config.nms_iou_threshold:g}",
            f"post-cluster-threshold={config.nms_confidence_threshold:g}",
        ]
    return [*lines, f"detected-min-h={round(config.minimum_bounding_box_height)}"]


def _relative(target: Path, config: Path) -> str:
    try:
        return str(target.resolve().relative_to(config.resolve().parent))
    except ValueError:
        return str(target.resolve())
