"""The exported network on labelled samples: what its user will get, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.detectnet_v2.dataset import input_tensor, place_pixels
from training.detectnet_v2.infer import clustering_of, outputs_to_detections
from training.detectnet_v2.model import OUTPUT_NAMES, DetectNetV2
from training.detectnet_v2.spec import TrainSpec
from training.detectnet_v2.validate import average_precision, truth_of
from training.evaluation.average_precision import Evaluation
from training.evaluation.onnx_runner import OnnxRunner, run_samples
from training.samples import Sample, load_image


def evaluate_exported(
    runner: OnnxRunner, model: DetectNetV2, samples: Sequence[Sample], spec: TrainSpec
) -> Evaluation:
    """Average precision at IoU 0.5 of an exported network; ``model`` says what its outputs mean."""
    config = spec.augmentation_config.preprocessing
    configs = clustering_of(spec)
    images = (
        input_tensor(place_pixels(load_image(sample), config)).numpy().astype(np.float32) / np.float32(255)
        for sample in samples
    )
    found = {}
    for sample, outputs in zip(samples, run_samples(runner, images), strict=True):
        cov, bbox = (torch.from_numpy(outputs[name])[None] for name in OUTPUT_NAMES)
        (found[sample.id],) = outputs_to_detections(
            model, cov, bbox, [(sample.width, sample.height)], configs, config
        )
    truth = {sample.id: truth_of(sample, spec) for sample in samples}
    return average_precision(found, truth, spec, overlap=0.5)
