"""The rules on real data sets: every count and every known defect of ``expected-counts.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dropmill.delivered import look_at_images, read_folder
from quality.review import Review, review
from quality.rules import RULES
from quality.summary import summarise

# Label file or folder, folder of images, form.
_SETS: dict[str, tuple[str, str | None, str]] = {
    "kitti": ("kitti/label_2", "kitti/image_2", "kitti"),
    "kitti-cropped": ("kitti-cropped/training/label_2", "kitti-cropped/training/image_2", "kitti"),
    "bccd-voc": ("bccd-voc", "bccd-voc", "voc"),
    "coco128-json": ("coco128-json", "coco128-yolo", "coco"),
    "nuts-coco-masks": ("nuts-coco-masks", "nuts-coco-masks", "coco"),
    "yolo-darknet-pairs": ("yolo-darknet-pairs", "yolo-darknet-pairs", "yolo"),
    "visdrone-coco-json": ("visdrone-coco-json", None, "coco"),
    "ap-reference/coco-val2014-100": (
        "ap-reference/coco-val2014-100/instances_val2014_100.json",
        None,
        "coco",
    ),
}
# The review's rule and what the counts call it.
_CORNERS = {
    "inverted_box": "inverted",
    "zero_area": "zero_area",
    "negative_coordinate": "negative_coordinate",
    "beyond_image": "past_edge",
}


@cache
def reviewed(data: Path, name: str) -> Review:
    labels, images, form = _SETS[name]
    material = read_folder(data / labels, data / images if images else None, form=form).material
    return review(material, looks=look_at_images(material.images) if images else None)


@cache
def expected(data: Path, name: str) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads((data / "expected-counts.json").read_text())[name]
    return counts


def broken(found: Review, rule: str) -> pl.DataFrame:
    return found.findings.filter(pl.col("rule") == rule)


@pytest.mark.parametrize("name", _SETS)
def test_boxes_images_and_broken_corners_are_as_counted(shared_data: Path, name: str) -> None:
    found, counts = reviewed(shared_data, name), expected(shared_data, name)
    total = next(counts[key] for key in ("lines", "boxes", "annotations") if key in counts)
    assert found.material.boxes.height == total
    assert found.material.images.height == counts.get("images", counts.get("images_listed"))
    for rule, key in _CORNERS.items():
        assert broken(found, rule).height == counts.get(key, 0), rule
    assert broken(found, "missing_box").is_empty()
    assert broken(found, "not_finite").is_empty()
    if "tiny" in counts:
        assert broken(found, "too_small").height == counts["tiny"]


@pytest.mark.parametrize(
    "name", ["kitti", "kitti-cropped", "bccd-voc", "nuts-coco-masks", "yolo-darknet-pairs"]
)
def test_classes_are_as_counted(shared_data: Path, name: str) -> None:
    found, counts = reviewed(shared_data, name), expected(shared_data, name)
    classes = counts.get("classes", counts.get("categories"))
    boxes = dict(found.material.boxes.group_by("category").len().iter_rows())
    assert boxes == classes


def test_the_boxes_past_the_edge_are_those_of_the_frames_that_are_known(shared_data: Path) -> None:
    found, counts = reviewed(shared_data, "kitti-cropped"), expected(shared_data, "kitti-cropped")
    rows = broken(found, "beyond_image")
    assert sorted(rows["stem"]) == counts["past_edge_frames"]
    assert rows.filter(pl.col("category") != "DontCare").height == counts["past_edge_without_dontcare"]
    assert found.gate.verdict.value == "fail"


def test_the_two_boxes_of_no_area_are_named(shared_data: Path) -> None:
    rows = broken(reviewed(shared_data, "bccd-voc"), "zero_area")
    seen = {(row["stem"], row["category"], row["observed"].split(" ")[0]) for row in rows.to_dicts()}
    known = expected(shared_data, "bccd-voc")["zero_area_boxes"]
    assert seen == {(stem, category, ",".join(map(str, box))) for stem, category, box in known}


def test_splits_of_bccd_have_the_counted_boxes_and_do_not_drift(shared_data: Path) -> None:
    found, counts = reviewed(shared_data, "bccd-voc"), expected(shared_data, "bccd-voc")
    boxes = found.material.boxes.join(found.material.images.select("sample", "split"), on="sample")
    for split, classes in counts["split_boxes"].items():
        assert dict(boxes.filter(split=split).group_by("category").len().iter_rows()) == classes
    assert found.split_drift
    assert all(drift.js_divergence < 0.001 for drift in found.split_drift)
    assert broken(found, "class_drift").is_empty()


def test_one_field_of_blood_cells_is_in_two_splits(shared_data: Path) -> None:
    # Two pictures of one field of the microscope, at two depths of focus.
    rows = pl.concat(
        [broken(reviewed(shared_data, "bccd-voc"), r) for r in ("leaked_image", "near_duplicate_image")]
    )
    (row,) = rows.to_dicts()
    assert {row["stem"], row["observed"].split("shows what ")[1].split(" ")[0].rsplit("/")[-1]} == {
        "BloodImage_00037",
        "BloodImage_00038",
    }


def test_declared_sizes_of_voc_and_coco_are_those_of_the_images(shared_data: Path) -> None:
    for name in ("bccd-voc", "coco128-json", "nuts-coco-masks"):
        found = reviewed(shared_data, name)
        assert broken(found, "declared_size").is_empty()
        assert broken(found, "swapped_size").is_empty()


def test_labels_without_image_and_images_without_label_are_named(shared_data: Path) -> None:
    counts = expected(shared_data, "coco128-yolo")
    folder = shared_data / "coco128-yolo"
    material = read_folder(folder / "labels", folder / "images", form="yolo").material
    found = review(material)
    assert material.boxes.height == counts["boxes_on_present_images"]
    waiting = {
        row["stem"]: int(row["observed"].split(" ")[0]) for row in broken(found, "unknown_image").to_dicts()
    }
    assert waiting == counts["label_without_image"]
    assert sorted(broken(found, "image_without_label")["stem"]) == counts["image_without_label"]


def test_masks_of_coco_lie_in_their_boxes_and_crowds_are_run_lengths(shared_data: Path) -> None:
    found = reviewed(shared_data, "coco128-json")
    assert broken(found, "mask_outside_box").is_empty()
    assert broken(found, "malformed_mask").is_empty()
    assert broken(found, "crowd_misuse").is_empty()
    assert found.material.boxes["iscrowd"].sum() == expected(shared_data, "coco128-json")["crowd_list_rle"]


@pytest.mark.parametrize("name", ["kitti", "kitti-cropped", "bccd-voc", "nuts-coco-masks"])
def test_with_corrections_no_box_is_invalid_and_nothing_is_lost_in_silence(
    shared_data: Path, name: str
) -> None:
    plain = reviewed(shared_data, name)
    mended = review(plain.material, correct=True)
    again = review(
        type(plain.material)(
            **{**plain.material.__dict__, "boxes": mended.checked.boxes.drop("corrected", "changes")}
        ),
        correct=True,
    )
    errors = [rule.name for rule in RULES]
    assert again.findings.filter(pl.col("rule").is_in(errors)).is_empty()
    lost = plain.material.boxes.height - mended.checked.boxes.height
    assert lost == mended.findings.filter(pl.col("correction") == "dropped").height


def test_the_summary_has_the_lines_and_the_table(shared_data: Path) -> None:
    lines = summarise(reviewed(shared_data, "bccd-voc")).lines()
    assert lines == [
        "Number of total annotations : 4888",
        "Number of invalid annotations : 2",
        "Number of invalid annotations are 0.04 of total annotations,",
        "Number and Percent of annotations with out of bound coordinates 0, 0.0%",
        "Number and Percent of annotations with inverted coordinates 0, 0.0%",
        "Number and Percent of annotations with zero area 2, 0.04%",
        "Review below table to find if data for object tags is imbalanced",
        "  Object_tags  Percentage",
        "0         RBC   84.997953",
        "1         WBC    7.613590",
        "2   Platelets    7.388457",
    ]
