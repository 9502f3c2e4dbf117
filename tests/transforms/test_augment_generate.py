"""``dataset augmentation generate`` on folders, as a user runs it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dropmill.cli import cli
from storage.errors import ConfigError

# As people have it, 5.0; written anew from the keys of its schema.
from tests.transforms.augment_folders import (
    CAR,
    SPEC,
    boxes_of,
    coco_annotation,
    coco_folder,
    kitti_folder,
    run,
)
from transforms.augment.opencv import render
from transforms.augment.pixels import decode, encode
from transforms.augment.plan import Colour, Kernel, Layer, Plan, as_json, from_json


@pytest.fixture
def kitti(shared_data: Path, tmp_path: Path) -> Path:
    spec = SPEC.replace("IMAGES", str(shared_data / "kitti" / "image_2"))
    spec = spec.replace("LABELS", str(shared_data / "kitti" / "label_2")).replace(
        "OUT", str(tmp_path / "out")
    )
    path = tmp_path / "augment.yaml"
    path.write_text(spec)
    return path


def test_a_spec_of_the_seeds_runs_unmodified(kitti: Path, tmp_path: Path):
    result = CliRunner().invoke(cli, ["dataset", "augmentation", "generate", "-e", str(kitti), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output.splitlines()[-1])
    assert facts["outputs"] == 13
    assert (
        sorted(p.name for p in (tmp_path / "out" / "images").iterdir())
        == [
            *(
                f"{i:06}.png"
                for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 19, 20, 50, 76)
                if (tmp_path / "out/images" / f"{i:06}.png").exists()
            ),
        ]
        or len(list((tmp_path / "out" / "images").iterdir())) == 13
    )
    picture = Image.open(next((tmp_path / "out" / "images").glob("*.png")))
    assert picture.size == (1000, 300)
    angles = set()
    for line in (tmp_path / "out" / "parameters.ndjson").read_bytes().splitlines():
        plan = from_json(line)
        matrix = plan.layers[0].affine()
        own = np.diag([plan.layers[0].width / 1000, plan.layers[0].height / 300]) @ matrix[:, :2]
        angles.add(round(math.degrees(math.atan2(own[1, 0], own[0, 0]))))
    assert angles == {0, 10, 30}, "each image draws its own"


def test_the_same_seed_gives_the_same_files_with_one_worker_and_with_four(tmp_path: Path):
    words = kitti_folder(tmp_path, {f"{i}.jpg": (96, 64) for i in range(9)})
    more = ["spatial_aug.rotation.angle=[-20,20]", "noise_aug.std=[0,9]", "data.copies=2"]
    found = []
    for workers in (1, 4):
        out = tmp_path / f"out{workers}"
        report = run(*words, *more, f"results_dir={out}", f"workers={workers}")
        assert report.outputs == 18
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert found[0] == found[1]
    other = run(*words, *more, f"results_dir={tmp_path / 'other'}", "random_seed=43")
    assert (other.folder / "images/0.jpg").read_bytes() != found[0][Path("images/0.jpg")]


def test_pixels_and_boxes_move_together(tmp_path: Path):
    """A white square on black: after any movement its pixels and its box still agree."""
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[40:70, 90:130] = 255
    line = "Car 0.00 0 -1.58 90.00 40.00 130.00 70.00 1 1 1 1 1 1 1\n"
    names = {f"{i}.png": encode(picture, "x.png") for i in range(12)}
    words = kitti_folder(tmp_path, names, dict.fromkeys(names, line))
    report = run(
        *words, "spatial_aug.rotation.angle=[-3.1,3.1]", "spatial_aug.rotation.units=radians",
        "spatial_aug.shear.shear_ratio_x=[-0.2,0.2]", "spatial_aug.scale.factor=[0.6,1.5]",
        "spatial_aug.translation.translate_x=[-60,60]", "spatial_aug.flip.flip_vertical=0.5",
        "spatial_aug.crop.size=[0.7,1]", "labels.min_visibility=0",
    )  # fmt: skip
    for name, rows in boxes_of(report.folder).items():
        pixels = (
            decode((report.folder / "images" / name).with_suffix(".png").read_bytes(), name)[..., 0] > 127
        )
        if not rows:
            assert not pixels.any()
            continue
        box = np.array(rows[0][4:8], float)
        ys, xs = np.nonzero(pixels)
        assert np.abs(box - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).max() <= 1.5, name


def test_nothing_changed_is_copied_byte_for_byte_and_labels_keep_their_words(tmp_path: Path):
    words = kitti_folder(tmp_path, {"a.jpg": (96, 64), "b.png": (80, 60)})
    report = run(*words)
    assert report.copied == 2
    for name in ("a.jpg", "b.png"):
        assert (report.folder / "images" / name).read_bytes() == (tmp_path / "images" / name).read_bytes()
    assert (report.folder / "labels" / "a.txt").read_text() == CAR


def test_what_leaves_the_view_is_dropped_and_what_is_cut_is_truncated(tmp_path: Path):
    words = kitti_folder(
        tmp_path,
        {"a.png": (100, 100)},
        {"a.png": CAR.replace("10.00 10.00 30.00 40.00", "60.00 10.00 80.00 40.00") + CAR},
    )
    report = run(*words, "spatial_aug.translation.translate_x=[-20]")
    rows = boxes_of(report.folder)["a.txt"]
    assert [row[4:8] for row in rows] == [
        ["40.00", "10.00", "60.00", "40.00"],
        ["0.00", "10.00", "10.00", "40.00"],
    ]
    assert [float(row[1]) for row in rows] == [0.0, 0.5]
    gone = run(*words, "spatial_aug.translation.translate_x=[-29]", f"results_dir={tmp_path / 'gone'}")
    assert len(boxes_of(gone.folder)["a.txt"]) == 1, "less than a tenth is in view"
    assert gone.dropped == 1


def test_three_dimensions_are_unknown_once_an_image_was_moved(tmp_path: Path):
    report = run(*kitti_folder(tmp_path, {"a.png": (100, 100)}), "spatial_aug.flip.flip_horizontal=True")
    assert (report.folder / "labels" / "a.txt").read_text() == (
        "Car 0.00 0 -10 70.00 10.00 90.00 40.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )


def test_an_image_without_objects_stays_a_negative_and_one_without_a_label_is_named(tmp_path: Path):
    words = kitti_folder(tmp_path, {"a.png": (64, 64), "b.png": (64, 64)}, {"a.png": ""})
    (tmp_path / "images" / "lone.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    (tmp_path / "labels" / "waits.txt").write_text(CAR)
    report = run(*words, "spatial_aug.rotation.angle=[5]")
    assert (report.folder / "labels" / "a.txt").read_text() == ""
    assert "lone.png" in report.notes[1]
    assert "waits" in report.notes[0]


def test_coco_keeps_ids_and_writes_xywh_area_and_sizes(tmp_path: Path):
    polygon = [10, 10, 30, 10, 30, 20, 10, 20]
    crowd = {"size": [48, 64], "counts": [48 * 40 + 5, 10, 38, 10, 48 * 22 + 33]}
    annotations = [
        coco_annotation(90, [10, 10, 20, 10], segmentation=[polygon], mine="kept"),
        coco_annotation(91, [40, 5, 2, 10], iscrowd=1, segmentation=crowd),
    ]
    report = run(
        *coco_folder(tmp_path, annotations), "data.output_image_width=128", "data.output_image_height=96"
    )
    assert (report.folder / "images" / "a" / "x.jpg").is_file()
    out = json.loads((report.folder / "annotations.json").read_text())
    assert out["images"] == [{"id": 7, "file_name": "a/x.jpg", "width": 128, "height": 96}]
    assert out["categories"] == [{"id": 3, "name": "cell"}]
    first, second = out["annotations"]
    assert (first["id"], first["image_id"], first["category_id"], first["mine"]) == (90, 7, 3, "kept")
    assert (first["bbox"], first["area"]) == ([20, 20, 40, 20], 800)
    assert first["segmentation"] == [[2 * v for v in polygon]]
    assert (second["id"], second["iscrowd"]) == (91, 1)
    assert second["segmentation"]["size"] == [96, 128]
    assert second["area"] == sum(second["segmentation"]["counts"][1::2]) == pytest.approx(80, abs=8)
    old = run(*coco_folder(tmp_path, annotations)[:2], f"data.output_dataset={tmp_path / 'v5'}")
    assert (old.folder / "labels" / "output.json").is_file(), "5.0 has its file elsewhere"


def test_copies_have_names_and_ids_of_their_own(tmp_path: Path):
    annotations = [
        {"id": 9, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0}
    ]
    report = run(*coco_folder(tmp_path, annotations), "data.copies=3", "spatial_aug.rotation.angle=[-9,9]")
    out = json.loads((report.folder / "annotations.json").read_text())
    assert [i["file_name"] for i in out["images"]] == ["a/x.jpg", "a/x_aug1.jpg", "a/x_aug2.jpg"]
    assert len({i["id"] for i in out["images"]}) == len({a["id"] for a in out["annotations"]}) == 3
    assert {a["image_id"] for a in out["annotations"]} == {i["id"] for i in out["images"]}


def test_refinement_takes_the_box_of_the_moved_mask_in_coco_and_from_a_cache_in_kitti(tmp_path: Path):
    """A thin diagonal in its box: turned by 45 degrees its own box is thin, while the moved box is not."""
    polygon = [20, 20, 24, 20, 60, 56, 60, 60, 56, 60, 20, 24]
    annotation = coco_annotation(1, [20, 20, 40, 40], segmentation=[polygon])
    turned = ["spatial_aug.rotation.angle=[45]", "spatial_aug.rotation.refine_box.enabled=True"]
    words = coco_folder(tmp_path, [annotation], size=(80, 80))
    report = run(*words, *turned)
    box = json.loads((report.folder / "annotations.json").read_text())["annotations"][0]["bbox"]
    plain = run(*words, turned[0], f"results_dir={tmp_path / 'plain'}")
    loose = json.loads((plain.folder / "annotations.json").read_text())["annotations"][0]["bbox"]
    assert box[2] < 8 < 50 < loose[2]
    assert box[3] == pytest.approx(loose[3], abs=1)

    kitti = tmp_path / "k"
    line = CAR.replace("Car", "cell").replace("10.00 10.00 30.00 40.00", "20.00 20.00 60.00 60.00")
    words = kitti_folder(
        kitti,
        {"x.png": (80, 80)},
        {"x.png": line + line.replace("20.00 20.00 60.00 60.00", "1.00 1.00 9.00 9.00")},
    )
    cache = f"spatial_aug.rotation.refine_box.gt_cache={tmp_path / 'in.json'}"
    refined = run(*words, *turned, cache)
    rows = boxes_of(refined.folder)["x.txt"]
    assert [float(v) for v in rows[0][4:8]] == pytest.approx(
        [box[0], box[1], box[0] + box[2], box[1] + box[3]], abs=0.01
    )
    assert "1 objects have a mask, 1 keep" in " ".join(refined.notes)
    with pytest.raises(ConfigError, match="auto_label generate"):
        run(*words, *turned, "spatial_aug.rotation.refine_box.gt_cache=/nowhere.json")


def test_a_plan_that_was_written_down_gives_the_same_pixels():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    layer = Layer(sample="a", width=64, height=48, matrix=(0.9, 0.1, 3, -0.1, 0.9, 2), window=(0, 0, 64, 48))
    plan = Plan(
        name="a.png", width=64, height=48, layers=(layer,), colour=Colour(hue=20, contrast=0.2),
        kernel=Kernel(sigma=1.1, window=5, sharpen=0.5, noise=4, noise_seed=11),
        erased=((3, 4, 20, 30),), erased_value=9,
    )  # fmt: skip
    once = render(plan, {"a": image})
    assert np.array_equal(once, render(from_json(as_json(plan)), {"a": image}))
    assert (once[4:30, 3:20] == 9).all()
