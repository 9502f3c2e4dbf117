"""Augmentation: a plan is drawn for each image, pixels and labels follow it, on any executor."""
