"""From images to detections in their own pixels: place, run the network, cluster, map back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.detectnet_v2.dataset import input_tensor, place_pixels, placement
from training.detectnet_v2.grid import Grid
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.postprocess import ConfidenceModel, cluster
from training.detectnet_v2.spec import ClusteringConfig, Preprocessing, TrainSpec
from training.evaluation.detections import Detections
from training.samples import Sample, load_image


def detect(
    model: DetectNetV2,
    images: Iterable[NDArray[np.uint8]],
    spec: TrainSpec,
    *,
    batch_size: int = 8,
    clustering: Mapping[str, ClusteringConfig] | None = None,
) -> Iterator[Detections]:
    """Detections of each of ``images [H, W, 3]`` (RGB), as corners in its own pixels, in the order given.

    Images are placed in the network's input as in training. ``clustering`` by class replaces the spec's. The
    model runs where its weights are.
    """
    configs = clustering_of(spec) if clustering is None else clustering
    config = spec.augmentation_config.preprocessing
    device = next(model.parameters()).device
    model.eval()
    queue = iter(images)
    while batch := list(islice(queue, batch_size)):
        inputs = torch.stack([input_tensor(place_pixels(image, config)) for image in batch])
        with torch.inference_mode():
            cov, bbox = model(scale_inputs(inputs.to(device)))
        sizes = [(image.shape[1], image.shape[0]) for image in batch]
        yield from outputs_to_detections(model, cov, bbox, sizes, configs, config)


def detect_samples(
    model: DetectNetV2, samples: Sequence[Sample], spec: TrainSpec, *, batch_size: int = 8
) -> dict[str, Detections]:
    """``detect`` for samples, by their id."""
    images = (load_image(sample) for sample in samples)
    found = detect(model, images, spec, batch_size=batch_size)
    return {sample.id: detections for sample, detections in zip(samples, found, strict=True)}


def outputs_to_detections(
    grid: Grid,
    cov: Tensor,
    bbox: Tensor,
    sizes: Sequence[tuple[int, int]],
    configs: Mapping[str, ClusteringConfig],
    config: Preprocessing,
    *,
    confidence: ConfidenceModel | Mapping[str, str] = "aggregate_cov",
) -> list[Detections]:
    """Outputs ``cov [B, K, h, w]`` and ``bbox [B, 4K, h, w]`` to detections in images of ``sizes`` (width,
    height). ``confidence`` is the confidence model, of all classes or by class.
    """
    covs, boxes = cov.float().cpu().numpy(), bbox.float().cpu().numpy()
    batch = cluster(
        covs,
        boxes,
        configs=configs,
        classes=grid.classes,
        stride=grid.stride,
        scale=grid.scale,
        offset=grid.offset,
        width=config.output_image_width,
        height=config.output_image_height,
        confidence_model=confidence,
    )
    results = []
    for found, (width, height) in zip(batch, sizes, strict=True):
        corners = placement(width, height, config).backward(found.boxes)
        corners = corners.clip(0, np.array([width, height, width, height], dtype=np.float64))
        results.append(Detections(corners, found.scores, found.categories))
    return results


def clustering_of(spec: TrainSpec) -> dict[str, ClusteringConfig]:
    """The spec's clustering of every class."""
    return {name: spec.postprocessing_config.clustering(name) for name in spec.classes}


def scale_inputs(pixels: Tensor) -> Tensor:
    """uint8 ``[B, C, H, W]`` to the network's 0..1, channels last in memory (faster convolutions)."""
    return pixels.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
