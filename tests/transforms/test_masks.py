from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from storage.errors import ConfigError
from transforms.formats.masks import encoded_counts, run_counts, run_lengths
from transforms.masks.crops import cover, cut, expand, random_margins, uncut
from transforms.masks.grabcut import GrabCutLabeler, ellipse
from transforms.masks.labeler import BoxedImage, why_not


def test_a_box_is_expanded_from_its_centre_by_each_sides_own_margin() -> None:
    boxes = np.array([[10.0, 20.0, 30.0, 60.0]])
    assert expand(boxes, np.zeros((1, 4))).tolist() == [[10, 20, 31, 61]]
    assert expand(boxes, np.array([[0.3, 0.3, 0.3, 0.3]])).tolist() == [[7, 14, 34, 67]]
    assert expand(boxes, np.array([[1.0, 0.0, 0.0, 0.5]])).tolist() == [[0, 20, 31, 71]]


def test_the_two_sides_of_an_axis_share_a_budget() -> None:
    draw = np.random.default_rng(0)
    margins = np.array([random_margins(draw, 0, 1.2) for _ in range(2000)])
    assert margins.min() >= 0
    assert (margins[:, 0] + margins[:, 2]).max() <= 1.2
    assert (margins[:, 1] + margins[:, 3]).max() <= 1.2


def test_what_lies_outside_of_the_image_is_filled_from_its_opposite_side() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, -4:] = 255
    crop = cut(pixels, np.array([-4, 0, 4, 8]), 8)
    assert (crop[:, :4] == 255).all()
    assert (crop[:, 4:] == 0).all()


def test_a_crop_without_resizing_is_the_part_of_the_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    assert (cut(pixels, np.array([5, 7, 21, 23]), 16) == pixels[7:23, 5:21]).all()


def test_a_region_that_leaves_its_image_far_is_still_a_crop() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert cut(pixels, np.array([-(10**9), -(10**9), 10**9, 10**9]), 8).shape == (8, 8, 3)


def test_the_cover_is_the_part_of_each_cell_in_the_box() -> None:
    across, down = cover(np.array([0, 0, 8, 8]), np.array([1.0, 2.0, 5.0, 8.0]), 4)
    assert across.tolist() == [0.5, 1, 0.5, 0]
    assert down.tolist() == [0, 1, 1, 1]


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.tuples(st.floats(-5, 30), st.floats(-5, 30), st.floats(1, 30), st.floats(1, 30)),
    st.integers(0, 2**31),
)
def test_a_mask_stays_in_its_box_and_its_image(corner: tuple[float, ...], seed: int) -> None:
    box = np.array([corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]])
    region = expand(box[None], np.full((1, 4), 0.3))[0]
    logits = np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32)
    window = uncut(logits, region, box, (32, 24), threshold=0.5)
    rows, columns = window.mask.shape
    assert window.left >= 0
    assert window.top >= 0
    if window.mask.size:
        assert window.left + columns <= min(32, int(np.ceil(box[2])))
        assert window.top + rows <= min(24, int(np.ceil(box[3])))
        assert (why_not(box.tolist(), 32, 24) is None) or not window.area


def test_an_upscaled_mask_is_where_the_object_was() -> None:
    # A disc in the crop comes back as the disc in the image.
    region, box = np.array([10, 10, 74, 74]), np.array([12.0, 12.0, 72.0, 72.0])
    y, x = np.mgrid[:32, :32] + 0.5
    logits = (20 - 2 * np.hypot(x - 16, y - 16)).astype(np.float32)
    window = uncut(logits, region, box, (100, 100), threshold=0.5)
    y, x = np.mgrid[:100, :100] + 0.5
    wanted = np.hypot(x - 42, y - 42) < 20
    full = np.zeros((100, 100), bool)
    rows, columns = window.mask.shape
    full[window.top : window.top + rows, window.left : window.left + columns] = window.mask
    assert (full & wanted).sum() / (full | wanted).sum() > 0.97
    assert window.score is not None
    assert window.score > 0.9


def test_a_higher_threshold_never_adds_a_pixel() -> None:
    region, box = np.array([0, 0, 40, 40]), np.array([0.0, 0.0, 40.0, 40.0])
    logits = np.random.default_rng(3).normal(size=(10, 10)).astype(np.float32)
    masks = [uncut(logits, region, box, (40, 40), threshold=t).mask for t in (0.1, 0.5, 0.9)]
    assert (masks[1] <= masks[0]).all()
    assert (masks[2] <= masks[1]).all()
    assert masks[0].sum() > masks[2].sum()


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
def test_run_lengths_are_those_of_pycocotools(
    seed: int, rows: int, columns: int, left: int, top: int
) -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    draw = np.random.default_rng(seed)
    window = draw.random((rows, columns)) > draw.random()
    width, height = columns + left + 3, rows + top + 2
    full = np.zeros((height, width), np.uint8, order="F")
    full[top : top + rows, left : left + columns] = window
    counts = run_counts(window, left, top, width, height)
    assert encoded_counts(counts) == coco_mask.encode(full)["counts"].decode()
    assert run_lengths(encoded_counts(counts)) == counts


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ((1, 1, 5, 5), None), ((-5, -5, 3, 3), None), ((5, 5, 5, 9), "empty"), ((9, 5, 5, 9), "empty"),
        ((20, 1, 30, 5), "outside"), ((-9, 1, 0, 5), "outside"), ((1, 1, float("nan"), 5), "not finite"),
    ],
)  # fmt: skip
def test_a_box_without_area_in_its_image_has_no_mask(box: tuple[float, ...], why: str | None) -> None:
    assert why_not(box, 20, 20) == why


def nuts(shared_data: Path) -> list[tuple[BoxedImage, list[np.ndarray]]]:
    from PIL import Image, ImageDraw

    folder = shared_data / "nuts-coco-masks"
    document = json.loads((folder / "trainval.json").read_text())
    found = []
    for image in document["images"][:3]:
        with Image.open(folder / "images" / image["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        boxes, truths = [], []
        for one in document["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                boxes.append([x, y, x + w, y + h])
                true = Image.new("1", (pixels.shape[1], pixels.shape[0]))
                for polygon in one["segmentation"]:
                    ImageDraw.Draw(true).polygon(polygon, fill=1)
                truths.append(np.asarray(true))
        found.append((BoxedImage(pixels, np.array(boxes, float)), truths))
    return found


def test_grabcut_finds_nuts_on_a_cloth_far_better_than_filled_boxes(shared_data: Path) -> None:
    pytest.importorskip("cv2")
    images = nuts(shared_data)
    labeler = GrabCutLabeler()
    ours, filled = [], []
    for (_, truths), windows, (image, _) in zip(
        images, labeler.label([image for image, _ in images]), images, strict=True
    ):
        for window, true, box in zip(windows, truths, image.boxes.astype(int), strict=True):
            full = np.zeros_like(true)
            rows, columns = window.mask.shape
            full[window.top : window.top + rows, window.left : window.left + columns] = window.mask
            ours.append((full & true).sum() / (full | true).sum())
            filled.append(true.sum() / ((box[2] - box[0]) * (box[3] - box[1])))
    assert np.mean(ours) > 0.85
    assert np.mean(ours) > np.mean(filled) + 0.05


def test_grabcut_gives_the_same_mask_every_time() -> None:
    pytest.importorskip("cv2")
    pixels = np.random.default_rng(1).integers(0, 90, (80, 100, 3), np.uint8)
    pixels[20:60, 30:70] += 120
    image = BoxedImage(pixels, np.array([[25.0, 15.0, 75.0, 65.0]]))
    [[first]] = GrabCutLabeler().label([image])
    GrabCutLabeler().label([BoxedImage(pixels[::-1].copy(), image.boxes)])
    [[again]] = GrabCutLabeler().label([image])
    assert (first.mask == again.mask).all()
    assert first.score is None


@pytest.mark.parametrize(
    "box",
    [(0, 0, 100, 80), (-20, -20, 300, 300), (50, 40, 55, 44), (10.5, 10.5, 11.2, 70), (99, 79, 100, 80)],
)
def test_grabcut_has_a_mask_for_any_box_with_area(box: tuple[float, ...]) -> None:
    pytest.importorskip("cv2")
    pixels = np.full((80, 100, 3), 77, np.uint8)
    [[window]] = GrabCutLabeler().label([BoxedImage(pixels, np.array([box], float))])
    assert window.area > 0
    assert window.left + window.mask.shape[1] <= 100
    assert window.top + window.mask.shape[0] <= 80


def test_an_ellipse_fills_pi_quarters_of_its_box() -> None:
    inside = ellipse(np.array([10.0, 10.0, 110.0, 60.0]), (10, 10, 110, 60))
    assert inside.mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_promptable_files_that_are_none_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from transforms.masks.promptable import PromptableLabeler

    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="no such file"):
        PromptableLabeler(tmp_path / "none.onnx", tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="cannot be loaded as ONNX"):
        PromptableLabeler(tmp_path / "x.onnx", tmp_path / "x.onnx")
