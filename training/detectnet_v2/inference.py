"""``inference``: a model on pictures, wherever they lie, to drawn pictures, KITTI files and COCO results.

Each picture is resized to the network's size as a whole, as TAO does, and boxes are scaled back to it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from storage.errors import ConfigError, UnreadableError
from training.detectnet_v2.dataset import input_tensor, place_pixels
from training.detectnet_v2.infer import outputs_to_detections
from training.detectnet_v2.overlay import draw
from training.detectnet_v2.predictor import Predictor
from training.detectnet_v2.spec import Preprocessing
from training.detectnet_v2.spec_jobs import BboxHandlerConfig, ClasswiseBboxHandler, InferencerConfig
from training.evaluation.detections import Detections
from training.samples import read_image

logger = logging.getLogger(__name__)

_ENDINGS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One picture: its address, its name below the input folder, its size and its detections."""

    uri: str
    name: str
    width: int
    height: int
    detections: Detections


@dataclass(frozen=True, kw_only=True)
class InferenceReport:
    """What was written below ``folder``; ``unreadable`` pictures are left out, with their reasons."""

    folder: Path
    images: int
    detections: Counter[str]
    unreadable: tuple[str, ...]


def list_images(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """Addresses and names of the pictures that ``inputs`` mean: files, folders (and below), globs, URLs or
    prefixes of any fsspec store.

    Raises ``ConfigError`` where one of them means no picture.
    """
    import fsspec

    found: dict[str, str] = {}
    for text in inputs:
        filesystem, path = fsspec.url_to_fs(text)
        path = path.rstrip("/") or "/"
        if any(sign in text for sign in "*?[") and not filesystem.exists(path):
            files = [name for name in filesystem.glob(path) if _is_image(name)]
            root = path.split("*")[0].rpartition("/")[0]
        elif filesystem.isfile(path):
            files, root = [path], path.rpartition("/")[0]
        elif filesystem.isdir(path):
            files, root = [name for name in filesystem.find(path) if _is_image(name)], path
        else:
            # A prefix of keys that is no folder of its own.
            parent = path.rpartition("/")[0]
            listed = filesystem.find(parent) if parent and filesystem.isdir(parent) else []
            files = [name for name in listed if name.startswith(path) and _is_image(name)]
            root = parent
        if not files:
            raise ConfigError(f"{text}: no picture there ({', '.join(sorted(_ENDINGS))})")
        for name in sorted(files):
            local = "file" in (filesystem.protocol, *filesystem.protocol)
            found.setdefault(
                name if local else filesystem.unstrip_protocol(name), name.removeprefix(root).lstrip("/")
            )
    return list(found.items())


def infer(
    predictor: Predictor,
    images: Iterable[tuple[str, str]],
    inferencer: InferencerConfig,
    handlers: BboxHandlerConfig,
    *,
    unreadable: list[str] | None = None,
) -> Iterator[Found]:
    """Detections of each of ``images`` (address and name), in order.

    A picture that cannot be read is noted in ``unreadable`` where given, else raises ``UnreadableError``.
    """
    config = Preprocessing(
        output_image_width=inferencer.image_width,
        output_image_height=inferencer.image_height,
        output_image_channel=inferencer.image_channels,
        enable_auto_resize=True,
    )
    clustering = {name: handlers.handler(name).clustering_config for name in predictor.grid.classes}
    queue = _read(images, unreadable)
    while batch := list(islice(queue, inferencer.batch_size)):
        pixels = torch.stack([input_tensor(place_pixels(picture, config)) for _, _, picture in batch])
        cov, bbox = predictor(pixels)
        sizes = [(picture.shape[1], picture.shape[0]) for _, _, picture in batch]
        found = outputs_to_detections(
            predictor.grid, cov, bbox, sizes, clustering, config, confidence=_confidence(predictor, handlers)
        )
        for (uri, name, _), (width, height), detections in zip(batch, sizes, found, strict=True):
            yield Found(
                uri=uri, name=name, width=width, height=height, detections=_chosen(detections, handlers)
            )


def write_results(
    found: Iterable[Found],
    folder: Path,
    handlers: BboxHandlerConfig,
    classes: Sequence[str],
    *,
    unreadable: list[str],
    image_ids: Mapping[str, int] | None = None,
) -> InferenceReport:
    """Write what the handlers ask for: ``images_annotated``, ``labels`` (KITTI), and always
    ``results.json`` (COCO results) beside ``images.json`` (COCO's images and categories).

    ``image_ids`` gives the ids of pictures by their file name; else they are numbered from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = {name: handlers.handler(name).output_map or name for name in classes}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(labels.values()), start=1)}
    results: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    counts: Counter[str] = Counter()
    for one in found:
        number = len(images) + 1 if image_ids is None else _id_of(one, image_ids)
        images.append({"id": number, "file_name": one.name, "width": one.width, "height": one.height})
        shown = [labels[str(name)] for name in one.detections.categories]
        counts.update(shown)
        for box, score, label in zip(one.detections.boxes, one.detections.scores, shown, strict=True):
            x1, y1, x2, y2 = (round(float(value), 3) for value in box)
            results.append(
                {
                    "image_id": number,
                    "category_id": numbers[label],
                    "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                    "score": round(float(score), 6),
                }
            )
        if handlers.kitti_dump:
            _write(folder / "labels" / _flat(one.name, ".txt"), kitti_text(one.detections, shown).encode())
        if not handlers.disable_overlay:
            _overlay(one, shown, folder / "images_annotated", handlers)
    _write(folder / "results.json", json.dumps(results).encode())
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    listing = {"images": images, "categories": categories, "annotations": []}
    _write(folder / "images.json", json.dumps(listing, ensure_ascii=False).encode())
    report = InferenceReport(
        folder=folder, images=len(images), detections=counts, unreadable=tuple(unreadable)
    )
    logger.info("inference images=%d detections=%d folder=%s", len(images), counts.total(), folder)
    return report


def kitti_text(detections: Detections, labels: Sequence[str]) -> str:
    """KITTI's 16 columns, one line for each detection: name, box and confidence are said, the rest is 0."""
    lines = []
    for box, score, label in zip(detections.boxes, detections.scores, labels, strict=True):
        corners = " ".join(f"{value:.3f}" for value in box)
        name = label.replace(" ", "%20")
        lines.append(f"{name} 0.00 0 0.00 {corners} 0.00 0.00 0.00 0.00 0.00 0.00 0.00 {score:.3f}\n")
    return "".join(lines)


def with_size(config: InferencerConfig, width: int, height: int) -> InferencerConfig:
    """The configuration with another size of the network's input."""
    return replace(config, image_width=width, image_height=height)


def _read(
    images: Iterable[tuple[str, str]], unreadable: list[str] | None
) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    for uri, name in images:
        try:
            yield uri, name, read_image(uri)
        except UnreadableError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
            logger.warning("unreadable uri=%s why=%s", uri, error)


def _confidence(predictor: Predictor, handlers: BboxHandlerConfig) -> dict[str, str]:
    return {name: handlers.handler(name).confidence_model for name in predictor.grid.classes}


def _chosen(detections: Detections, handlers: BboxHandlerConfig) -> Detections:
    if not handlers.postproc_classes:
        return detections
    return detections.select(np.isin(detections.categories, handlers.postproc_classes))


def _overlay(one: Found, shown: Sequence[str], folder: Path, handlers: BboxHandlerConfig) -> None:
    colours = []
    for name in one.detections.categories:
        handler: ClasswiseBboxHandler = handlers.handler(str(name))
        colours.append((handler.bbox_color.R, handler.bbox_color.G, handler.bbox_color.B))
    data = draw(
        read_image(one.uri), one.detections, shown, colours, line=handlers.overlay_linewidth, name=one.name
    )
    _write(folder / _flat(one.name, PurePosixPath(one.name).suffix), data)


def _flat(name: str, ending: str) -> str:
    """The name below a folder; nothing leads out of it."""
    path = PurePosixPath(name).with_suffix(ending)
    return str(PurePosixPath(*(part for part in path.parts if part not in {"..", "/"})))


def _id_of(one: Found, image_ids: Mapping[str, int]) -> int:
    for name in (one.name, PurePosixPath(one.name).name):
        if name in image_ids:
            return image_ids[name]
    raise ConfigError(f"{one.uri}: the annotation file names no picture {one.name}")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _ENDINGS
