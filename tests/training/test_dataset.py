from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.errors import TrainingError, UnreadableError
from training.detectnet_v2.dataset import (
    DetectionDataset,
    EpochOrder,
    collate,
    place_pixels,
    placement,
)
from training.detectnet_v2.spec import Preprocessing, TrainSpec, default_spec
from training.samples import Sample

BOX = (40, 20, 120, 80)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A white box on black, 160x120."""
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return Sample(
        id="a", uri=str(tmp_path / "a.png"), width=160, height=120, split=None,
        boxes=np.array([BOX], np.float64), categories=("Thing",), ignore=np.zeros(1, bool),
    )  # fmt: skip


def spec_with(spec: TrainSpec, **settings: object) -> TrainSpec:
    config = spec.augmentation_config
    changed = replace(config.preprocessing, **settings)  # type: ignore[arg-type]
    return replace(spec, augmentation_config=replace(config, preprocessing=changed))


PLACEMENTS = [
    {"enable_auto_resize": True},
    {"enable_auto_resize": False},
    {"enable_auto_resize": False, "scale_width": 0.5, "scale_height": 0.75},
    {"enable_auto_resize": False, "crop_left": 16, "crop_top": 8, "crop_right": 144, "crop_bottom": 104},
    {"enable_auto_resize": True, "crop_left": 16, "crop_top": 8, "crop_right": 144, "crop_bottom": 104},
]


@pytest.mark.parametrize("settings", PLACEMENTS)
def test_pixels_and_boxes_are_placed_alike(sample: Sample, settings: dict[str, object]) -> None:
    config = replace(Preprocessing(output_image_width=128, output_image_height=96), **settings)  # type: ignore[arg-type]
    pixels = place_pixels(np.asarray(Image.open(sample.uri)), config)
    assert pixels.shape == (96, 128, 3)
    rows, columns = np.nonzero(pixels[:, :, 0] > 127)
    seen = placement(160, 120, config).forward(sample.boxes)[0]
    seen = seen.clip(0, [128, 96, 128, 96])
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, seen, atol=1)


@pytest.mark.parametrize("settings", PLACEMENTS)
def test_a_placed_box_maps_back_to_the_image(settings: dict[str, object]) -> None:
    config = replace(Preprocessing(output_image_width=128, output_image_height=96), **settings)  # type: ignore[arg-type]
    place = placement(160, 120, config)
    boxes = np.array([[1.5, 2.5, 30.25, 40.75]])
    np.testing.assert_allclose(place.backward(place.forward(boxes)), boxes)


def test_without_resizing_small_images_are_padded_with_black_right_and_below() -> None:
    config = Preprocessing(output_image_width=64, output_image_height=64)
    placed = place_pixels(np.full((20, 30, 3), 200, np.uint8), config)
    assert (placed[:20, :30] == 200).all()
    assert not placed[20:].any()
    assert not placed[:, 30:].any()


def test_grey_networks_get_one_channel(sample: Sample) -> None:
    spec = spec_with(default_spec(["Thing"], 64, 48), output_image_channel=1)
    pixels, _ = DetectionDataset([sample], spec, train=True)[0]
    assert pixels.shape == (1, 48, 64)


def test_targets_lie_where_the_object_is(sample: Sample) -> None:
    pixels, targets = DetectionDataset([sample], default_spec(["Thing"], 160, 96), train=False)[0]
    assert pixels.shape == (3, 96, 160)
    drawn = targets.cov[0] > 0.5
    brightness = pixels[0].numpy().reshape(6, 16, 10, 16).mean(axis=(1, 3))
    assert drawn.any()
    assert (brightness[drawn] > 127).all()


def test_training_differs_by_epoch_and_validation_does_not(sample: Sample) -> None:
    spec = default_spec(["Thing"], 160, 96)
    train, still = DetectionDataset([sample], spec, train=True), DetectionDataset([sample], spec, train=False)
    first, plain = train[0][0].clone(), still[0][0].clone()
    train.epoch = still.epoch = 1
    assert not np.array_equal(first, train[0][0])
    assert np.array_equal(plain, still[0][0])
    train.epoch = 0
    assert np.array_equal(first, train[0][0])


def test_the_cache_holds_no_more_than_it_may_and_changes_nothing(sample: Sample) -> None:
    spec = default_spec(["Thing"], 64, 48)
    cached = DetectionDataset([sample, sample], spec, train=False, cache_bytes=64 * 48 * 3)
    before = [cached[0][0].clone(), cached[1][0].clone()]
    Path(sample.uri).unlink()
    assert np.array_equal(cached[0][0], before[0])
    with pytest.raises(UnreadableError, match=r"a\.png"):
        cached[1]


def test_labels_that_name_no_class_are_an_error_that_names_both(sample: Sample) -> None:
    with pytest.raises(TrainingError, match=r"the labels say Thing; expected car"):
        DetectionDataset([sample], default_spec(["car"], 64, 48), train=True)


def test_no_sample_at_all_is_an_error() -> None:
    with pytest.raises(TrainingError, match="at least one"):
        DetectionDataset([], default_spec(["car"], 64, 48), train=True)


def test_images_without_objects_are_samples_too(sample: Sample) -> None:
    empty = replace(sample, boxes=np.zeros((0, 4)), categories=(), ignore=np.zeros(0, bool))
    data = DetectionDataset([sample, empty], default_spec(["Thing"], 64, 48), train=True)
    pixels, target = collate([data[0], data[1]])
    assert pixels.shape == (2, 3, 48, 64)
    assert target.cov[0].any()
    assert not target.cov[1].any()
    assert target.weight.all()


def test_objects_smaller_than_the_limit_after_placing_are_left_out(sample: Sample) -> None:
    spec = spec_with(default_spec(["Thing"], 64, 48), min_bbox_width=60.0)
    assert not DetectionDataset([sample], spec, train=False)[0][1].cov.any()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_epoch_deals_every_index_to_the_processes(world: int) -> None:
    orders = [EpochOrder(10, seed=1, rank=rank, world=world) for rank in range(world)]
    dealt = [list(order) for order in orders]
    assert {len(part) for part in dealt} == {len(orders[0])}
    assert {index for part in dealt for index in part} == set(range(10))
    orders[0].epoch = 1
    assert list(orders[0]) != dealt[0]
