"""Labels under a matrix, beside the brute way: draw the object, warp its pixels, take their box."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from transforms.augment.boxes import cover, move_boxes, move_points, overlap
from transforms.augment.draws import Draws
from transforms.augment.geometry import Spatial, after, forward_matrix, inverse, of_pixel_centres
from transforms.augment.masks import decoded, ellipse, move_segmentation, raster
from transforms.augment.plan import Colour
from transforms.formats.masks import rle_text

WIDTH, HEIGHT = 160, 120
FINE = 4  # the brute way draws with so many pixels for each, so that its own error is a quarter of a pixel

spatial = st.builds(
    Spatial,
    angle=st.floats(-math.pi, math.pi),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
    scale=st.floats(0.5, 2.0),
    shear_x=st.floats(-0.5, 0.5),
    shear_y=st.floats(-0.3, 0.3),
    move_x=st.floats(-60, 60),
    move_y=st.floats(-60, 60),
)
box = st.tuples(st.integers(0, 130), st.integers(0, 90), st.integers(6, 60), st.integers(6, 60)).map(
    lambda v: (v[0], v[1], min(v[0] + v[2], WIDTH), min(v[1] + v[3], HEIGHT))
)
some = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def brute_mask(mask, matrix, width=WIDTH, height=HEIGHT):
    """A mask under a matrix by OpenCV's own warp, four times as fine; ``mask`` is as fine already."""
    up, down = np.array([[FINE, 0, 0], [0, FINE, 0.0]]), np.array([[1 / FINE, 0, 0], [0, 1 / FINE, 0.0]])
    fine = after(after(down, matrix), up)
    return cv2.warpAffine(
        mask.astype(np.uint8) * 255,
        of_pixel_centres(fine),
        (width * FINE, height * FINE),
        flags=cv2.INTER_NEAREST,
    )


def box_of(pixels):
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / FINE


@some
@given(drawn=spatial, corners=box)
def test_a_box_is_the_extent_of_its_warped_pixels_within_the_image(drawn, corners):
    matrix = forward_matrix(drawn, WIDTH, HEIGHT, WIDTH, HEIGHT)
    mask = np.zeros((HEIGHT * FINE, WIDTH * FINE), bool)
    left, top, right, bottom = (v * FINE for v in corners)
    mask[top:bottom, left:right] = True
    seen = brute_mask(mask, matrix)
    moved = move_boxes(np.array([corners], float), matrix, (0, 0, WIDTH, HEIGHT))
    expected = box_of(seen)
    if expected is None:
        assert not moved.visible[0] > 0.02
        return
    area = (corners[2] - corners[0]) * (corners[3] - corners[1]) * abs(np.linalg.det(matrix[:, :2]))
    share = np.count_nonzero(seen) / FINE**2 / area
    assert moved.visible[0] == pytest.approx(share, abs=0.03)
    if share > 0.005:
        assert np.abs(moved.boxes[0] - expected).max() <= 1.0


@some
@given(drawn=spatial, corners=box)
def test_a_polygon_and_its_run_lengths_move_alike(drawn, corners):
    matrix = forward_matrix(drawn, WIDTH, HEIGHT, WIDTH, HEIGHT)
    outline = ellipse(tuple(float(v) for v in corners))
    pixels = raster(outline, np.eye(3)[:2], WIDTH, HEIGHT) >= 128
    runs = rle_text(pixels, 0, 0, WIDTH, HEIGHT)
    # Run lengths know the outline to a pixel of the old image, which is `scale` pixels of the new one.
    a_pixel = max(1.0, drawn.scale)

    one = move_segmentation(outline, matrix, (0.0, 0.0, WIDTH, HEIGHT), WIDTH, HEIGHT)
    other = move_segmentation(runs, matrix, (0.0, 0.0, WIDTH, HEIGHT), WIDTH, HEIGHT)
    if other is not None:
        around = sum(other.box[2:]) - sum(other.box[:2])
        assert decoded(other.segmentation).sum() == other.area
        assert abs((one.area if one else 0.0) - other.area) <= 2 * a_pixel * around

    # The extent is compared where nothing is cut off: at an edge that is cut at a slant a pixel in height is
    # many in width.
    margin, width, height = 300, WIDTH + 600, HEIGHT + 600
    moved = after(matrix, np.array([[1, 0, margin], [0, 1, margin]], float))
    one = move_segmentation(outline, moved, (0.0, 0.0, width, height), width, height)
    other = move_segmentation(runs, moved, (0.0, 0.0, width, height), width, height)
    assert one is not None
    assert other is not None
    assert np.abs(np.array(one.box) - other.box).max() <= 2.0 * a_pixel


@some
@given(drawn=spatial)
def test_points_go_there_and_back(drawn):
    matrix = forward_matrix(drawn, WIDTH, HEIGHT, 333, 77)
    points = np.array([[0.0, 0.0], [WIDTH, 0], [WIDTH / 2, HEIGHT / 2], [12.5, 99.25]])
    assert move_points(move_points(points, matrix), inverse(matrix)) == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize(
    ("drawn", "point", "expected"),
    [
        (Spatial(angle=math.pi / 2), (WIDTH / 2, 0), (WIDTH / 2 + HEIGHT / 2, HEIGHT / 2)),
        (Spatial(flip_x=True), (10, 20), (WIDTH - 10, 20)),
        (Spatial(flip_y=True), (10, 20), (10, HEIGHT - 20)),
        (Spatial(move_x=7, move_y=-3), (10, 20), (17, 17)),
        (Spatial(shear_x=0.5), (80, 70), (85, 70)),
        (Spatial(scale=2), (80, 60), (80, 60)),
        (Spatial(crop=(40, 30, 80, 60)), (40, 30), (0, 0)),
        (Spatial(crop=(40, 30, 80, 60)), (120, 90), (WIDTH, HEIGHT)),
    ],
)
def test_each_step_moves_points_as_its_name_says(drawn, point, expected):
    """A positive angle turns the top to the right, clockwise on the screen."""
    matrix = forward_matrix(drawn, WIDTH, HEIGHT, WIDTH, HEIGHT)
    assert move_points(np.array([point], float), matrix)[0] == pytest.approx(expected)


def test_rotation_comes_first_then_flip_shear_translation_and_resize():
    steps = Spatial(angle=0.3, flip_x=True, shear_x=0.2, shear_y=0.1, move_x=5, move_y=-4)
    cos, sin = math.cos(0.3), math.sin(0.3)
    linear = np.array([[1, 0.2], [0.1, 1]]) @ np.diag([-1, 1]) @ np.array([[cos, -sin], [sin, cos]])
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    point = np.array([31.0, 17.0])
    expected = (linear @ (point - middle) + middle + (5, -4)) * (320 / WIDTH, 60 / HEIGHT)
    matrix = forward_matrix(steps, WIDTH, HEIGHT, 320, 60)
    assert move_points(point[None], matrix)[0] == pytest.approx(expected)


def test_a_corner_that_is_cut_off_makes_the_box_smaller_than_its_clipped_hull():
    matrix = forward_matrix(Spatial(angle=math.pi / 4), 100, 100, 100, 100)
    moved = move_boxes(np.array([[60.0, 40, 100, 60]]), matrix, (0, 0, 100, 100))
    hull = np.clip(move_points(np.array([[60.0, 40], [100, 40], [100, 60], [60, 60]]), matrix), 0, 100)
    assert moved.visible[0] == pytest.approx(1.0)
    far = move_boxes(np.array([[90.0, 40, 140, 60]]), matrix, (0, 0, 100, 100))
    assert 0 < far.visible[0] < 1
    assert (far.boxes[0, 2:] <= 100).all()
    assert hull.min() >= 0


def test_a_box_out_of_view_or_without_area_has_nothing_visible():
    matrix = forward_matrix(Spatial(move_x=500), WIDTH, HEIGHT, WIDTH, HEIGHT)
    moved = move_boxes(np.array([[10.0, 10, 20, 20]]), matrix, (0, 0, WIDTH, HEIGHT))
    assert moved.visible[0] == 0
    assert np.isnan(moved.boxes).all()
    still = move_boxes(np.array([[10.0, 10, 10, 20]]), np.eye(3)[:2], (0, 0, WIDTH, HEIGHT))
    assert still.visible[0] == 0


def test_a_box_around_the_whole_view_becomes_the_view():
    matrix = forward_matrix(Spatial(scale=10), WIDTH, HEIGHT, WIDTH, HEIGHT)
    moved = move_boxes(np.array([[0.0, 0, WIDTH, HEIGHT]]), matrix, (0, 0, WIDTH, HEIGHT))
    assert moved.boxes[0].tolist() == [0, 0, WIDTH, HEIGHT]
    assert moved.visible[0] == pytest.approx(0.01)


def test_overlap_and_cover_are_the_textbook_ones():
    one, other = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [20, 20, 30, 30]])
    assert overlap(one, other)[0] == pytest.approx([1 / 3, 0])
    assert cover(one, other)[0] == pytest.approx([0.5, 0])


def test_a_segmentation_of_several_parts_keeps_those_in_view():
    text = json.dumps([[10, 10, 30, 10, 30, 30, 10, 30], [140, 10, 158, 10, 158, 30]])
    shape = move_segmentation(text, np.array([[1.0, 0, 20], [0, 1, 0]]), (0, 0, 150, 100), 150, 100)
    assert json.loads(shape.segmentation) == [[30, 10, 50, 10, 50, 30, 30, 30]]
    assert shape.area == 400


@pytest.mark.parametrize(
    "text", ['{"size":[2,2],"counts":[9]}', '{"size":[2]}', '{"size":[1,1],"counts":"~~"}', '[["a"]]']
)
def test_a_broken_segmentation_is_an_error_that_says_what_was_expected(text):
    from storage.errors import UnreadableError

    with pytest.raises(UnreadableError, match="expected"):
        move_segmentation(text, np.eye(3)[:2], (0, 0, 9, 9), 9, 9)


def test_draws_depend_on_seed_sample_copy_and_name_alone():
    one = [Draws(42, "a", copy).unit("angle") for copy in range(200)]
    assert one == [Draws(42, "a", copy).unit("angle") for copy in range(200)]
    assert len(set(one)) == 200
    assert Draws(42, "a").unit("angle") != Draws(43, "a").unit("angle") != Draws(43, "b").unit("angle")
    assert np.mean(one) == pytest.approx(0.5, abs=0.1)


def test_lists_are_drawn_from_by_their_length():
    draws = [Draws(1, f"{i}") for i in range(300)]
    assert {d.number("x", [], 7.0) for d in draws} == {7.0}
    assert {d.number("x", [3.0], 7.0) for d in draws} == {3.0}
    two = [d.number("x", [-1.0, 1.0], 0) for d in draws]
    assert -1 <= min(two) < -0.9
    assert 0.9 < max(two) <= 1
    assert {d.number("x", [0.0, 10.0, 30.0], 0) for d in draws} == {0.0, 10.0, 30.0}
    assert {d.whole("x", [3.0, 5.0], 0) for d in draws} == {3, 4, 5}


def test_colour_is_what_its_steps_are_one_after_the_other():
    colour = Colour(hue=0, saturation=0.0, contrast=0.5, center=100, offset=10)
    red = np.array([200.0, 50, 30, 1])
    luma = 0.299 * 200 + 0.587 * 50 + 0.114 * 30
    assert colour.matrix() @ red == pytest.approx([100 + 1.5 * (luma + 10 - 100)] * 3, abs=0.5)
    assert Colour(hue=360).changes is False
    assert Colour().matrix() @ red == pytest.approx(red[:3], abs=1e-9)
