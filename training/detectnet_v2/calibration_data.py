"""Pictures at the network's input, for the ranges of int8: of a spec's data, or of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError
from training.detectnet_v2.dataset import input_tensor, place_pixels
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.spec import Preprocessing, TrainSpec
from training.samples import Sample, load_image, read_image


def spec_inputs(
    samples: Sequence[Sample], spec: TrainSpec, *, most: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Inputs ``[C, H, W]`` of samples as evaluation makes them (no augmentation), spread over all of them.

    Samples of one scene often stand side by side, so ``most`` of them are taken at even distances.
    """
    count = min(most or len(samples), len(samples))
    for number in range(count):
        sample = samples[number * len(samples) // count]
        placed = place_pixels(load_image(sample), spec.augmentation_config.preprocessing)
        yield input_tensor(placed).numpy()


def folder_inputs(
    images: Sequence[tuple[str, str]], model: DetectNetV2, *, least: int, most: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Inputs ``[C, H, W]`` of pictures (address and name), resized to the network's size as a whole.

    Raises ``ConfigError`` where there are fewer than ``least``.
    """
    if len(images) < least:
        raise ConfigError(
            f"{len(images)} pictures to calibrate with; expected at least {least} (batches times batch_size)"
        )
    config = Preprocessing(
        output_image_width=model.width,
        output_image_height=model.height,
        output_image_channel=model.channels,
        enable_auto_resize=True,
    )
    for uri, _ in islice(images, most):
        yield input_tensor(place_pixels(read_image(uri), config)).numpy()
