"""A detector as ONNX with its resizing and its non-maximum suppression inside, proven in ONNX Runtime."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from storage.errors import ExportError
from training.zoo.checkpoint import Checkpoint
from training.zoo.detectors import gives_masks

_OPSET = 17
_MOST_PIXELS = 1.0
_MOST_SCORE = 1e-2
_ROUNDING = 1e-4
_ON_TRANSFORMERS = ("rtdetr", "dfine")


@dataclass(frozen=True, kw_only=True)
class ZooExport:
    """``max_difference`` of boxes in pixels and of scores, between PyTorch and ONNX Runtime on ``checked``
    detections of one image.
    """

    path: Path
    max_difference: Mapping[str, float]
    checked: int


class _Single(nn.Module):
    """One image as a batch of one; classes counted from 0."""

    def __init__(self, network: nn.Module, *, masks: bool) -> None:
        super().__init__()
        self.network = network
        self._masks = masks

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = self.network([images[0]])[0]
        outputs = [found["boxes"], found["scores"], found["labels"] - 1]
        return tuple([*outputs, found["masks"]] if self._masks else outputs)


def export_detector(
    network: nn.Module,
    checkpoint: Checkpoint,
    path: str | Path,
    picture: np.ndarray[Any, np.dtype[np.uint8]],
    *,
    metadata: Mapping[str, str] | None = None,
) -> ZooExport:
    """Write an ONNX file for images of the size of ``picture [H, W, 3]`` RGB, and compare what it finds.

    Input ``images [1, 3, H, W]`` in [0, 1]; outputs ``boxes [n, 4]`` corners in its pixels, ``scores [n]``,
    ``labels [n]`` (0 is the first class), ``masks [n, 1, H, W]`` in [0, 1], best first, after suppression.
    Raises ``ExportError`` where the network cannot be exported, and where the file finds other things.
    """
    path = Path(path)
    spec = checkpoint.spec.model
    if spec.detector in _ON_TRANSFORMERS:
        raise ExportError(
            f"{spec.detector}: no export here; its package optimum writes ONNX files of such networks"
        )
    masks = gives_masks(spec)
    single = _Single(network.cpu(), masks=masks).eval()
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)[None]
    names = ["boxes", "scores", "labels", *(["masks"] if masks else [])]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch, warnings.catch_warnings(), _quiet():
            # The graph is compared below: what tracing warns of has shown itself there or not at all.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                single,
                (image,),
                f"{scratch}/model.onnx",
                # torchvision's detectors have shapes that hang on data, which the newer exporter refuses.
                dynamo=False,
                opset_version=_OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_axes={name: {0: "detections"} for name in names},
            )
            data = Path(scratch, "model.onnx").read_bytes()
    except Exception as error:
        raise ExportError(
            f"{path}: {spec.detector} on {spec.backbone} cannot be exported: {type(error).__name__}: {error}"
        ) from error
    said = {"classes": json.dumps(list(checkpoint.classes)), "detector": spec.detector, **(metadata or {})}
    path.write_bytes(_with_metadata(data, said))
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in zip(names, single(image), strict=True)}
    return _compared(path, expected, image.numpy())


def _compared(path: Path, expected: dict[str, np.ndarray[Any, Any]], image: Any) -> ZooExport:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = dict(zip(expected, session.run(list(expected), {"images": image}), strict=True))
    count = len(expected["scores"])
    if len(found["scores"]) != count:
        raise ExportError(
            f"{path}: {len(found['scores'])} detections in ONNX Runtime, {count} in PyTorch; the file is not "
            "the network"
        )
    scores = float(np.abs(np.sort(expected["scores"]) - np.sort(found["scores"])).max(initial=0.0))
    # Where scores are as good as equal the order is a matter of rounding, and which of them are the last
    # that are kept: only detections that stand alone can be compared with their partner.
    alone = np.flatnonzero(_apart(expected["scores"]))
    boxes = 0.0
    if len(alone):
        mine, theirs = expected["boxes"][alone], found["boxes"]
        distance = np.abs(mine[:, None] - theirs[None]).max(axis=2)
        distance += np.where(expected["labels"][alone, None] == found["labels"][None], 0.0, 1e6)
        boxes = float(distance.min(axis=1).max())
    if boxes > _MOST_PIXELS or scores > _MOST_SCORE:
        raise ExportError(
            f"{path}: boxes differ by {boxes:.3g} pixels and scores by {scores:.3g} between ONNX Runtime and "
            "PyTorch; the file is not the network"
        )
    return ZooExport(path=path, max_difference={"boxes": boxes, "scores": scores}, checked=len(alone))


def _apart(scores: Any) -> Any:
    """Which scores have no other within what rounding makes of them."""
    ordered = np.sort(scores)
    gaps = np.concatenate([[np.inf], np.diff(ordered), [np.inf]])
    lonely = np.minimum(gaps[:-1], gaps[1:]) > _ROUNDING
    return lonely[np.searchsorted(ordered, scores)]


def _with_metadata(data: bytes, values: Mapping[str, str]) -> bytes:
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, dict(values))
    result: bytes = model.SerializeToString()
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs warnings of its own; here they would be noise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
