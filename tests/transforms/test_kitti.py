from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.formats.kitti import read_kitti

CAR = b"Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
DONT_CARE = b"DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"


@pytest.mark.parametrize("name", ["kitti", "kitti-cropped"])
def test_real_frames_give_the_counted_lines_and_classes(shared_data: Path, name: str) -> None:
    expected = json.loads((shared_data / "expected-counts.json").read_text())[name]
    files = sorted((shared_data / name).rglob("label_2/*.txt"))
    deliveries = [read_kitti(file.read_bytes(), f"label_2/{file.name}") for file in files]
    labels = pa.concat_tables([delivery.labels for delivery in deliveries])
    mentions = pa.concat_tables([delivery.mentions for delivery in deliveries])

    assert len(files) == expected["label_files"]
    assert labels.num_rows == sum(mentions["instances"].to_pylist()) == expected["lines"]
    assert Counter(labels["category"].to_pylist()) == expected["classes"]
    objects = [row for row in labels.to_pylist() if not row["ignore"]]
    assert len(objects) == expected["objects_without_dontcare"]
    assert Counter(str(row["occlusion"]) for row in objects) == expected["occluded"]
    assert sum(row["truncation"] > 0 for row in objects) == expected["truncated_above_0"]


def test_every_column_of_a_line_has_its_place_and_its_digits() -> None:
    (row,) = read_kitti(CAR, "training/label_2/000001.txt").labels.to_pylist()
    assert row["category"] == "Car"
    assert row["bbox"] == [599.41, 156.40, 629.75, 189.25]
    assert row["bbox_mode"] == "xyxy"
    assert (row["truncation"], row["occlusion"], row["score"]) == (0.0, 0, None)
    assert (row["ref"], row["stem"], row["line"]) == ("training/label_2/000001", "000001", 1)
    assert row["attributes"] == (
        '{"alpha":-1.57,"dimensions":[2.85,2.63,12.34],"location":[0.47,1.49,69.44],"rotation_y":-1.56}'
    )


def test_dont_care_regions_are_kept_and_ignored() -> None:
    rows = read_kitti(CAR + DONT_CARE, "a.txt").labels.to_pylist()
    assert [row["ignore"] for row in rows] == [False, True]
    assert (rows[1]["truncation"], rows[1]["occlusion"]) == (-1.0, -1)


def test_a_sixteenth_column_is_the_score() -> None:
    (row,) = read_kitti(CAR.strip() + b" 0.87", "a.txt").labels.to_pylist()
    assert row["score"] == 0.87


def test_digits_that_json_does_not_allow_are_quoted_rather_than_changed() -> None:
    line = CAR.replace(b"-1.57", b"+1.5").replace(b"2.85", b".85").replace(b"2.63", b"007")
    (row,) = read_kitti(line, "a.txt").labels.to_pylist()
    assert json.loads(row["attributes"])["alpha"] == "+1.5"
    assert json.loads(row["attributes"])["dimensions"][:2] == [".85", "007"]


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbf" + CAR, CAR.replace(b"\n", b"\r\n"), CAR.decode().encode("utf-16")]
)
def test_byte_order_marks_and_windows_line_ends_change_nothing(data: bytes) -> None:
    assert read_kitti(data, "a.txt").labels.equals(read_kitti(CAR, "a.txt").labels)


def test_blank_lines_are_no_objects_but_keep_the_count_of_lines() -> None:
    assert read_kitti(CAR + b"\n  \n" + CAR, "a.txt").labels["line"].to_pylist() == [1, 4]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b"Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44", "14 columns"),
        (b"Traffic light 0 0 0 1 2 3 4 0 0 0 0 0 0 0 0.5", "17 columns (a class name with a space in it?)"),
        (CAR.replace(b"599.41", b"nan"), "'nan' as left"),
        (CAR.replace(b"599.41", b"1e999"), "'1e999' as left"),
        (CAR.replace(b"599.41", b"5_9"), "'5_9' as left"),
        (CAR.replace(b" 0 ", b" 0.5 "), "0.5 as occluded"),
        (CAR.replace(b"-1.57", b"left"), "'left' as alpha"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_what_was_found(bad: bytes, found: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read_kitti(CAR + bad, "label_2/000001.txt")
    assert error.value.line == 2
    assert found in error.value.message
    assert error.value.message.startswith("label_2/000001.txt, line 2: ")


_number = st.decimals(-10_000, 10_000, places=2).map(str)
_line = st.tuples(
    st.from_regex(r"[A-Za-z_]{1,12}", fullmatch=True),
    _number,
    st.integers(-1, 3).map(str),
    *[_number] * 12,
)


@given(st.lists(_line, min_size=1, max_size=6))
def test_what_is_read_can_be_written_again_with_the_same_numbers(lines: list[tuple[str, ...]]) -> None:
    data = "\n".join(" ".join(words) for words in lines).encode()
    rows = read_kitti(data, "a.txt").labels.to_pylist()
    for words, row in zip(lines, rows, strict=True):
        kept = json.loads(row["attributes"], parse_float=str, parse_int=str)
        again = [
            row["category"],
            row["truncation"],
            row["occlusion"],
            kept["alpha"],
            *row["bbox"],
            *kept["dimensions"],
            *kept["location"],
            kept["rotation_y"],
        ]
        assert [str(value) for value in again[3:4] + again[8:]] == [*words[3:4], *words[8:]]
        assert [float(value) for value in again[1:]] == [float(word) for word in words[1:]]
        assert again[0] == words[0]
