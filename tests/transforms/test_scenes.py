"""Scenes are functions of their configuration, their boxes are exact, and they are varied."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.errors import ConfigError, UnknownKeyError
from transforms.scenes import CATEGORIES, Scene, SceneConfig, contact_sheet, render_scene
from transforms.scenes.compose import arrange_scene
from transforms.scenes.outline import segmentation_of

SMALL = SceneConfig(images=12, width=320, height=240, seed=4)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(SceneConfig(seed=2), index) for index in range(16)]


def digest(config: SceneConfig, index: int) -> str:
    scene = render_scene(config, index)
    seen = hashlib.sha256(scene.image.tobytes())
    for item in scene.objects:
        seen.update(
            repr((item.category, item.box, item.visible, item.occlusion)).encode() + item.mask.tobytes()
        )
    return seen.hexdigest()


def test_a_scene_is_the_same_in_any_order_and_in_another_process() -> None:
    here = {index: digest(SMALL, index) for index in (3, 0, 5)}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = {index: pool.submit(digest, SMALL, index).result() for index in (0, 5, 3)}
    assert here == there
    assert len(set(here.values())) == 3


def test_more_images_continue_a_set_and_another_seed_makes_another() -> None:
    longer = SceneConfig(images=500, width=320, height=240, seed=4)
    other = SceneConfig(images=12, width=320, height=240, seed=5)
    assert digest(SMALL, 7) == digest(longer, 7)
    assert digest(SMALL, 7) != digest(other, 7)


def test_boxes_are_the_extents_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            rows, columns = np.nonzero(scene.mask_of(item))
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert 0 <= item.box[0] < item.box[2] <= 640
            assert 0 <= item.box[1] < item.box[3] <= 480


def test_no_pixel_belongs_to_two_aircraft_and_shares_add_up(scenes: list[Scene]) -> None:
    for scene in scenes:
        owners = sum((scene.mask_of(item).astype(int) for item in scene.objects), np.zeros((480, 640), int))
        assert owners.max(initial=0) <= 1
        for item in scene.objects:
            assert 0.25 <= item.visible <= 1 - item.truncated + 1e-9
            hidden = 1 - item.visible / (1 - item.truncated)
            assert item.occlusion == sum(hidden >= level for level in (0.05, 0.4, 0.7))


def test_aircraft_differ_from_the_ground_they_hide(scenes: list[Scene]) -> None:
    """The pixels of a mask are other pixels than those around it, in nearly every case by a lot."""
    gaps = []
    for scene in scenes:
        grey = scene.image.astype(float).mean(2)
        for item in scene.objects:
            xmin, ymin, xmax, ymax = item.box
            around = ~item.mask
            if around.sum() > 20:
                part = grey[ymin:ymax, xmin:xmax]
                spread = np.abs(
                    np.sort(part[item.mask])[:: max(1, item.mask.sum() // 50)] - np.median(part[around])
                )
                gaps.append(float(np.median(spread)))
    assert np.median(gaps) > 20
    assert np.mean(np.array(gaps) > 6) > 0.9


def test_classes_are_uneven_and_sizes_follow_the_real_order() -> None:
    config = SceneConfig(images=150, seed=8, clouds=0.0, cut=0.0)
    objects = [item for index in range(150) for item in arrange_scene(config, index).objects]
    counts = Counter(item.category for item in objects)
    assert set(counts) == set(CATEGORIES)
    assert [name for name, _ in counts.most_common(1)] == ["airliner"]
    assert max(counts.values()) > 5 * min(counts.values())
    sizes = [(item.category, max(item.mask.shape)) for item in objects]
    longest = {name: np.median([size for other, size in sizes if other == name]) for name in counts}
    assert longest["airliner"] > 1.3 * longest["business jet"] > 1.3 * longest["propeller"]
    assert max(size for _, size in sizes) <= 164


def test_scenes_have_cut_and_hidden_aircraft_but_not_only() -> None:
    config = SceneConfig(images=80, seed=9)
    objects = [item for index in range(80) for item in arrange_scene(config, index).objects]
    assert 0.03 < np.mean([item.truncated > 0.05 for item in objects]) < 0.4
    assert 0.05 < np.mean([item.occlusion > 0 for item in objects]) < 0.5


@pytest.mark.parametrize("share", [0.0, 0.08, 0.3, 0.55, 1.0])
def test_negatives_have_the_share_that_was_asked_for(share: float) -> None:
    config = SceneConfig(images=200, negatives=share, seed=3)
    found = [index for index in range(200) if config.is_negative(index)]
    assert abs(len(found) - 200 * share) <= 1
    assert all(not arrange_scene(config, index).objects for index in found[:5])


def test_sizes_scale_with_the_image() -> None:
    def median(config: SceneConfig) -> float:
        boxes = [item.box for index in range(12) for item in arrange_scene(config, index).objects]
        return float(np.median([max(box[2] - box[0], box[3] - box[1]) for box in boxes]))

    ratio = median(SceneConfig(width=1280, height=960, seed=6)) / median(SceneConfig(seed=6))
    assert 1.6 < ratio < 2.4


@pytest.mark.parametrize(("width", "height"), [(64, 64), (1500, 200), (200, 900)])
def test_odd_image_shapes_work(width: int, height: int) -> None:
    scene = render_scene(SceneConfig(width=width, height=height, seed=1, negatives=0.0), 0)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"images": 0}, "images: found 0; expected a whole number from 1"),
        ({"width": 12}, "width: found 12; expected a whole number from 64"),
        ({"height": 480.5}, "height: found 480.5"),
        ({"seed": -1}, "seed: found -1"),
        ({"negatives": 1.5}, "negatives: found 1.5; expected a number from 0.0 to 1.0"),
        ({"clouds": float("nan")}, "clouds: found nan"),
        (
            {"min_size": 90.0, "max_size": 40.0},
            "min_size: found 90.0; expected at most max_size, which is 40.0",
        ),
        ({"classes": ()}, "classes: found ()"),
        ({"classes": "airliner"}, "classes: found 'airliner'"),
        ({"classes": ("glider", "glider")}, "every category once"),
        ({"max_objects": True}, "max_objects: found True"),
    ],
)
def test_bad_settings_say_what_was_expected(values: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        SceneConfig.from_mapping(values)
    assert expected in error.value.message


def test_unknown_names_bring_the_nearest_known_one() -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'airliner'"):
        SceneConfig(classes=("airlinr",))
    with pytest.raises(UnknownKeyError, match="did you mean 'negatives'"):
        SceneConfig.from_mapping({"negative": 0.1})


def test_a_subset_of_the_classes_is_all_that_is_drawn() -> None:
    config = SceneConfig(classes=("glider", "fighter"), seed=1)
    drawn = {item.category for index in range(10) for item in arrange_scene(config, index).objects}
    assert drawn == {"glider", "fighter"}


def test_the_contact_sheet_holds_every_scene(tmp_path: Path) -> None:
    contact_sheet(SMALL, 5, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width * sheet.height >= 5 * 320 * 240
        assert sheet.width % 320 == 0
        assert sheet.height % 240 == 0
    with pytest.raises(ConfigError, match="at least one"):
        contact_sheet(SMALL, 0, tmp_path / "none.png")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=7))
def test_segmentations_give_the_mask_back(pixels: list[list[bool]]) -> None:
    mask = np.array(pixels)
    height, width = mask.shape
    segmentation = segmentation_of(mask, 2, 1, width + 4, height + 3)
    whole = np.zeros((height + 3, width + 4), bool)
    whole[1 : 1 + height, 2 : 2 + width] = mask
    if isinstance(segmentation, dict):
        values = np.repeat(np.arange(len(segmentation["counts"])) % 2, segmentation["counts"])
        filled = values.reshape(segmentation["size"][::-1]).T.astype(bool)
    else:
        filled = np.zeros_like(whole)
        ys, xs = np.mgrid[0 : height + 3, 0 : width + 4] + 0.5
        for polygon in segmentation:
            points = np.array(polygon).reshape(-1, 2)
            for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
                if x1 == x2:
                    filled ^= (xs < x1) & (ys > min(y1, y2)) & (ys < max(y1, y2))
    assert np.array_equal(filled, whole)


def test_only_masks_with_holes_need_run_lengths() -> None:
    ring = np.ones((3, 3), bool)
    assert segmentation_of(ring, 0, 0, 3, 3) == [[0, 0, 3, 0, 3, 3, 0, 3]]
    ring[1, 1] = False
    assert segmentation_of(ring, 0, 0, 3, 3) == {"counts": [0, 4, 1, 4], "size": [3, 3]}


def test_pycocotools_reads_the_segmentations_as_the_masks(scenes: list[Scene]) -> None:
    masks = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for scene in scenes[:6]:
        for item in scene.objects:
            segmentation = segmentation_of(item.mask, item.box[0], item.box[1], 640, 480)
            runs = masks.frPyObjects(segmentation, 480, 640)
            decoded = masks.decode(masks.merge(runs) if isinstance(runs, list) else runs)
            assert np.array_equal(decoded.astype(bool), scene.mask_of(item))
