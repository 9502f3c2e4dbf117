"""Sets of scenes on disk: read back by the project's own readers, with every planted defect found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from quality.check import check_boxes
from quality.rules import FILE_RULES, RULES
from storage.errors import ConfigError, UnknownKeyError
from storage.object_store import ObjectStore
from transforms.normalise import Groups, Normalised, normalise
from transforms.scenes import Manifest, SceneConfig, render_scene, write_scenes
from transforms.scenes.layouts import FORMATS, Format, kitti_name, split_of

CONFIG = SceneConfig(images=24, width=320, height=240, seed=17)
BOX_RULES = {rule.name for rule in RULES}


@dataclass(frozen=True)
class ReadBack:
    manifest: Manifest
    planted: list[dict[str, Any]]
    parsed: Parsed
    normal: Normalised
    findings: pl.DataFrame
    boxes: pl.DataFrame

    @property
    def quarantined(self) -> dict[str, str]:
        return {o.event.key: o.error or "" for o in self.parsed.outcomes if o.state == "quarantined"}


def frame(table: Any) -> pl.DataFrame:
    result = pl.from_arrow(table)
    assert isinstance(result, pl.DataFrame)
    return result


def read_back(manifest: Manifest) -> ReadBack:
    store = ObjectStore.at(manifest.folder)
    events = [
        Event(action="put", key=info.key, version=info.version, size_bytes=info.size_bytes, dataset="set")
        for info in sorted(store.list(), key=lambda info: info.key)
    ]
    rule = DatasetRule(bucket="set", name="set")
    parsed = parse_objects(store, events, rule, Limits())
    groups = Groups(
        images=frame(parsed.images),
        mentions=frame(parsed.mentions),
        labels=frame(parsed.labels),
        categories=frame(parsed.categories),
    )
    normal = normalise(groups, prefixes={"set": ""})
    checked = check_boxes(normal.boxes, correct=True)
    planted = json.loads(manifest.defects_path.read_text()) if manifest.defects_path else []
    return ReadBack(manifest, planted, parsed, normal, checked.findings, checked.boxes)


@pytest.fixture(scope="module", params=FORMATS)
def delivery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReadBack:
    folder = tmp_path_factory.mktemp("bucket") / request.param
    return read_back(write_scenes(CONFIG, folder, format=request.param))


def truth(layout: str) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    named = kitti_name if layout == "kitti" else str
    return {
        f"{index:06d}": [
            (named(item.category), tuple(map(float, item.box)))
            for item in render_scene(CONFIG, index).objects
        ]
        for index in range(CONFIG.images)
    }


def test_the_findings_are_the_planted_defects_and_no_others(delivery: ReadBack) -> None:
    planted = [item for item in delivery.planted if item["rule"] is not None]
    of_boxes = Counter((d["rule"], d["file"], d["object"]) for d in planted if d["rule"] in BOX_RULES)
    found = delivery.findings.select("rule", "source", "instance").rows()
    assert Counter(found) == of_boxes
    unreadable = {d["file"] for d in planted if d["rule"] == "unreadable_file"}
    assert set(delivery.quarantined) == unreadable
    strays = Counter((d["file"], Path(d["image"]).stem) for d in planted if d["rule"] == "unknown_image")
    remarks = delivery.normal.remarks.filter(pl.col("rule") == "unknown_image")
    assert Counter(remarks.select("source", "stem").rows()) == strays
    assert set(delivery.normal.remarks["rule"]) == {"unknown_image"}


def test_every_kind_of_defect_is_planted_under_a_known_rule(delivery: ReadBack) -> None:
    kinds = Counter(item["kind"] for item in delivery.planted)
    # In COCO one file has the labels of all images; the one that is cut short is of none of them.
    alone = {"image_of_unreadable_label"} if delivery.manifest.format != "coco" else set()
    assert set(kinds) == alone | {
        "inverted_box",
        "negative_coordinate",
        "beyond_image",
        "zero_area",
        "truncated_image",
        "corrupt_image",
        "truncated_label",
        "unknown_image",
        "label_of_unreadable_image",
        "exif_orientation",
        "negative",
    }
    assert dict(kinds) == delivery.manifest.defects
    rules = {item["rule"] for item in delivery.planted} - {None}
    assert rules <= BOX_RULES | set(FILE_RULES) | {"image_without_label"}
    assert all((delivery.manifest.folder / item["file"]).is_file() for item in delivery.planted)
    assert delivery.manifest.defects_path == delivery.manifest.folder.with_name(
        f"{delivery.manifest.format}-planted-defects.json"
    )


def test_boxes_as_written_and_as_corrected_are_listed(delivery: ReadBack) -> None:
    labels = frame(delivery.parsed.labels)
    normal = delivery.normal.boxes
    for item in (item for item in delivery.planted if item["box"] is not None):
        row = (pl.col("source") == item["file"]) & (pl.col("instance") == item["object"])
        assert labels.filter(row).height == 1
        delivered = normal.filter(row).select("xmin", "ymin", "xmax", "ymax").row(0)
        assert delivered == pytest.approx(item["box"], abs=2e-3)
        kept = delivery.boxes.filter(row).select("xmin", "ymin", "xmax", "ymax")
        if item["corrected_box"] is None:
            assert item["rule"] == "zero_area"
            assert kept.is_empty()
        else:
            assert kept.row(0) == pytest.approx(item["corrected_box"], abs=2e-3)
        if item["rule"] == "inverted_box":
            assert item["corrected_box"] == item["correct_box"]


def test_boxes_of_sound_images_are_those_of_the_scenes(delivery: ReadBack) -> None:
    expected = truth(delivery.manifest.format)
    touched = {Path(item["file"]).stem for item in delivery.planted if item["box"] is not None}
    touched |= {Path(i["image"]).stem for i in delivery.planted if i["box"] is not None}
    boxes: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
    columns = ("stem", "category", "xmin", "ymin", "xmax", "ymax")
    for stem, category, *box in delivery.boxes.sort("source", "instance").select(columns).iter_rows():
        boxes.setdefault(stem, []).append((category, tuple(box)))
    labelled = delivery.normal.images.filter(pl.col("labelled"))["stem"].to_list()
    assert len(labelled) >= CONFIG.images - 4
    for stem in set(labelled) - touched:
        got = boxes.get(stem, [])
        assert [name for name, _ in got] == [name for name, _ in expected[stem]]
        for (_, box), (_, wanted) in zip(got, expected[stem], strict=True):
            assert box == pytest.approx(wanted, abs=2e-3)


def test_counts_of_the_manifest_are_what_readers_find(delivery: ReadBack) -> None:
    manifest = delivery.manifest
    assert manifest.images == CONFIG.images
    assert manifest.readable_images == delivery.parsed.images.num_rows == CONFIG.images - 2
    labels = frame(delivery.parsed.labels)
    assert manifest.labels == labels.height == sum(manifest.per_class.values())
    if manifest.format != "yolo":
        named = kitti_name if manifest.format == "kitti" else str
        counts = dict(labels.group_by("category").len().rows())
        assert {named(name): count for name, count in manifest.per_class.items() if count} == counts
    instances = delivery.normal.boxes.group_by("stem").len()
    readable = delivery.normal.images.filter(pl.col("labelled"))
    assert readable.join(instances, on="stem", how="anti").height == manifest.negatives >= 1


def test_every_image_is_in_the_split_that_the_layout_says(delivery: ReadBack) -> None:
    images = delivery.normal.images
    if delivery.manifest.format == "coco":
        folder = delivery.manifest.folder / "annotations"
        sizes = {
            split: len(json.loads((folder / f"instances_{split}.json").read_text())["images"])
            for split in ("train", "val", "test")
        }
        sizes["train"] -= 1  # the label without an image
    else:
        sizes = dict(images.group_by("split").len().rows())
        gone = Counter()
        for item in delivery.planted:
            if item["kind"] in {"truncated_image", "corrupt_image"}:
                index = int(Path(item["image"]).stem)
                gone[split_of(index)] += 1
        sizes = {split: count + gone[split] for split, count in sizes.items()}
    assert sizes == dict(delivery.manifest.splits) == {"train": 17, "val": 4, "test": 3}


def test_a_turned_image_shows_its_scene_when_its_orientation_is_respected(delivery: ReadBack) -> None:
    images = delivery.normal.images
    for item in (item for item in delivery.planted if item["kind"] == "exif_orientation"):
        path = delivery.manifest.folder / item["file"]
        with Image.open(path) as stored:
            shown = np.asarray(ImageOps.exif_transpose(stored), dtype=int)
            asis = np.asarray(stored, dtype=int)
        scene = render_scene(CONFIG, int(path.stem)).image.astype(int)
        assert shown.shape == scene.shape
        assert np.abs(shown - scene).mean() < 8
        assert asis.shape != scene.shape or np.abs(asis - scene).mean() > 8
        row = images.filter(pl.col("stem") == path.stem)
        assert row.select("width", "height").row(0) == (CONFIG.width, CONFIG.height)
        assert row["exif_orientation"][0] != 1


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_workers_write_the_same_bytes_and_nothing_half_written_stays(tmp_path: Path) -> None:
    config = SceneConfig(images=20, width=160, height=120, seed=1)
    seen: list[tuple[int, int]] = []
    write_scenes(config, tmp_path / "one" / "set", progress=lambda done, of: seen.append((done, of)))
    write_scenes(config, tmp_path / "two" / "set", workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert seen == [(done, 20) for done in range(1, 21)]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("layout", get_args(Format))
def test_without_defects_nothing_is_wrong_in_png_either(tmp_path: Path, layout: Format) -> None:
    config = SceneConfig(images=6, width=160, height=120, seed=2)
    back = read_back(write_scenes(config, tmp_path / "set", format=layout, defects=False, image_format="png"))
    assert back.manifest.defects_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert back.findings.is_empty()
    assert back.normal.remarks.is_empty()
    assert not back.quarantined
    for index in range(config.images):
        path = next((tmp_path / "set").rglob(f"{index:06d}.png"))
        assert np.array_equal(np.asarray(Image.open(path)), render_scene(config, index).image)


def test_planted_defects_in_png_sets_are_found_as_well(tmp_path: Path) -> None:
    config = SceneConfig(images=20, width=160, height=120, seed=3)
    back = read_back(write_scenes(config, tmp_path / "set", format="kitti", image_format="png"))
    assert set(back.quarantined) == {i["file"] for i in back.planted if i["rule"] == "unreadable_file"}
    turned = [item for item in back.planted if item["kind"] == "exif_orientation"]
    stems = [Path(item["file"]).stem for item in turned]
    rows = back.normal.images.filter(pl.col("stem").is_in(stems))
    assert rows.select("width", "height").unique().rows() == [(160, 120)]


def test_voc_masks_number_the_objects_in_their_order(tmp_path: Path) -> None:
    config = SceneConfig(images=3, width=320, height=240, seed=5)
    write_scenes(config, tmp_path / "set", defects=False, masks=True)
    for index in range(3):
        scene = render_scene(config, index)
        with Image.open(tmp_path / f"set/SegmentationObject/{index:06d}.png") as picture:
            assert picture.mode == "P"
            numbers = np.asarray(picture)
            assert picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]  # VOC's colours of 0 and 1
        for number, item in enumerate(scene.objects, start=1):
            assert np.array_equal(numbers == number, scene.mask_of(item))


def test_coco_files_load_in_pycocotools_with_the_scenes_masks(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    config = SceneConfig(images=4, width=320, height=240, seed=5)
    write_scenes(config, tmp_path / "set", format="coco", defects=False)
    loaded = coco.COCO(str(tmp_path / "set/annotations/instances_train.json"))
    for image in loaded.loadImgs(loaded.getImgIds()):
        scene = render_scene(config, int(Path(image["file_name"]).stem))
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(scene.objects)
        for annotation, item in zip(annotations, scene.objects, strict=True):
            assert np.array_equal(loaded.annToMask(annotation).astype(bool), scene.mask_of(item))
            assert annotation["area"] == item.mask.sum()
            assert loaded.cats[annotation["category_id"]]["name"] == item.category


def test_boxes_past_an_edge_are_planted_on_aircraft_that_the_edge_cuts(tmp_path: Path) -> None:
    config = SceneConfig(images=60, width=160, height=120, seed=6)
    manifest = write_scenes(config, tmp_path / "set", format="kitti")
    assert manifest.defects_path is not None
    planted = json.loads(manifest.defects_path.read_text())
    past = [item for item in planted if item["rule"] in {"negative_coordinate", "beyond_image"}]
    assert past
    assert all(item["corrected_box"] == item["correct_box"] for item in past)


def test_wrong_arguments_say_what_was_expected(tmp_path: Path) -> None:
    config = SceneConfig(images=1, width=64, height=64)
    with pytest.raises(UnknownKeyError, match="did you mean 'coco'"):
        write_scenes(config, tmp_path / "a", format="cocoo")  # type: ignore[arg-type]
    with pytest.raises(UnknownKeyError, match="jpeg"):
        write_scenes(config, tmp_path / "a", image_format="jpg")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected 'voc' or 'coco'"):
        write_scenes(config, tmp_path / "a", format="yolo", masks=True)
    with pytest.raises(ConfigError, match="workers"):
        write_scenes(config, tmp_path / "a", workers=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(ConfigError, match="expected an empty or absent folder"):
        write_scenes(config, tmp_path / "full")
    assert (tmp_path / "full" / "note").read_text() == "mine"
