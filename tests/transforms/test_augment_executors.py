"""One plan, two executors: the same pixels within a tolerance, the same labels exactly."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from transforms.augment.executor import carry_out
from transforms.augment.generate import prepare, read_local
from transforms.augment.jpeg_header import ordinary_jpeg
from transforms.augment.opencv import render
from transforms.augment.pixels import decode
from transforms.augment.single import Settings
from transforms.augment.spec import load_augment_spec

EVERYTHING = [
    "spatial_aug.rotation.angle=[-20,20]", "spatial_aug.flip.flip_horizontal=0.5",
    "spatial_aug.shear.shear_ratio_x=[-0.1,0.1]", "spatial_aug.scale.factor=[0.8,1.2]",
    "color_aug.hue.hue_rotation_angle=[-20,20]", "color_aug.saturation.saturation_shift=[0.7,1.3]",
    "color_aug.contrast.contrast=[-0.2,0.2]", "color_aug.brightness.offset=[-20,20]",
    "blur_aug.std=[0.3,1.5]", "blur_aug.size=[3,5,7]", "sharpen_aug.amount=[0,1]", "noise_aug.std=[0,6]",
    "cutout_aug.count=[0,2]",
]  # fmt: skip
# DALI and OpenCV round weights of warps and kernels in other ways; sharpening and contrast widen that.
MEAN, MOST, FEW = 0.5, 3, 0.001


def _work(shared_data: Path, *more: str):
    data = shared_data / "nuts-coco-masks"
    spec = load_augment_spec(
        None, [f"data.image_dir={data / 'images'}", f"data.ann_path={data / 'trainval.json'}", *more]
    )
    return prepare(spec)


@pytest.fixture(scope="module")
def _dali():
    pytest.importorskip("nvidia.dali")


def compare(works, executor_settings) -> None:
    """Pixels of DALI beside those of OpenCV, for a list of plans."""
    from transforms.augment.dali import render_batch

    plans = list(works.plans[:6])
    data = [Path(works.images[plan.sample].uri).read_bytes() for plan in plans]
    made = render_batch(plans, data, **executor_settings)
    for plan, one, content in zip(plans, made, data, strict=True):
        other = render(plan, {plan.sample: decode(content, plan.name)})
        assert one.shape == other.shape == (plan.height, plan.width, 3)
        far = np.abs(one.astype(int) - other)
        assert far.mean() < MEAN, plan.name
        assert (far > MOST).mean() < FEW, plan.name


@pytest.mark.usefixtures("_dali")
def test_dali_and_opencv_give_the_same_pixels_of_every_step(shared_data: Path):
    compare(_work(shared_data, *EVERYTHING), {"threads": 2, "device": None})


@pytest.mark.usefixtures("_dali")
def test_dali_and_opencv_give_the_same_pixels_at_a_fixed_size(shared_data: Path):
    size = ["data.output_image_width=320", "data.output_image_height=300", "data.output_fit=letterbox"]
    compare(_work(shared_data, *size, "spatial_aug.rotation.angle=[9]"), {"threads": 2, "device": None})


@pytest.mark.usefixtures("_dali")
def test_labels_do_not_know_who_made_the_pixels(shared_data: Path):
    one = _work(shared_data, *EVERYTHING, "executor=dali")
    other = _work(shared_data, *EVERYTHING, "executor=opencv")
    assert one.plans == other.plans
    for a, b in zip(one.placed, other.placed, strict=True):
        assert np.array_equal(a.boxes, b.boxes)
        assert a.segmentations == b.segmentations


@pytest.mark.usefixtures("_dali")
def test_dali_leaves_to_opencv_what_it_cannot_do_and_keeps_the_order(shared_data: Path, caplog):
    work = _work(
        shared_data, "mosaic_aug.probability=0.4", "spatial_aug.rotation.angle=[0,0,7]", "random_seed=5"
    )
    assert {len(plan.layers) for plan in work.plans} == {1, 4}
    assert {plan.is_identity for plan in work.plans} == {True, False}
    with caplog.at_level(logging.WARNING):
        done = list(
            carry_out(work.plans, work.images, read_local, Settings(executor="dali", threads=2, batch_size=4))
        )
    assert [output.plan.name for output in done] == [plan.name for plan in work.plans]
    assert not [output.error for output in done if output.error]
    assert not caplog.records
    for output in done:
        if output.plan.is_identity:
            assert output.copied
        elif len(output.plan.layers) == 4:
            alone = next(iter(carry_out([output.plan], work.images, read_local, Settings(threads=1))))
            assert output.data == alone.data


def test_ordinary_jpegs_are_known_by_their_markers_and_odd_ones_are_not(shared_data: Path):
    from PIL import Image

    known = 0
    for path in sorted((shared_data / "bccd-voc").rglob("*.jpg"))[:20]:
        size = ordinary_jpeg(path.read_bytes())
        if size is not None:
            known += 1
            assert size == Image.open(path).size
    for path in sorted((shared_data / "image-oddities").rglob("*")):
        if path.is_file() and (size := ordinary_jpeg(path.read_bytes())) is not None:
            image = Image.open(path)
            assert size == image.size
            assert image.mode in {"L", "RGB"}
            assert image.getexif().get(0x0112, 1) == 1
    assert ordinary_jpeg(b"\xff\xd8\xff\xe0") is None
    assert ordinary_jpeg(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2000) is None
    assert known == 20
