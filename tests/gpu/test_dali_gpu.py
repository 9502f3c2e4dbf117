"""DALI on a GPU: the same plans, decoded, warped and coloured there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
# Before what needs them is imported: beside torch alone the module is skipped.
for package in ("nvidia.dali", "cv2", "msgspec", "yaml"):
    pytest.importorskip(package)

from transforms.augment.executor import carry_out, chosen_executor  # noqa: E402
from transforms.augment.generate import prepare, read_local  # noqa: E402
from transforms.augment.opencv import render  # noqa: E402
from transforms.augment.pixels import decode  # noqa: E402
from transforms.augment.single import Settings  # noqa: E402
from transforms.augment.spec import load_augment_spec  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def work(shared_data: Path):
    data = shared_data / "nuts-coco-masks"
    words = [
        f"data.image_dir={data / 'images'}", f"data.ann_path={data / 'trainval.json'}",
        "spatial_aug.rotation.angle=[-20,20]", "color_aug.hue.hue_rotation_angle=[-20,20]",
        "color_aug.contrast.contrast=[-0.2,0.2]", "blur_aug.std=[0.5,1.5]", "blur_aug.size=[3,5]",
        "noise_aug.std=[0,6]", "cutout_aug.count=[0,2]",
    ]  # fmt: skip
    return prepare(load_augment_spec(None, words))


def test_auto_takes_dali_where_there_is_a_gpu():
    assert chosen_executor("auto") == ("dali", 0)


def test_a_gpu_gives_the_pixels_of_the_cpu_but_for_its_own_decoder(work):
    from transforms.augment.dali import render_batch

    plans = list(work.plans[:8])
    data = [Path(work.images[plan.sample].uri).read_bytes() for plan in plans]
    for plan, one, content in zip(plans, render_batch(plans, data, threads=2, device=0), data, strict=True):
        other = render(plan, {plan.sample: decode(content, plan.name)})
        far = np.abs(one.astype(int) - other)
        # Hardware decoders transform blocks and widen chroma in their own way.
        assert far.mean() < 2
        assert (far > 16).mean() < 0.01


def test_every_output_of_a_set_comes_from_the_gpu(work):
    outputs = list(
        carry_out(work.plans, work.images, read_local, Settings(executor="dali", device=0, batch_size=8))
    )
    assert all(output.data for output in outputs)
