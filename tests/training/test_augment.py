from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from training.detectnet_v2.augment import (
    Augmentation,
    augment_boxes,
    augment_pixels,
    draw_augmentation,
)
from training.detectnet_v2.spec import (
    AugmentationConfig,
    ColorAugmentation,
    Preprocessing,
    SpatialAugmentation,
)

WIDTH, HEIGHT = 64, 48
STILL = SpatialAugmentation(hflip_probability=0, translate_max_x=0, translate_max_y=0)
PLAIN = ColorAugmentation(hue_rotation_max=0, saturation_shift_max=0, contrast_scale_max=0)


def config(spatial: SpatialAugmentation = STILL, color: ColorAugmentation = PLAIN) -> AugmentationConfig:
    return AugmentationConfig(
        preprocessing=Preprocessing(output_image_width=WIDTH, output_image_height=HEIGHT),
        spatial_augmentation=spatial,
        color_augmentation=color,
    )


def draw(settings: AugmentationConfig, sample: str = "s", epoch: int = 0, seed: int = 0) -> Augmentation:
    return draw_augmentation(settings, sample=sample, epoch=epoch, seed=seed)


def picture(box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def bounds(pixels: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(pixels[:, :, 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_same_sample_epoch_and_seed_give_the_same_augmentation() -> None:
    settings = config(
        SpatialAugmentation(zoom_min=0.8, zoom_max=1.2, rotate_rad_max=0.5), ColorAugmentation()
    )
    first, again = draw(settings, "a", 3, 7), draw(settings, "a", 3, 7)
    np.testing.assert_array_equal(first.geometry, again.geometry)
    np.testing.assert_array_equal(first.colour, again.colour)
    for other in (draw(settings, "b", 3, 7), draw(settings, "a", 4, 7), draw(settings, "a", 3, 8)):
        assert not np.array_equal(first.geometry, other.geometry)
        assert not np.array_equal(first.colour, other.colour)


def test_nothing_asked_for_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    drawn = draw(config())
    np.testing.assert_array_equal(augment_pixels(pixels, drawn), pixels)
    np.testing.assert_array_equal(augment_boxes(np.array([[1.0, 2, 3, 4]]), drawn), [[1, 2, 3, 4]])


@pytest.mark.parametrize(
    "spatial",
    [
        replace(STILL, hflip_probability=1),
        replace(STILL, vflip_probability=1),
        replace(STILL, translate_max_x=8, translate_max_y=6),
        replace(STILL, zoom_min=0.8, zoom_max=1.3),
        replace(STILL, rotate_rad_max=math.pi / 2),
        SpatialAugmentation(zoom_min=0.9, zoom_max=1.1, vflip_probability=0.5),
    ],
)
def test_boxes_move_as_their_pixels_do(spatial: SpatialAugmentation) -> None:
    box = (24, 18, 36, 27)
    for epoch in range(20):
        drawn = draw(config(spatial), epoch=epoch)
        if spatial.rotate_rad_max:  # a turned rectangle fills its upright box only in right angles
            drawn = replace(drawn, geometry=_nearest_right_angle(drawn.geometry))
        moved = augment_boxes(np.array([box], np.float64), drawn)[0]
        if (moved >= 0).all() and (moved <= [WIDTH, HEIGHT] * 2).all():
            np.testing.assert_allclose(bounds(augment_pixels(picture(box), drawn)), moved, atol=1.01)


def _nearest_right_angle(geometry: np.ndarray) -> np.ndarray:
    turn = np.eye(3)
    turn[:2, :2] = [[0, -1], [1, 0]] if geometry[1, 0] > 0 else [[0, 1], [-1, 0]]
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    turn[:2, 2] = centre - turn[:2, :2] @ centre
    return turn


def test_rotation_is_in_radians_around_the_centre() -> None:
    angles = []
    for epoch in range(200):
        geometry = draw(config(replace(STILL, rotate_rad_max=0.5)), epoch=epoch).geometry
        angles.append(math.atan2(geometry[1, 0], geometry[0, 0]))
        np.testing.assert_allclose(geometry @ [WIDTH / 2, HEIGHT / 2, 1], [WIDTH / 2, HEIGHT / 2, 1])
    assert 0.4 < max(angles) <= 0.5
    assert -0.5 <= min(angles) < -0.4


def test_probabilities_are_shares_of_the_samples() -> None:
    flips = [
        draw(config(replace(STILL, hflip_probability=0.25)), sample=str(i)).geometry[0, 0] for i in range(400)
    ]
    assert 0.18 < np.mean(np.array(flips) < 0) < 0.32


def test_a_zoom_above_one_shows_the_whole_picture_smaller() -> None:
    for epoch in range(20):
        drawn = draw(config(replace(STILL, zoom_min=2, zoom_max=2)), epoch=epoch)
        frame = augment_boxes(np.array([[0.0, 0, WIDTH, HEIGHT]]), drawn)[0]
        np.testing.assert_allclose(frame[2:] - frame[:2], [WIDTH / 2, HEIGHT / 2])
        assert (frame >= 0).all()
        assert (frame <= [WIDTH, HEIGHT] * 2).all()


def test_grey_stays_grey_under_hue_and_saturation() -> None:
    settings = config(color=replace(PLAIN, hue_rotation_max=90, saturation_shift_max=0.5))
    grey = np.full((4, 4, 3), 100, np.uint8)
    for epoch in range(10):
        assert np.abs(augment_pixels(grey, draw(settings, epoch=epoch)).astype(int) - 100).max() <= 1


def test_contrast_turns_around_its_centre_and_shift_moves_all_channels_alike() -> None:
    contrast = draw(config(color=replace(PLAIN, contrast_scale_max=0.8, contrast_center=0.4))).colour
    np.testing.assert_allclose(contrast @ [0.4, 0.4, 0.4, 1], [0.4] * 3)
    assert not np.allclose(contrast, np.eye(3, 4))
    shift = draw(config(color=replace(PLAIN, color_shift_stddev=0.1))).colour[:, 3]
    assert abs(shift[0]) > 0
    np.testing.assert_allclose(shift, shift[0])


def test_draws_stay_within_twice_their_deviation() -> None:
    settings = config(color=replace(PLAIN, color_shift_stddev=0.1))
    shifts = [draw(settings, sample=str(i)).colour[0, 3] for i in range(500)]
    assert max(map(abs, shifts)) <= 0.2 + 1e-12
    assert np.std(shifts) == pytest.approx(0.088, abs=0.01)  # of a normal cut at two deviations


def test_pixels_stay_in_their_range() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    bright = Augmentation(np.eye(3), np.column_stack([np.eye(3) * 3, np.full(3, 0.5)]))
    assert augment_pixels(pixels, bright).min() >= 127
    assert augment_pixels(pixels, bright).max() == 255
