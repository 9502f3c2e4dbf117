from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.delivery import Delivery
from transforms.formats.classes import read_data_yaml, read_names
from transforms.formats.detect import read_label
from transforms.formats.yolo import read_yolo


def _read_all(folder: Path) -> list[Delivery]:
    return [
        read_label(file.read_bytes(), str(file.relative_to(folder))) for file in sorted(folder.rglob("*.txt"))
    ]


def test_coco128_gives_the_counted_boxes_and_classes(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())["coco128-yolo"]
    deliveries = _read_all(shared_data / "coco128-yolo" / "labels")
    labels = pa.concat_tables([delivery.labels for delivery in deliveries])
    assert len(deliveries) == expected["label_files"]
    assert {delivery.format for delivery in deliveries} == {"yolo"}
    assert labels.num_rows == expected["boxes"]
    assert len(set(labels["category_id"].to_pylist())) == expected["classes_present"]
    assert labels["category"].null_count == labels.num_rows
    for stem, count in expected["label_without_image"].items():
        assert labels["stem"].to_pylist().count(stem) == count


def test_coco128_polygons_are_counted_and_empty_files_are_negative_samples(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())["coco128-yolo"]
    deliveries = _read_all(shared_data / "coco128-yolo" / "labels-segment")
    labels = pa.concat_tables([delivery.labels for delivery in deliveries])
    assert len(deliveries) == expected["segment_label_files"]
    assert labels.num_rows == expected["segment_polygons"]
    assert Counter(delivery.format for delivery in deliveries)["empty"] == expected["segment_empty_files"]
    outside = [
        value
        for text in labels["segmentation"].to_pylist()
        for polygon in json.loads(text)
        for value in polygon
        if not 0 <= value <= 1
    ]
    assert len(outside) == expected["segment_points_outside"]


def test_darknet_pairs_are_read_with_their_names_and_their_list(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())["yolo-darknet-pairs"]
    root = shared_data / "yolo-darknet-pairs"
    found = {
        str(file.relative_to(root)): read_label(file.read_bytes(), str(file.relative_to(root)))
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.suffix != ".jpg"
    }
    names = found["data/obj.names"].categories
    by_number = dict(zip(names["category_id"].to_pylist(), names["category"].to_pylist(), strict=True))
    numbers = [n for d in found.values() for n in d.labels["category_id"].to_pylist()]
    assert Counter(by_number[number] for number in numbers) == expected["classes"]
    listed = found["data/train.txt"].mentions
    assert (found["data/train.txt"].kind, set(listed["split"].to_pylist())) == ("split", {"train"})
    assert listed.num_rows == expected["train_txt_lines"]
    assert {f"{ref}.jpg" for ref in listed["ref"].to_pylist()} >= set(expected["train_txt_missing"])
    assert (found["data/obj.data"].kind, found["data/obj.data"].format) == ("other", "darknet-data")
    assert {found["README.md"].kind, found["LICENSE"].kind} == {"other"}


def test_a_box_stays_in_parts_of_the_image() -> None:
    (row,) = read_yolo(b"51 0.284375 0.108333 0.2 0.145833", "labels/train/a.b.txt").labels.to_pylist()
    assert row["bbox"] == [0.284375, 0.108333, 0.2, 0.145833]
    assert (row["bbox_mode"], row["category_id"], row["category"]) == ("cxcywh_norm", 51, None)
    assert (row["ref"], row["stem"], row["score"]) == ("labels/train/a.b", "a.b", None)


def test_a_sixth_column_is_the_score() -> None:
    assert read_yolo(b"3 0.5 0.5 0.2 0.1 0.75", "a.txt").labels["score"].to_pylist() == [0.75]


def test_a_polygon_gives_its_extent_as_box_and_itself_as_segmentation() -> None:
    (row,) = read_yolo(b"1 0.25 0.25 0.75 0.5 0.5 1.0", "a.txt").labels.to_pylist()
    assert row["bbox"] == [0.5, 0.625, 0.5, 0.75]
    assert json.loads(row["segmentation"]) == [[0.25, 0.25, 0.75, 0.5, 0.5, 1.0]]


_part = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(_part, _part), min_size=3, max_size=30))
def test_the_box_of_a_polygon_encloses_every_point_and_no_more(points: list[tuple[float, float]]) -> None:
    data = "7 " + " ".join(f"{x!r} {y!r}" for x, y in points)
    cx, cy, width, height = read_yolo(data.encode(), "a.txt").labels["bbox"].to_pylist()[0]
    xs, ys = zip(*points, strict=True)
    assert (cx - width / 2, cx + width / 2) == pytest.approx((min(xs), max(xs)), abs=1e-12)
    assert (cy - height / 2, cy + height / 2) == pytest.approx((min(ys), max(ys)), abs=1e-12)


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b"0 0.5 0.5 0.1", "4 columns"),
        (b"0 " + b"0.5 " * 55, "56 columns"),
        (b"-1 0.5 0.5 0.1 0.1", "'-1' as class"),
        (b"1.5 0.5 0.5 0.1 0.1", "'1.5' as class"),
        (b"0 0.5 nan 0.1 0.1", "'nan' as the centre's y"),
        (b"0 320 240 100 50", "the coordinate 320"),
        (b"99999999999999999999 0.5 0.5 0.1 0.1", "as class"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_what_was_found(bad: bytes, found: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read_yolo(b"0 0.5 0.5 0.1 0.1\n" + bad, "a.txt")
    assert error.value.line == 2
    assert found in error.value.message


def test_a_box_a_little_past_the_edge_is_for_the_rules_to_judge() -> None:
    assert read_yolo(b"0 0.99 0.5 0.1 1.2", "a.txt").labels.num_rows == 1


def _names(delivery: Delivery | None) -> dict[int, str]:
    assert delivery is not None
    assert delivery.kind == "classes"
    table = delivery.categories
    return dict(zip(table["category_id"].to_pylist(), table["category"].to_pylist(), strict=True))


def test_the_names_of_a_data_yaml_are_read_as_list_and_as_mapping(shared_data: Path) -> None:
    config = (shared_data / "coco128-yolo" / "config.yaml").read_bytes()
    assert len(_names(read_label(config, "config.yaml"))) == 80
    assert _names(read_label(b"nc: 2\nnames: [cat, dog]\n", "data.yaml")) == {0: "cat", 1: "dog"}
    assert _names(read_label(b"names:\n  3: cat\n  7: dog\n", "data.yaml")) == {3: "cat", 7: "dog"}


def test_names_that_yaml_takes_for_other_types_stay_as_they_are_written() -> None:
    assert _names(read_data_yaml(b"names: [no, 1.50, ~, 2024-01-01, on]", "data.yaml")) == {
        0: "no",
        1: "1.50",
        2: "~",
        3: "2024-01-01",
        4: "on",
    }


def test_a_name_per_line_counts_from_zero_and_a_blank_line_keeps_its_number() -> None:
    assert _names(read_names(b"\xef\xbb\xbfcat\r\n\r\ntraffic light\r\n", "obj.names")) == {
        0: "cat",
        2: "traffic light",
    }
    assert _names(read_label(b"cat\ndog\n", "below/classes.txt")) == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("data", "line", "found"),
    [
        (b"a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n", 2, "alias"),
        (b"names: " + b"[" * 500 + b"]" * 500, 1, "levels"),
        (b"names: [a, b\nnc: 2", 2, "expected"),
        (b"nc: 3\nnames: [a, b]", 1, "nc: 3 and 2 names"),
        (b"names:\n  0: a\n  0: b", 3, "class 0 twice"),
        (b"names:\n  zero: a", 2, "'zero' as class number"),
        (b"names:\n- [a]", 2, "as class name"),
        (b"names: !!python/object/apply:os.system [ls]", None, None),
    ],
)
def test_hostile_or_contradictory_yaml_is_refused_with_its_line(
    data: bytes, line: int | None, found: str | None
) -> None:
    if found is None:
        # A tag that would call something elsewhere is a mere list here.
        assert _names(read_label(data, "data.yaml")) == {0: "ls"}
        return
    with pytest.raises(UnreadableError) as error:
        read_label(data, "data.yaml")
    assert found in error.value.message
    assert error.value.line == line


def test_yaml_that_is_no_data_set_is_left_alone() -> None:
    assert read_label(b"on: push\njobs: {}\n", ".github/workflows/ci.yml").kind == "other"
    assert read_label(b"names: path/to/file", "data.yaml").kind == "other"
