"""Cost and average precision of a network on labelled samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from training.detectnet_v2.cost import ObjectiveWeights, component_costs, foreground_weights
from training.detectnet_v2.dataset import DetectionDataset, collate
from training.detectnet_v2.grid import Grid
from training.detectnet_v2.infer import clustering_of, outputs_to_detections
from training.detectnet_v2.rasterise import NO_CLASS, class_indices
from training.detectnet_v2.spec import AveragePrecisionMode, TrainSpec
from training.evaluation.average_precision import Evaluation, Mode, SizeLimits, evaluate
from training.evaluation.detections import EVERY_CATEGORY, Detections, Truth
from training.samples import Sample

logger = logging.getLogger(__name__)

_DEFAULT_OVERLAP = 0.5


@dataclass
class Outputs:
    """What a network said about samples: detections and truth by sample id; ``costs [K, 2]`` summed over
    images.
    """

    detections: dict[str, Detections] = field(default_factory=dict)
    truth: dict[str, Truth] = field(default_factory=dict)
    costs: Tensor | float = 0.0

    def merge(self, other: Outputs) -> None:
        """Add what another process did."""
        self.detections |= other.detections
        self.truth |= other.truth
        self.costs = self.costs + other.costs


def run(
    network: Callable[[Tensor], tuple[Tensor, Tensor]],
    samples: Sequence[Sample],
    data: DetectionDataset,
    spec: TrainSpec,
    *,
    grid: Grid,
    rank: int = 0,
    world: int = 1,
    after_batch: Callable[[], None] = lambda: None,
) -> Outputs:
    """Run ``network``, from inputs ``[B, C, H, W]`` uint8 to outputs that mean what ``grid`` says, over every
    ``world``-th sample from ``rank`` on; ``data`` belongs to ``samples``.
    """
    foreground = foreground_weights(spec.cost_function_config)
    configs = clustering_of(spec)
    config = spec.augmentation_config.preprocessing
    outputs = Outputs()
    own = range(rank, len(samples), world)
    size = spec.training_config.batch_size_per_gpu
    for start in range(0, len(own), size):
        indices = own[start : start + size]
        pixels, target = collate([data[index] for index in indices])
        chosen = [samples[index] for index in indices]
        sizes = [(sample.width, sample.height) for sample in chosen]
        cov, bbox = network(pixels)
        found = outputs_to_detections(grid, cov, bbox, sizes, configs, config)
        after_batch()
        costs = component_costs(cov, bbox, target.to(cov.device), foreground.to(cov.device))
        outputs.costs = outputs.costs + costs.cpu() * len(chosen)
        for sample, detections in zip(chosen, found, strict=True):
            outputs.detections[sample.id] = detections
            outputs.truth[sample.id] = truth_of(sample, spec)
    return outputs


def metrics_of(outputs: Outputs, spec: TrainSpec, weights: ObjectiveWeights) -> dict[str, float]:
    """``val_map50`` (IoU 0.5), ``val_map`` (the spec's IoU), ``val_ap50/<class>`` in 0..1, and ``val_cost``.

    A class without any object has no number, and a mean without any class is 0.
    """
    at_half = average_precision(outputs.detections, outputs.truth, spec, overlap=_DEFAULT_OVERLAP)
    overlaps = set(spec_overlaps(spec).values())
    as_spec = (
        at_half
        if overlaps == {_DEFAULT_OVERLAP}
        else average_precision(outputs.detections, outputs.truth, spec)
    )
    metrics = {
        "val_map50": at_half.mean_average_precision or 0.0,
        "val_map": as_spec.mean_average_precision or 0.0,
    }
    for name, score in at_half.categories.items():
        if score.average_precision is not None:
            metrics[f"val_ap50/{name}"] = score.average_precision
    if isinstance(outputs.costs, Tensor):
        metrics["val_cost"] = float(weights.total(outputs.costs / len(outputs.truth)))
    return metrics


def average_precision(
    detections: Mapping[str, Detections],
    truth: Mapping[str, Truth],
    spec: TrainSpec,
    *,
    overlap: float | None = None,
    mode: Mode | None = None,
) -> Evaluation:
    """Measure by the spec's evaluation_config: size limits, and its mode and IoU where they are None here."""
    config = spec.evaluation_config
    limits = {
        name: SizeLimits(
            minimum_width=box.minimum_width,
            minimum_height=box.minimum_height,
            maximum_width=box.maximum_width,
            maximum_height=box.maximum_height,
        )
        for name in spec.classes
        if (box := config.evaluation_box_config.get(name)) is not None
    }
    return evaluate(
        detections,
        truth,
        iou=spec_overlaps(spec) if overlap is None else overlap,
        mode=mode or _mode_of(config.average_precision_mode),
        categories=spec.classes,
        size_limits=limits or None,
    )


def spec_overlaps(spec: TrainSpec) -> dict[str, float]:
    """The IoU from which a detection counts, by class; 0.5 where the spec does not say."""
    given = spec.evaluation_config.minimum_detection_ground_truth_overlap
    return {name: given.get(name, _DEFAULT_OVERLAP) for name in spec.classes}


def _mode_of(mode: AveragePrecisionMode) -> Mode:
    name: Mode = mode.name  # type: ignore[assignment]  # the spec's names are the evaluation's
    return name


def truth_of(sample: Sample, spec: TrainSpec) -> Truth:
    """What is true of a sample in the classes of the spec; labels that map to none of them are left out."""
    indices = class_indices(sample.categories, spec.classes, dict(spec.dataset_config.target_class_mapping))
    rows = np.flatnonzero(indices != NO_CLASS)
    names = [spec.classes[index] if index >= 0 else EVERY_CATEGORY for index in indices[rows]]
    return Truth(sample.boxes[rows], names, sample.ignore[rows])
