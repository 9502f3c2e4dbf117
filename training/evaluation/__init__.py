"""Measuring detectors: what they found, against what is there."""

from training.evaluation.average_precision import CategoryScore, Evaluation, SizeLimits, evaluate
from training.evaluation.detections import Detections, Truth

__all__ = ["CategoryScore", "Detections", "Evaluation", "SizeLimits", "Truth", "evaluate"]
