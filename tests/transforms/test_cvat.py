from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnknownFormatError, UnreadableError
from transforms.formats.cvat import read_cvat
from transforms.formats.detect import read_label


def _file(inner: str, size: str = 'width="10" height="8"') -> bytes:
    image = f'<image id="3" name="d/a b.jpg" {size}>{inner}</image>'
    return f"<annotations><version>1.1</version>\n{image}</annotations>".encode()


def test_a_task_gives_its_four_shapes(shared_data: Path) -> None:
    path = "formats/cvat_dataset/for_images/export_task/train.xml"
    delivery = read_label((shared_data / path).read_bytes(), "train.xml")
    rows = delivery.labels.to_pylist()
    assert [(row["ref"], row["category"], row["bbox"]) for row in rows] == [
        ("img0", "label1", [0, 2, 4, 4]),
        ("img0", None, None),
        ("img1", None, [1, 2, 6, 5]),
        ("img1", "label2", None),
    ]
    box, line = (json.loads(row["attributes"]) for row in rows[:2])
    assert box == {
        "shape": "box",
        "occluded": "1",
        "z_order": "1",
        "attribute": {"a1": "true", "a2": "v3", "a3": "0003", "a4": "2.4"},
    }
    assert line["points"] == "1.0,2;3,4;5,6;7,8"
    assert rows[2]["segmentation"] == "[[1.0,2.0,3.0,4.0,6.0,5.0]]"
    *images, of_file = delivery.mentions.to_pylist()
    sizes = [(row["width"], row["height"], row["instances"]) for row in images]
    assert sizes == [(8, 8, 2), (10, 10, 2)]
    assert (of_file["kind"], of_file["ref"]) == ("file", "train")
    labels = json.loads(of_file["attributes"])["meta"]["task"]["labels"]["label"]
    assert [label["name"] for label in labels][:2] == ["label1", "label2"]


def test_an_attribute_that_comes_twice_is_kept_twice() -> None:
    inner = '<attribute name="a">1</attribute><attribute name="a">2</attribute>'
    box = f'<box label="a" xtl="1" ytl="1" xbr="2" ybr="2">{inner}</box>'
    (row,) = read_cvat(_file(box), "a.xml").labels.to_pylist()
    assert json.loads(row["attributes"])["attribute"] == {"a": ["1", "2"]}


def test_a_project_keeps_its_subsets_apart_and_says_the_splits(shared_data: Path) -> None:
    path = "formats/cvat_dataset/for_images/export_project/annotations.xml"
    delivery = read_label((shared_data / path).read_bytes(), "annotations.xml")
    assert delivery.labels.num_rows == 12
    mentions = delivery.mentions.to_pylist()
    images = [row["ref"] for row in mentions if row["kind"] == "label"]
    assert images == [f"{subset}/img{n}" for subset in ("Test", "Train", "Validation") for n in (0, 1)]
    splits = {row["ref"]: row["split"] for row in mentions if row["kind"] == "split"}
    assert Counter(splits.values()) == {"test": 2, "train": 2, "val": 2}


def test_a_video_is_refused_by_name(shared_data: Path) -> None:
    path = "formats/cvat_dataset/for_video/annotations.xml"
    with pytest.raises(UnknownFormatError, match="recognised as CVAT XML for video"):
        read_label((shared_data / path).read_bytes(), "annotations.xml")


def test_a_turned_box_is_its_corners_and_their_extent() -> None:
    inner = '<box label="car" xtl="2" ytl="3" xbr="6" ybr="5" rotation="90.0"/>'
    (row,) = read_cvat(_file(inner), "a.xml").labels.to_pylist()
    assert row["bbox"] == pytest.approx([3, 2, 5, 6])
    assert json.loads(row["segmentation"])[0] == pytest.approx([5, 2, 5, 6, 3, 6, 3, 2])
    assert json.loads(row["attributes"])["rotation"] == "90.0"


def test_ellipses_and_cuboids_have_their_extent() -> None:
    corners = " ".join(
        f'x{c}{n}="{x}" y{c}{n}="{y}"'
        for n, step in ((1, 0), (2, 2))
        for c, x, y in (("tl", 1, 1 + step), ("bl", 1, 5), ("tr", 3 + step, 1), ("br", 3, 5 + step))
    )
    inner = f'<ellipse label="a" cx="5" cy="4" rx="2" ry="1" rotation="90"/><cuboid label="b" {corners}/>'
    boxes = read_cvat(_file(inner), "a.xml").labels["bbox"].to_pylist()
    assert boxes[0] == pytest.approx([4, 2, 6, 6])
    assert boxes[1] == [1, 1, 5, 7]


def test_a_mask_becomes_run_lengths_of_the_whole_image() -> None:
    # Two rows of three pixels at (4, 2): background, two in the first row; one, then background below.
    inner = '<mask label="a" rle="1,3,2" left="4" top="2" width="3" height="2"/>'
    (row,) = read_cvat(_file(inner), "a.xml").labels.to_pylist()
    # Columns of 8: (4,3) is 35, (5,2) is 42, (6,2) is 50.
    assert json.loads(row["segmentation"]) == {"size": [8, 10], "counts": [35, 1, 6, 1, 7, 1, 29]}
    assert row["bbox"] == [4, 2, 7, 4]


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        ('<box xtl="1" ytl="1" xbr="2" ybr="2"/>', "line 2: <box> without a label"),
        ('<box label="a" xtl="1" ytl="1" xbr="2"/>', "<box> without ybr"),
        ('<box label="a" xtl="1" ytl="1" xbr="2" ybr="nan"/>', "'nan' as ybr"),
        ('<polygon label="a" points="1,2;3,4"/>', "a polygon of 2 points"),
        ('<polygon label="a" points="1,2;3;4,5"/>', "the point '3'"),
        ('<mask label="a" rle="1,3" left="4" top="2" width="3" height="2"/>', "runs of 4 pixels for 3x2"),
        ('<mask label="a" rle="6" left="8" top="2" width="3" height="2"/>', "a mask of 3x2 at 8,2 in 10x8"),
        ('<mask label="a" rle="-6,12" left="4" top="2" width="3" height="2"/>', "runs of 6 pixels"),
        ('<cuboid label="a" xtl1="1"/>', "<cuboid> without"),
    ],
)
def test_a_wrong_shape_is_named_with_its_line(inner: str, found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_label(_file(inner), "a.xml")


WHOLE = _file(
    '<box label="a" xtl="1" ytl="1" xbr="2" ybr="2" rotation="3"><attribute name="n">v</attribute></box>'
    '<mask label="a" rle="1,3,2" left="4" top="2" width="3" height="2"/>'
    '<polygon label="a" points="1,2;3,4;5,6"/>'
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(WHOLE) - 1),
    st.binary(max_size=4) | st.sampled_from([b"9" * 12, b"1e300"]),
    st.integers(0, 6),
)
def test_damage_ends_in_a_reading_or_a_clear_error(place: int, bytes_: bytes, gone: int) -> None:
    data = WHOLE[:place] + bytes_ + WHOLE[place + gone :]
    for read in (read_cvat, read_label):
        with suppress(UnreadableError):
            read(data, "a.xml")
