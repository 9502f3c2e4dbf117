from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, DELIVERED_LABELS, DELIVERED_MENTIONS, Delivery
from transforms.formats.detect import read_label
from transforms.images import is_image

KITTI = "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
YOLO = "0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.1 0.3 0.4\n"
VOC = (
    '<?xml version="1.0"?><annotation><size><width>9</width><height>9</height></size><object><name>a</name>'
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>"
)
COCO = (
    '{"images":[{"id":1,"file_name":"a.jpg","width":9,"height":9}],"categories":[{"id":1,"name":"a"}],'
    '"annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[1,1,2,2],"area":4,"segmentation":[[1,1,2,2,1,2]],'
    '"iscrowd":0,"note":"x"}]}'
)
RESULTS = '[{"image_id":1,"category_id":1,"bbox":[1,1,2,2],"score":0.5}]'
DATA_YAML = "nc: 2\nnames:\n  0: a\n  1: b\n"

# How each sample of a format ends: kind/format, or the name by which it is refused.
SAMPLES = {
    "coco_dataset/coco/annotations/captions_train.json": "COCO captions",
    "coco_dataset/coco/annotations/image_info_train.json": "label/coco",
    "coco_dataset/coco/annotations/instances_val.json": "label/coco",
    "coco_dataset/coco/annotations/labels_val.json": "COCO image labels",
    "coco_dataset/coco/annotations/panoptic_train.json": "COCO panoptic segmentation",
    "coco_dataset/coco/annotations/person_keypoints_val.json": "label/coco",
    "coco_dataset/coco/annotations/stuff_train.json": "label/coco",
    "coco_dataset/coco_roboflow/val/_annotations.coco.json": "label/coco",
    "cvat_dataset/test.mp4": "other/other",
    "cvat_dataset/for_images/export_project/annotations.xml": "label/cvat",
    "cvat_dataset/for_images/export_task/train.xml": "label/cvat",
    "cvat_dataset/for_video/annotations.xml": "CVAT XML",
    "kitti_dataset/kitti_3d/training/calib/000001.txt": "other/kitti-calibration",
    "kitti_dataset/kitti_3d/training/label_2/000001.txt": "label/kitti",
    "kitti_dataset/kitti_3d/training/velodyne/000001.bin": "other/other",
    "kitti_dataset/kitti_detection/training/label_2/000030_10.txt": "label/kitti",
    "kitti_dataset/kitti_raw/tracklet_labels.xml": "KITTI raw tracklets",
    "kitti_dataset/kitti_raw/velodyne_points/data/0000000000.pcd": "other/other",
    "labelme_dataset/Annotations/subset1/img1.xml": "LabelMe XML",
    "mot_dataset/mot_seq/gt/gt.txt": "MOT Challenge text",
    "mot_dataset/mot_seq/gt/labels.txt": "classes/classes",
    "mot_dataset/mot_seq_with_seqinfo/seqinfo.ini": "other/other",
    "open_images_dataset/v5/annotations/class-descriptions.csv": "classes/open_images",
    "open_images_dataset/v6/annotations/bbox_labels_600_hierarchy.json": "Open Images class hierarchy",
    "open_images_dataset/v6/annotations/images.meta": "other/other",
    "open_images_dataset/v6/annotations/oidv6-class-descriptions.csv": "classes/open_images",
    "open_images_dataset/v6/annotations/test-annotations-human-imagelabels.csv": "Open Images image labels",
    "open_images_dataset/v6/annotations/train-annotations-object-segmentation.csv": (
        "Open Images segmentation CSV"
    ),
    "open_images_dataset/v6/annotations/oidv6-train-annotations-bbox.csv": "label/open_images",
    "roboflow_dataset/coco/train/_annotations.coco.json": "label/coco",
    "roboflow_dataset/createml/train/_annotations.createml.json": "CreateML JSON",
    "roboflow_dataset/tfrecord/train/train.tfrecord": "label/tfrecord",
    "roboflow_dataset/voc/train/train_001.xml": "label/voc",
    "roboflow_dataset/yolo/data.yaml": "classes/classes",
    "roboflow_dataset/yolo/train/labels/train_001.txt": "label/yolo",
    "roboflow_dataset/yolo_obb/train/labelTxt/train_001.txt": "DOTA oriented boxes",
    "tf_detection_api_dataset/label_map.pbtxt": "classes/tfrecord",
    "tf_detection_api_dataset/train.tfrecord": "label/tfrecord",
    "voc_dataset/voc_dataset1/Annotations/2007_000001.xml": "label/voc",
    "voc_dataset/voc_dataset1/ImageSets/Main/train.txt": "split/split",
    "voc_dataset/voc_dataset1/ImageSets/Main/cat_train.txt": "other/image-set",
    "voc_dataset/voc_dataset1/ImageSets/Segmentation/train.txt": "other/image-set",
    "voc_dataset/voc_dataset2/Annotations/@.xml": "label/voc",
    "voc_dataset/voc_dataset2/labelmap.txt": "other/voc-labelmap",
    "vott_csv_dataset/dataset/train-export.csv": "VoTT CSV",
    "vott_csv_dataset/dataset_with_meta_file/dataset_meta.json": "Datumaro class list",
    "vott_json_dataset/dataset/train-export.json": "VoTT JSON",
    "widerface_dataset/wider_face_split/wider_face_train_bbx_gt.txt": "WIDER FACE text",
    "yolo_dataset/annotations/Annotations/1.txt": "label/yolo",
    "yolo_dataset/labels/README.txt": "other/other",
    "yolo_dataset/strict/obj.data": "other/darknet-data",
    "yolo_dataset/strict/obj.names": "classes/classes",
    "yolo_dataset/strict/train.txt": "split/split",
}


@pytest.mark.parametrize(("path", "end"), SAMPLES.items(), ids=SAMPLES.keys())
def test_a_sample_of_each_format_is_read_or_refused_by_its_name(
    shared_data: Path, path: str, end: str
) -> None:
    data = (shared_data / "formats" / path).read_bytes()
    if "/" in end:
        delivery = read_label(data, path)
        assert f"{delivery.kind}/{delivery.format}" == end
    else:
        with pytest.raises(UnknownFormatError, match=f"recognised as (a )?{end}"):
            read_label(data, path)


def test_no_file_of_any_real_set_ends_in_another_way_than_read_or_refused(shared_data: Path) -> None:
    refused = 0
    for file in sorted(shared_data.rglob("*")):
        if not file.is_file() or file.stat().st_size > 3_000_000:
            continue
        data = file.read_bytes()
        if is_image(data[:64]):
            continue
        end = _end(data, str(file.relative_to(shared_data)))
        refused += isinstance(end, UnreadableError)
        assert isinstance(end, Delivery | UnknownFormatError) or file.suffix in {".png", ".jpg"}
    assert refused > 100


def test_lists_of_box_corners_and_pascal_text_are_refused_by_name(shared_data: Path) -> None:
    for pattern, name in (
        ("ap-reference/voc-map/ground-truth/*.txt", "a list of class, score and corners"),
        ("ap-reference/voc-map/detection-results/*.txt", "a list of class, score and corners"),
        ("pennfudan-masks/Annotation/*.txt", "PASCAL annotation text"),
    ):
        file = min(shared_data.glob(pattern))
        with pytest.raises(UnknownFormatError, match=name):
            read_label(file.read_bytes(), file.name)


@pytest.mark.parametrize(
    ("name", "text", "end"),
    [
        ("labels/a.txt", KITTI, "kitti"),
        ("labels/a", KITTI, "kitti"),
        ("labels/a.label", YOLO, "yolo"),
        ("classes.txt", YOLO, "yolo"),
        ("train.txt", KITTI, "kitti"),
        ("a.voc", VOC, "voc"),
        ("a.txt", VOC, "voc"),
        ("a.txt", COCO, "coco"),
        ("instances", COCO, "coco"),
        ("results.json", RESULTS, "coco"),
    ],
)
def test_content_counts_for_more_than_the_ending(name: str, text: str, end: str) -> None:
    assert read_label(text.encode(), name).format == end


@pytest.mark.parametrize("blank", [b"", b"\n", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_an_empty_text_is_a_negative_sample(blank: bytes) -> None:
    delivery = read_label(blank, "labels/train/a.b.txt")
    assert (delivery.kind, delivery.format, delivery.labels.num_rows) == ("label", "empty", 0)
    (mention,) = delivery.mentions.to_pylist()
    assert (mention["ref"], mention["stem"], mention["instances"]) == ("labels/train/a.b", "a.b", 0)
    assert (mention["kind"], mention["format"]) == ("label", "empty")


@pytest.mark.parametrize("name", ["a.json", "a.xml", "a.jpg", "a.png"])
def test_other_empty_files_are_unreadable(name: str) -> None:
    with pytest.raises(UnreadableError, match="an empty file"):
        read_label(b"", name)


@pytest.mark.parametrize(
    "name", ["train.txt", "classes.txt", "ImageSets/Main/dog_val.txt", "empty.csv", ".gitkeep"]
)
def test_an_empty_list_is_no_negative_sample(name: str) -> None:
    assert read_label(b"", name).kind == "other"


_KITTI = "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44", 1, "14 columns"),
        (
            "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44",
            1,
            "KITTI: 15 columns",
        ),
        ("\n\n0 0.5 0.5 0.25", 3, "4 columns"),
        ("0 0.5 0.5 0.25", 1, "YOLO: class and 4 numbers"),
        ("0, 0.5, 0.5, 0.25, 0.25", 1, "commas between the columns"),
        ("0 320 240 100 50", 1, "the coordinate 320"),
        ("0 320 240 100 50", 1, "YOLO: parts of the image, 0 to 1"),
        ("-1 0.5 0.5 0.25 0.25", 1, "'-1' as class"),
        ("0 nan 0.5 0.25 0.25", 1, "'nan' as the centre's x"),
        (_KITTI.replace("Car", "traffic light"), 1, "a class name with a space in it?"),
        (_KITTI.replace("Car", "3"), 1, "the number 3 as class"),
        (_KITTI.replace("2.63", "inf"), 1, "'inf' as width"),
        (_KITTI.replace(" ", ","), 1, "commas between the columns"),
        ("京A12345", 1, "1 column, "),
        ("some prose about nothing", 1, "KITTI: 15 columns, or 16 with a score; YOLO"),
    ],
)
def test_an_unknown_text_names_the_nearest_form_and_the_line(text: str, line: int, expected: str) -> None:
    with pytest.raises(UnknownFormatError) as error:
        read_label(text.encode(), "labels/a.txt")
    assert error.value.line == line
    assert expected in error.value.message
    assert error.value.message.startswith(f"labels/a.txt, line {line}: ")


def test_boxes_with_keypoints_are_not_read_as_polygons() -> None:
    boxes = "0 0.5 0.5 0.1 0.2 0.4 0.4 2 0.5 0.5 0\n0 0.5 0.5 0.1 0.2 0.4 0.4 1 0.5 0.5 2\n"
    with pytest.raises(UnknownFormatError, match="recognised as YOLO pose"):
        read_label(boxes.encode(), "labels/a.txt")
    assert read_label(b"0 0.5 0.5 0.1 0.2 0.4 0.4 1 0.5 0.5 0\n", "labels/a.txt").format == "yolo"
    with pytest.raises(UnknownFormatError, match="line 2: recognised as YOLO pose"):
        read_label(b"names: [person]\nkpt_shape: [17, 2]\n", "data.yaml")


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("train.tfrecord.gz", b"\x1f\x8b\x08\x00", "compressed records"),
        ("a.jsonl", b'{"filename": "a.jpg", "height": 1}', "line 1: .*expected ODVG"),
    ],
)
def test_a_name_says_what_was_expected(name: str, data: bytes, found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_label(data, name)


def test_open_images_is_known_by_its_head_in_any_file() -> None:
    text = b"ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/01,0.1,0.5,0.2,0.6\n"
    assert read_label(text, "boxes.txt").format == read_label(text, "boxes.csv").format == "open_images"


def test_a_bad_line_among_good_ones_is_named() -> None:
    with pytest.raises(UnreadableError) as error:
        read_label((YOLO + "0 0.5 0.5\n" + YOLO).encode(), "a.txt")
    assert error.value.line == 3


def test_boxes_in_a_file_with_the_name_of_a_class_list_are_not_taken_for_names() -> None:
    with pytest.raises(UnknownFormatError, match="a list of class, score and corners"):
        read_label(b"cup 176 206 225 266\n", "labels.txt")


def test_json_lines_are_refused_by_name() -> None:
    line = b'{"name": "a.jpg", "labels": []}\n'
    with pytest.raises(UnknownFormatError, match="BDD100K JSON"):
        read_label(line * 2, "train.jsonl")


def test_an_unknown_json_names_its_keys() -> None:
    with pytest.raises(UnknownFormatError, match="keys 'name', 'version'; expected COCO"):
        read_label(b'{"name": "x", "version": 1}', "package.json")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("README", b"Car parts"),
        ("README.txt", b"See the licence."),
        ("LICENSE.txt", b"Permission is granted"),
        ("LICENSE", b"MIT"),
        ("notes.md", b"0 0.5 0.5 0.1 0.1"),
        ("convert.py", b"print()"),
        ("measurements.csv", b"time,speed\n1,2\n"),
        (".DS_Store", b"\0\0\0\1Bud1"),
        ("._a.jpg", b"\x00\x05\x16\x07\x00\x02"),
        ("._a.xml", b"\x00\x05\x16\x07\x00\x02"),
        ("model.pth", b"PK\x03\x04"),
        ("notebook.ipynb", b'{"cells": []}'),
        ("unknown.xyz", b"what is this"),
        ("no-ending", b"{ not json"),
    ],
)
def test_files_that_are_no_labels_are_left_alone(name: str, data: bytes) -> None:
    delivery = read_label(data, name)
    assert (delivery.kind, delivery.format) == ("other", "other")
    assert delivery.mentions.num_rows == 0


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("a.txt", b"Car\n0.5 \xff", "byte ff"),
        ("a.txt", KITTI.encode() + b"\0", "a NUL character"),
        ("a.txt", b"\0\1\2\3", "a NUL character"),
        ("a.jpg", b"<html>404</html>", "no image"),
        ("a.json", b"\0\0", "offset 0"),
        ("a.json", RESULTS.encode() + b"\xff", "not UTF-8"),
        ("a.txt", RESULTS.encode() + b" " * 9000 + b"\xff", "not UTF-8"),
        ("a.json", b'{"images": [], "annotations": [', "truncated"),
        ("a.xml", b"not xml", "well-formed XML"),
    ],
)
def test_damaged_files_are_unreadable_with_what_was_found(name: str, data: bytes, found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_label(data, name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("train2017.txt", "train"),
        ("2007_val.txt", "val"),
        ("valid.txt", "val"),
        ("test-dev2017.txt", "test"),
    ],
)
def test_a_list_of_images_takes_its_split_from_its_name(name: str, split: str) -> None:
    data = b"./images/train2017/a b.jpg\r\n/data/set/images/c.v1.PNG\r\n..\\images\\d.jpeg\r\n"
    delivery = read_label(data, name)
    assert (delivery.kind, delivery.format) == ("split", "split")
    assert delivery.mentions["split"].to_pylist() == [split] * 3
    assert delivery.mentions["ref"].to_pylist() == [
        "images/train2017/a b",
        "data/set/images/c.v1",
        "images/d",
    ]
    assert delivery.mentions["stem"].to_pylist() == ["a b", "c.v1", "d"]


def test_a_list_of_images_without_a_split_in_its_name_is_left_alone() -> None:
    assert read_label(b"a.jpg\nb.jpg\n", "all.txt").format == "image-list"


def test_errors_survive_the_way_between_processes() -> None:
    with pytest.raises(UnknownFormatError) as error:
        read_label(b"0 0.5", "a.txt")
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), again.message, again.line) == (UnknownFormatError, error.value.message, 1)


def _end(data: bytes, path: str) -> Delivery | UnreadableError:
    try:
        delivery = read_label(data, path)
    except UnreadableError as error:
        return error
    _check(delivery)
    return delivery


def _check(delivery: Delivery) -> None:
    """What holds for every delivery: schemas, and mentions that account for all labels."""
    assert delivery.kind in {"label", "classes", "split", "other"}
    assert delivery.labels.schema.equals(DELIVERED_LABELS)
    assert delivery.mentions.schema.equals(DELIVERED_MENTIONS)
    assert delivery.categories.schema.equals(DELIVERED_CATEGORIES)
    delivery.labels.validate(full=True)
    rows = delivery.labels.to_pylist()
    assert [row["instance"] for row in rows] == list(range(len(rows)))
    counts = dict.fromkeys(delivery.mentions["ref"].to_pylist(), 0)
    for row in rows:
        counts[row["ref"]] += 1
        assert row["bbox"] is None or len(row["bbox"]) == 4
        json.loads(row["attributes"] or "{}")
        json.loads(row["segmentation"] or "[]")
    told = zip(delivery.mentions["ref"].to_pylist(), delivery.mentions["instances"].to_pylist(), strict=True)
    if delivery.kind == "label":
        totals = dict.fromkeys(counts, 0)
        for ref, instances in told:
            totals[ref] += instances or 0
        assert totals == counts


_seeds = st.sampled_from([KITTI, YOLO, VOC, COCO, RESULTS, DATA_YAML, "a/b.jpg\nc.png\n", "cat\ndog\n"])
_names = st.sampled_from(
    [
        "a.txt",
        "a.xml",
        "a.json",
        "data.yaml",
        "obj.names",
        "train.txt",
        "ImageSets/Main/train.txt",
        "a",
        "a.csv",
        "a.x",
    ]
)
_bits = st.sampled_from(
    [
        b"",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"nan",
        b"-inf",
        b"1e999",
        b"9" * 400,
        b"<",
        b"&a;",
        b"[",
        b"{",
        b"]",
        b"}",
        b'"',
        b",",
        b"\\ud800",
        b"\\u0000",
        b"null",
        b"true",
        b"[[[[[[",
        b"*a",
        b"&a [",
        b"!!python/name:os.system ",
        b"\xf0\x9f",
    ]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(_names, _seeds, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 12), _bits), max_size=4))
def test_damage_anywhere_gives_a_reading_or_a_clear_error(
    name: str, seed: str, damage: list[tuple[int, int, bytes]]
) -> None:
    data = seed.encode()
    for position, length, bits in damage:
        place = position % (len(data) + 1)
        data = data[:place] + bits + data[place + length :]
    end = _end(data, name)
    assert isinstance(end, Delivery) or name in end.message


@settings(max_examples=200, deadline=None)
@given(_names, st.binary(max_size=200))
def test_any_bytes_give_a_reading_or_a_clear_error(name: str, data: bytes) -> None:
    end = _end(data, name)
    assert isinstance(end, Delivery) or name in end.message


_key = st.sampled_from(
    [
        "images",
        "annotations",
        "categories",
        "id",
        "image_id",
        "category_id",
        "bbox",
        "segmentation",
        "file_name",
        "name",
        "iscrowd",
        "area",
        "score",
        "width",
        "height",
        "caption",
        "segments_info",
        "labels",
    ]
)
_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_key, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(_key, _value, max_size=5)
    | st.lists(st.dictionaries(_key, _value, max_size=5), max_size=3)
)
def test_any_json_with_the_keys_of_coco_gives_a_reading_or_a_clear_error(document: object) -> None:
    end = _end(json.dumps(document).encode(), "a.json")
    assert isinstance(end, Delivery) or "a.json" in end.message
