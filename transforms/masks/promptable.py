"""Promptable segmentation (the SAM family) as a labeler: the box is the prompt. ONNX files are the user's.

The encoder turns an image ``[1, 3, S, S]`` into an embedding; the decoder has the interface that the family's
exporters agree on: ``image_embeddings``, ``point_coords``, ``point_labels`` (2 and 3 are the corners of a
box), ``mask_input``, ``has_mask_input``, ``orig_im_size`` to ``masks`` and ``iou_predictions``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError
from transforms.masks.crops import Pixels, Window
from transforms.masks.labeler import BoxedImage

log = logging.getLogger(__name__)

_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
_SIDE_WITHOUT_SHAPE = 1024
_CORNERS = np.array([[2, 3]], np.float32)
_DECODER_INPUTS = ("image_embeddings", "point_coords", "point_labels")
_CHUNK = 1 << 20


class PromptableLabeler:
    """One pass of ``encoder`` for each image, one of ``decoder`` for each box.

    Both are paths of ONNX files. ``name`` says which model it is, for ``masks.model``; the version is a
    digest of both files. With ``use_gpu`` they run there, if the installed runtime can. Of several masks the
    one with the best predicted IoU is taken. Raises
    ``ConfigError`` for files that are no such pair.
    """

    def __init__(
        self,
        encoder: str | Path,
        decoder: str | Path,
        *,
        name: str = "promptable",
        threads: int | None = None,
        use_gpu: bool = False,
    ) -> None:
        self.name = name
        self._encoder = _session(encoder, threads, use_gpu=use_gpu)
        self._decoder = _session(decoder, threads, use_gpu=use_gpu)
        self.version = _digest(encoder, decoder)
        self._given = {one.name: one for one in self._decoder.get_inputs()}
        if missing := [one for one in _DECODER_INPUTS if one not in self._given]:
            raise ConfigError(
                f"{decoder}: has the inputs {', '.join(self._given)}, without {', '.join(missing)}; "
                "expected the decoder of a promptable segmentation model"
            )
        first = self._encoder.get_inputs()[0]
        if len(first.shape) != 4:
            raise ConfigError(f"{encoder}: takes {first.shape}; expected an image [1, 3, S, S]")
        self._input = first.name
        self._side = first.shape[3] if isinstance(first.shape[3], int) else _SIDE_WITHOUT_SHAPE

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        """See :class:`transforms.masks.labeler.Labeler`."""
        return [self._of_image(image) for image in images]

    def _of_image(self, image: BoxedImage) -> list[Window]:
        if not len(image.boxes):
            return []
        height, width = image.pixels.shape[:2]
        scale = self._side / max(height, width)
        embedding = self._encoder.run(None, {self._input: self._seen(image.pixels, scale)})[0]
        return [self._mask(embedding, box, scale, (width, height)) for box in image.boxes]

    def _seen(self, pixels: Pixels, scale: float) -> NDArray[np.float32]:
        """The image with its colours scaled, as large as fits, at the upper left of a square of zeros."""
        from PIL import Image

        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        square = np.zeros((1, 3, self._side, self._side), np.float32)
        square[0, :, :height, :width] = ((resized - _MEAN) / _DEVIATION).transpose(2, 0, 1)
        return square

    def _mask(
        self, embedding: NDArray[Any], box: NDArray[np.float64], scale: float, size: tuple[int, int]
    ) -> Window:
        width, height = size
        said = {
            "image_embeddings": embedding,
            "point_coords": (box.reshape(1, 2, 2) * scale).astype(np.float32),
            "point_labels": _CORNERS,
            "mask_input": np.zeros(_shape(self._given.get("mask_input")), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([height, width], np.float32),
        }
        masks, *rest = self._decoder.run(None, {k: v for k, v in said.items() if k in self._given})
        masks = masks.reshape(-1, *masks.shape[-2:])
        scores = rest[0].reshape(-1) if rest else np.zeros(len(masks))
        best = int(np.argmax(scores[: len(masks)]))
        logits = masks[best]
        if logits.shape != (height, width):
            raise ConfigError(
                f"{self.name}: the decoder gives masks of {logits.shape}; expected {(height, width)}, the "
                "image's own size (orig_im_size)"
            )
        left, top = (max(0, int(np.floor(value))) for value in box[:2])
        right, bottom = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
        mask = logits[top : max(top, bottom), left : max(left, right)] > 0
        return Window(mask, left, top, float(scores[best]) if rest else None)


def _providers(runtime: Any, *, use_gpu: bool) -> list[str]:
    """What the runtime computes with: a GPU where it is asked for and the installed runtime has it."""
    wanted = ["CUDAExecutionProvider"] if use_gpu else []
    there = runtime.get_available_providers()
    if not set(wanted) <= set(there):
        log.warning("onnxruntime has no CUDA; the masks are made on the CPU (onnxruntime-gpu has it)")
    return [*(one for one in wanted if one in there), "CPUExecutionProvider"]


def _shape(given: Any) -> list[int]:
    return [side if isinstance(side, int) else 1 for side in given.shape] if given is not None else [1]


def _session(path: str | Path, threads: int | None, *, use_gpu: bool) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "promptable segmentation needs onnxruntime: pip install 'dropmill[train]'"
        ) from error
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; expected an ONNX file of a promptable segmentation model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=_providers(onnxruntime, use_gpu=use_gpu)
        )
    except Exception as error:
        # The runtime raises errors of many kinds that share no base but this one.
        raise ConfigError(f"{path}: cannot be loaded as ONNX: {str(error).splitlines()[0]}") from error


def _digest(*paths: str | Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while part := file.read(_CHUNK):
                digest.update(part)
    return digest.hexdigest()[:12]
