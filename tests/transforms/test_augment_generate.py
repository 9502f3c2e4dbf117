"""``dataset augmentation generate`` on folders, as a user runs it."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dropmill.augmentation import augment, repeat_factors_of
from dropmill.cli import cli
from storage.errors import ConfigError, UnknownKeyError
from transforms.augment import generate as generating
from transforms.augment.generate import prepare
from transforms.augment.labels import Keep, labels_of
from transforms.augment.masks import decoded as decoded_segmentation
from transforms.augment.opencv import render
from transforms.augment.pixels import decode, encode
from transforms.augment.plan import Colour, Kernel, Layer, Plan, as_json, from_json
from transforms.augment.sample import LabelledImage, objects_of
from transforms.augment.spec import load_augment_spec
from transforms.formats.masks import rle_text

# As people have it, 5.0; written anew from the keys of its schema.
SPEC = """\
random_seed: 42
num_gpus: 1
gpu_ids: [0]
data:
  dataset_type: kitti
  image_dir: IMAGES
  ann_path: LABELS
  output_dataset: OUT
  output_image_width: 1000
  output_image_height: 300
  batch_size: 2
  include_masks: False
spatial_aug:
  rotation:
    angle: [0, 10, 30]
    units: degrees
    refine_box:
      enabled: False
      gt_cache: ""
  shear: {shear_ratio_x: [0.0], shear_ratio_y: [0.0]}
  translation: {translate_x: [0], translate_y: [0]}
  flip: {flip_horizontal: False, flip_vertical: False}
color_aug:
  hue: {hue_rotation_angle: [0]}
  saturation: {saturation_shift: [1]}
  contrast: {contrast: [0], center: [127]}
  brightness: {offset: [0]}
blur_aug: {size: [3], std: [0.1]}
"""
CAR = "Car 0.00 0 -1.58 10.00 10.00 30.00 40.00 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


@pytest.fixture
def kitti(shared_data: Path, tmp_path: Path) -> Path:
    spec = SPEC.replace("IMAGES", str(shared_data / "kitti" / "image_2"))
    spec = spec.replace("LABELS", str(shared_data / "kitti" / "label_2")).replace(
        "OUT", str(tmp_path / "out")
    )
    path = tmp_path / "augment.yaml"
    path.write_text(spec)
    return path


def _small(
    folder: Path, images: dict[str, bytes | tuple[int, int]], labels: dict[str, str] | None = None
) -> list[str]:
    """A KITTI folder; an image is bytes, or a size to be drawn at. Returns the overrides that name it."""
    for name, content in images.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            rng = np.random.default_rng(len(name))
            rough = rng.integers(0, 256, (max(content[1] // 8, 1), max(content[0] // 8, 1), 3), np.uint8)
            path.write_bytes(encode(cv2.resize(rough, content), name))
        else:
            path.write_bytes(content)
        text = (labels or {}).get(name, CAR)
        label = (folder / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    return [
        "data.dataset_type=kitti",
        f"data.image_dir={folder / 'images'}",
        f"data.ann_path={folder / 'labels'}",
        f"results_dir={folder / 'out'}",
    ]


def _coco(folder: Path, annotations: list[dict], *, size=(64, 48), names=("a/x.jpg",)) -> list[str]:
    images = [
        {"id": 7 + i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)
    ]
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "#407020").save(path)
    document = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    (folder / "in.json").write_text(json.dumps(document))
    return [
        f"data.image_dir={folder / 'images'}",
        f"data.ann_path={folder / 'in.json'}",
        f"results_dir={folder / 'out'}",
    ]


def _annotation(number: int, bbox: list[int], **more) -> dict:
    return {"id": number, "image_id": 7, "category_id": 3, "bbox": bbox, "area": 1, "iscrowd": 0, **more}


def _run(*words: str):
    return augment(load_augment_spec(None, words))[0]


def _boxes(folder: Path) -> dict[str, list[list[str]]]:
    return {
        file.name: [line.split() for line in file.read_text().splitlines()]
        for file in sorted((folder / "labels").rglob("*.txt"))
    }


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
    words = _small(tmp_path, {f"{i}.jpg": (96, 64) for i in range(9)})
    more = ["spatial_aug.rotation.angle=[-20,20]", "noise_aug.std=[0,9]", "data.copies=2"]
    found = []
    for workers in (1, 4):
        out = tmp_path / f"out{workers}"
        report = _run(*words, *more, f"results_dir={out}", f"workers={workers}")
        assert report.outputs == 18
        found.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert found[0] == found[1]
    other = _run(*words, *more, f"results_dir={tmp_path / 'other'}", "random_seed=43")
    assert (other.folder / "images/0.jpg").read_bytes() != found[0][Path("images/0.jpg")]


def test_pixels_and_boxes_move_together(tmp_path: Path):
    """A white square on black: after any movement its pixels and its box still agree."""
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[40:70, 90:130] = 255
    line = "Car 0.00 0 -1.58 90.00 40.00 130.00 70.00 1 1 1 1 1 1 1\n"
    names = {f"{i}.png": encode(picture, "x.png") for i in range(12)}
    words = _small(tmp_path, names, dict.fromkeys(names, line))
    report = _run(
        *words, "spatial_aug.rotation.angle=[-3.1,3.1]", "spatial_aug.rotation.units=radians",
        "spatial_aug.shear.shear_ratio_x=[-0.2,0.2]", "spatial_aug.scale.factor=[0.6,1.5]",
        "spatial_aug.translation.translate_x=[-60,60]", "spatial_aug.flip.flip_vertical=0.5",
        "spatial_aug.crop.size=[0.7,1]", "labels.min_visibility=0",
    )  # fmt: skip
    for name, rows in _boxes(report.folder).items():
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
    words = _small(tmp_path, {"a.jpg": (96, 64), "b.png": (80, 60)})
    report = _run(*words)
    assert report.copied == 2
    for name in ("a.jpg", "b.png"):
        assert (report.folder / "images" / name).read_bytes() == (tmp_path / "images" / name).read_bytes()
    assert (report.folder / "labels" / "a.txt").read_text() == CAR


def test_what_leaves_the_view_is_dropped_and_what_is_cut_is_truncated(tmp_path: Path):
    words = _small(
        tmp_path,
        {"a.png": (100, 100)},
        {"a.png": CAR.replace("10.00 10.00 30.00 40.00", "60.00 10.00 80.00 40.00") + CAR},
    )
    report = _run(*words, "spatial_aug.translation.translate_x=[-20]")
    rows = _boxes(report.folder)["a.txt"]
    assert [row[4:8] for row in rows] == [
        ["40.00", "10.00", "60.00", "40.00"],
        ["0.00", "10.00", "10.00", "40.00"],
    ]
    assert [float(row[1]) for row in rows] == [0.0, 0.5]
    gone = _run(*words, "spatial_aug.translation.translate_x=[-29]", f"results_dir={tmp_path / 'gone'}")
    assert len(_boxes(gone.folder)["a.txt"]) == 1, "less than a tenth is in view"
    assert gone.dropped == 1


def test_three_dimensions_are_unknown_once_an_image_was_moved(tmp_path: Path):
    report = _run(*_small(tmp_path, {"a.png": (100, 100)}), "spatial_aug.flip.flip_horizontal=True")
    assert (report.folder / "labels" / "a.txt").read_text() == (
        "Car 0.00 0 -10 70.00 10.00 90.00 40.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )


def test_an_image_without_objects_stays_a_negative_and_one_without_a_label_is_named(tmp_path: Path):
    words = _small(tmp_path, {"a.png": (64, 64), "b.png": (64, 64)}, {"a.png": ""})
    (tmp_path / "images" / "lone.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    (tmp_path / "labels" / "waits.txt").write_text(CAR)
    report = _run(*words, "spatial_aug.rotation.angle=[5]")
    assert (report.folder / "labels" / "a.txt").read_text() == ""
    assert "lone.png" in report.notes[1]
    assert "waits" in report.notes[0]


def test_coco_keeps_ids_and_writes_xywh_area_and_sizes(tmp_path: Path):
    polygon = [10, 10, 30, 10, 30, 20, 10, 20]
    crowd = {"size": [48, 64], "counts": [48 * 40 + 5, 10, 38, 10, 48 * 22 + 33]}
    annotations = [
        _annotation(90, [10, 10, 20, 10], segmentation=[polygon], mine="kept"),
        _annotation(91, [40, 5, 2, 10], iscrowd=1, segmentation=crowd),
    ]
    report = _run(*_coco(tmp_path, annotations), "data.output_image_width=128", "data.output_image_height=96")
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
    old = _run(*_coco(tmp_path, annotations)[:2], f"data.output_dataset={tmp_path / 'v5'}")
    assert (old.folder / "labels" / "output.json").is_file(), "5.0 has its file elsewhere"


def test_copies_have_names_and_ids_of_their_own(tmp_path: Path):
    annotations = [
        {"id": 9, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0}
    ]
    report = _run(*_coco(tmp_path, annotations), "data.copies=3", "spatial_aug.rotation.angle=[-9,9]")
    out = json.loads((report.folder / "annotations.json").read_text())
    assert [i["file_name"] for i in out["images"]] == ["a/x.jpg", "a/x_aug1.jpg", "a/x_aug2.jpg"]
    assert len({i["id"] for i in out["images"]}) == len({a["id"] for a in out["annotations"]}) == 3
    assert {a["image_id"] for a in out["annotations"]} == {i["id"] for i in out["images"]}


def test_refinement_takes_the_box_of_the_moved_mask_in_coco_and_from_a_cache_in_kitti(tmp_path: Path):
    """A thin diagonal in its box: turned by 45 degrees its own box is thin, while the moved box is not."""
    polygon = [20, 20, 24, 20, 60, 56, 60, 60, 56, 60, 20, 24]
    annotation = _annotation(1, [20, 20, 40, 40], segmentation=[polygon])
    turned = ["spatial_aug.rotation.angle=[45]", "spatial_aug.rotation.refine_box.enabled=True"]
    words = _coco(tmp_path, [annotation], size=(80, 80))
    report = _run(*words, *turned)
    box = json.loads((report.folder / "annotations.json").read_text())["annotations"][0]["bbox"]
    plain = _run(*words, turned[0], f"results_dir={tmp_path / 'plain'}")
    loose = json.loads((plain.folder / "annotations.json").read_text())["annotations"][0]["bbox"]
    assert box[2] < 8 < 50 < loose[2]
    assert box[3] == pytest.approx(loose[3], abs=1)

    kitti = tmp_path / "k"
    line = CAR.replace("Car", "cell").replace("10.00 10.00 30.00 40.00", "20.00 20.00 60.00 60.00")
    words = _small(
        kitti,
        {"x.png": (80, 80)},
        {"x.png": line + line.replace("20.00 20.00 60.00 60.00", "1.00 1.00 9.00 9.00")},
    )
    cache = f"spatial_aug.rotation.refine_box.gt_cache={tmp_path / 'in.json'}"
    refined = _run(*words, *turned, cache)
    rows = _boxes(refined.folder)["x.txt"]
    assert [float(v) for v in rows[0][4:8]] == pytest.approx(
        [box[0], box[1], box[0] + box[2], box[1] + box[3]], abs=0.01
    )
    assert "1 objects have a mask, 1 keep" in " ".join(refined.notes)
    with pytest.raises(ConfigError, match="auto_label generate"):
        _run(*words, *turned, "spatial_aug.rotation.refine_box.gt_cache=/nowhere.json")


def test_a_run_that_was_cut_short_goes_on_and_other_parameters_start_anew(tmp_path: Path, monkeypatch):
    words = _small(tmp_path, {f"{i}.png": (64, 64) for i in range(6)})
    turn = "spatial_aug.rotation.angle=[-9,9]"
    spec = load_augment_spec(None, [*words, turn, "workers=1"])

    class Crash(BaseException):
        pass

    real, count = os.replace, 0

    def write(path, data):
        nonlocal count
        count += 1
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data[: len(data) // 2] if count == 4 else data)
        if count == 4:
            raise Crash
        real(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(generating, "_write", write)
        with pytest.raises(Crash):
            augment(spec)
    out = tmp_path / "out"
    assert len(list((out / "images").glob("*.png"))) == 3
    assert not (out / "labels").exists(), "labels come when all images are there"
    report = augment(spec)[0]
    assert (report.kept, report.written) == (3, 3)
    whole = _run(*words, turn, f"results_dir={tmp_path / 'whole'}")
    for image in (whole.folder / "images").iterdir():
        assert (out / "images" / image.name).read_bytes() == image.read_bytes()
    again = _run(*words, turn, "random_seed=7")
    assert (again.kept, again.written) == (0, 6)


def _saved(image: Image.Image, form: str, **how) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **how)
    return target.getvalue()


def test_odd_images_are_handled_or_reported_by_name(tmp_path: Path):
    grey = Image.linear_gradient("L").resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = _saved(Image.merge("RGB", [grey] * 3), "PNG")
    images = {
        "cmyk.jpg": _saved(Image.merge("RGB", [grey] * 3).convert("CMYK"), "JPEG"),
        "deep.png": _saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "grey.jpg": _saved(grey, "JPEG"),
        "one.png": _saved(Image.new("RGB", (1, 1), "red"), "PNG"),
        "palette.png": _saved(Image.merge("RGB", [grey] * 3).convert("P"), "PNG"),
        "turned.jpg": _saved(Image.merge("RGB", [grey] * 3), "JPEG", exif=exif),
        "cut.png": whole[: len(whole) // 2],
        "no.png": b"no image at all",
    }
    report = _run(*_small(tmp_path, images, {"one.png": ""}), "spatial_aug.flip.flip_vertical=True")
    assert report.outputs == 6
    assert all(name in report.notes[0] for name in ("cut", "no"))
    sizes = {p.name: Image.open(p).size for p in (report.folder / "images").iterdir()}
    assert sizes.pop("one.png") == (1, 1)
    assert sizes.pop("turned.jpg") == (48, 64)
    assert sizes == dict.fromkeys(("cmyk.jpg", "deep.png", "grey.jpg", "palette.png"), (64, 48))
    deep = np.asarray(Image.open(report.folder / "images" / "deep.png").convert("L")).astype(int)
    assert np.abs(deep - np.asarray(grey)[::-1]).max() <= 1
    assert not Image.open(report.folder / "images" / "turned.jpg").getexif().get(0x0112)


def test_an_image_that_breaks_after_the_labels_were_read_is_named_and_stops_nothing(tmp_path: Path):
    words = _small(tmp_path, {"a.png": (64, 64), "b.png": (64, 64)})
    spec = load_augment_spec(None, [*words, "spatial_aug.rotation.angle=[9]"])
    work = prepare(spec)
    (tmp_path / "images" / "a.png").write_bytes((tmp_path / "images" / "a.png").read_bytes()[:200])
    report = generating.generate(spec, work)
    assert list(report.failed) == ["a.png"]
    assert "a.png" in report.failed["a.png"]
    assert [p.name for p in (report.folder / "labels").iterdir()] == ["b.txt"]


def test_an_unknown_key_names_the_nearest_and_half_a_size_is_refused(tmp_path: Path):
    with pytest.raises(UnknownKeyError, match=r"spatial_aug.rotation.angle"):
        load_augment_spec(None, ["spatial_aug.rotation.angel=[3]"])
    with pytest.raises(ConfigError, match="both or neither"):
        load_augment_spec(None, ["data.output_image_width=300"])
    words = _small(tmp_path, {"a.png": (64, 64)})
    with pytest.raises(ConfigError, match="where the results go"):
        _run(*words, f"results_dir={tmp_path}")


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


def test_a_mosaic_shows_four_images_each_in_its_window_with_its_objects(tmp_path: Path):
    names = {f"{i}.png": (100, 80) for i in range(6)}
    words = _small(
        tmp_path,
        names,
        dict.fromkeys(names, CAR.replace("10.00 10.00 30.00 40.00", "10.00 10.00 90.00 70.00")),
    )
    work = prepare(load_augment_spec(None, [*words, "mosaic_aug.probability=1", "labels.min_visibility=0"]))
    for plan, placed in zip(work.plans, work.placed, strict=True):
        assert len(plan.layers) == 4
        assert sum((r - x) * (b - y) for x, y, r, b in (layer.window for layer in plan.layers)) == 100 * 80
        for (sample, _), box in zip(placed.sources, placed.boxes, strict=True):
            windows = [layer.window for layer in plan.layers if layer.sample == sample]
            assert any(
                w[0] <= box[0] and w[1] <= box[1] and box[2] <= w[2] and box[3] <= w[3] for w in windows
            )


def test_mixup_keeps_the_objects_of_both_and_blends_their_pixels(tmp_path: Path):
    white, black = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 3), np.uint8)
    words = _small(tmp_path, {"b.png": encode(black, "x.png"), "w.png": encode(white, "x.png")})
    report = _run(*words, "mixup_aug.probability=1", "mixup_aug.weight=[0.4]", "random_seed=3")
    seen = set()
    for line in (report.folder / "parameters.ndjson").read_bytes().splitlines():
        plan = from_json(line)
        assert len(_boxes(report.folder)[f"{plan.sample}.txt"]) == 2
        value = int(decode((report.folder / "images" / plan.name).read_bytes(), "x")[5, 5, 0])
        pair = tuple(layer.sample for layer in plan.layers)
        assert value == {("b", "b"): 0, ("w", "w"): 255, ("b", "w"): 102, ("w", "b"): 153}[pair]
        seen.add(pair)
    assert seen


def test_cutout_hides_objects_that_it_covers(tmp_path: Path):
    words = _small(tmp_path, {"a.png": (64, 64)})
    report = _run(*words, "cutout_aug.count=[1]", "cutout_aug.size=[1.0]", "cutout_aug.value=7")
    assert (decode((report.folder / "images/a.png").read_bytes(), "a") == 7).all()
    assert (report.folder / "labels/a.txt").read_text() == ""


def test_pasted_instances_hide_no_more_than_allowed_and_bring_their_pixels(tmp_path: Path):
    green, red = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100, 3), np.uint8)
    green[..., 1] = 200
    red[..., 0] = 200
    donor = "Rare 0.00 0 0 40.00 40.00 60.00 60.00 0 0 0 0 0 0 0\n"
    words = _small(
        tmp_path, {"g.png": encode(green, "x.png"), "r.png": encode(red, "x.png")}, {"r.png": donor}
    )
    report = _run(
        *words, "paste_aug.instances=[3]", "paste_aug.categories=[Rare]", "paste_aug.max_overlap=0.1",
        "paste_aug.scale=[1.0]", "paste_aug.blend=0",
    )  # fmt: skip
    rows = [row for row in _boxes(report.folder)["g.txt"] if row[0] == "Rare"]
    assert rows
    pixels = decode((report.folder / "images/g.png").read_bytes(), "g")
    for row in rows:
        box = np.array(row[4:8], float)
        x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
        assert pixels[y, x].tolist() == [200, 0, 0]
        corner = pixels[int(box[1]) + 1, int(box[0]) + 1]
        assert corner.tolist() == [0, 200, 0], "only the ellipse is cut out"


@pytest.mark.parametrize("outlined", ["polygon", "run lengths"])
def test_masks_and_boxes_end_where_a_pasted_instance_begins(outlined: str):
    """What masks say is looked for in the pixels: each thing has a colour of its own."""
    below, above = (20.0, 20.0, 60.0, 60.0), (10.0, 10.0, 30.0, 50.0)
    pixels = {name: np.zeros((80, 90, 3), np.uint8) for name in ("base", "donor")}
    pixels["base"][20:60, 20:60, 1] = 200
    pixels["donor"][10:50, 10:30, 0] = 200
    outline = json.dumps([[20, 20, 60, 20, 60, 60, 20, 60]])
    if outlined == "run lengths":
        outline = rle_text(pixels["base"][..., 1] > 0, 0, 0, 90, 80)
    rows = {"base": [below, (0.0, 70.0, 9.0, 79.0)], "donor": [above]}
    images = {
        name: LabelledImage(
            sample=name, name=f"{name}.png", uri="", version="", width=90, height=80,
            objects=objects_of(
                boxes, ["Thing"] * len(boxes), [False] * len(boxes), range(len(boxes)),
                [outline if box == below else None for box in boxes],
            ),
        )
        for name, boxes in rows.items()
    }  # fmt: skip
    whole = {"width": 90, "height": 80, "window": (0, 0, 90, 80)}
    plan = Plan(
        name="out.png", width=90, height=80,
        layers=(
            Layer(sample="base", matrix=(1, 0, 0, 0, 1, 0), **whole),
            Layer(
                sample="donor", matrix=(1, 0, 35, 0, 1, 8), instance=0, **whole,
                outline=json.dumps([[10, 10, 30, 10, 30, 50, 10, 50]]),
            ),
        ),
    )  # fmt: skip
    placed = labels_of(plan, images, Keep())
    shown = render(plan, pixels)
    mask = decoded_segmentation(placed.segmentations[0] or "")
    assert np.array_equal(mask, shown[..., 1] > 100)
    assert placed.boxes[0].tolist() == [20, 20, 60, 60], "it is seen above and beside what hides it"
    assert placed.covered[0] == pytest.approx(15 * 40 / 1600, abs=0.03)
    assert placed.areas[0] == mask.sum()
    assert len(placed) == 3

    beside = msgspec.structs.replace(plan.layers[1], matrix=(1, 0, 35, 0, 1.2, 4))
    cut = labels_of(msgspec.structs.replace(plan, layers=(plan.layers[0], beside)), images, Keep())
    assert cut.boxes[0].tolist() == [20, 20, 45, 60], "its right side is hidden from top to bottom"
    over = msgspec.structs.replace(plan.layers[1], matrix=(3, 0, -20, 0, 2, -10))
    gone = labels_of(msgspec.structs.replace(plan, layers=(plan.layers[0], over)), images, Keep())
    assert [source for source, _ in gone.sources] == ["base", "donor"], (
        "the other object, and what was pasted"
    )


def test_balance_oversamples_images_of_rare_classes(tmp_path: Path):
    names = {f"{i:02}.png": (64, 64) for i in range(20)}
    labels = dict.fromkeys(names, CAR)
    labels["03.png"] = CAR.replace("Car", "Rare")
    words = _small(tmp_path, names, labels)
    spec = load_augment_spec(None, [*words, "balance.mode=oversample"])
    work = prepare(spec, repeat_factors_of)
    copies = [plan.sample for plan in work.plans].count("03")
    assert copies == 3, "its factor is over 4, growth is limited to 3"
    assert len(work.plans) == 22


def test_balance_full_reaches_the_ratio_that_is_asked_for(tmp_path: Path):
    names = {f"{i:02}.png": (200, 160) for i in range(16)}
    labels = dict.fromkeys(names, CAR + CAR.replace("10.00 10.00 30.00 40.00", "60.00 20.00 90.00 60.00"))
    labels["03.png"] += "Rare 0.00 0 0 120.00 90.00 140.00 110.00 0 0 0 0 0 0 0\n"
    words = _small(tmp_path, names, labels)
    work = prepare(load_augment_spec(None, [*words, "balance.mode=full", "balance.ratio=2"]))
    assert work.before == {"Car": 32, "Rare": 1}
    assert max(work.after.values()) / min(work.after.values()) <= 2
    assert len(work.plans) <= 48
    again = prepare(load_augment_spec(None, [*words, "balance.mode=full", "balance.ratio=2"]))
    assert [as_json(plan) for plan in again.plans] == [as_json(plan) for plan in work.plans]


def test_the_preview_is_one_picture_of_before_and_after(tmp_path: Path):
    words = _small(tmp_path, {f"{i}.png": (96, 64) for i in range(4)})
    sheet = tmp_path / "sheet.png"
    command = [
        "dataset",
        "augmentation",
        "preview",
        *words,
        "spatial_aug.rotation.angle=[9]",
        "--sheet",
        str(sheet),
    ]
    result = CliRunner().invoke(cli, [*command, "--cell", "96"])
    assert result.exit_code == 0, result.output
    assert "4 images are in" in result.output
    assert Image.open(sheet).size[0] >= 2 * 96 * 2
