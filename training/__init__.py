"""Detectors: model, rasteriser, losses, training loop, evaluation, export."""
