from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.formats.detect import read_label
from transforms.formats.open_images import read_open_images
from transforms.normalise import corners

HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
FOLDER = "formats/open_images_dataset/v6/annotations"


def test_the_samples_give_one_box_each(shared_data: Path) -> None:
    data = (shared_data / FOLDER / "test-annotations-bbox.csv").read_bytes()
    delivery = read_label(data, "test-annotations-bbox.csv")
    (row,) = delivery.labels.to_pylist()
    assert (row["ref"], row["category"], row["line"]) == ("c", "/m/3", 2)
    assert (row["bbox"], row["bbox_mode"]) == ([0.7, 0, 0.8, 0.5], "xyxy_norm")
    assert row["iscrowd"]
    assert row["ignore"]
    assert json.loads(row["attributes"])["Confidence"] == "0.7"
    assert delivery.mentions["instances"].to_pylist() == [1]
    data = (shared_data / FOLDER / "oidv6-train-annotations-bbox.csv").read_bytes()
    (row,) = read_label(data, "train.csv").labels.to_pylist()
    assert (row["ref"], row["bbox"], row["iscrowd"]) == ("b", [0.2, 0.3, 1, 0.5], False)


@pytest.mark.parametrize(
    "path", ["v5/annotations/class-descriptions.csv", "v6/annotations/oidv6-class-descriptions.csv"]
)
def test_class_descriptions_are_read_with_and_without_a_header(shared_data: Path, path: str) -> None:
    data = (shared_data / "formats/open_images_dataset" / path).read_bytes()
    rows = read_label(data, "class-descriptions.csv").categories.to_pylist()
    assert [row["category"] for row in rows] == [f"Generic label #{n}" for n in range(len(rows))]
    assert json.loads(rows[1]["attributes"]) == {"LabelName": "/m/1"}


def test_blank_lines_and_commas_in_names_are_no_trouble() -> None:
    data = b'LabelName,DisplayName\n\n/m/01,"Cat, big"\n/m/02,Dog\n\n'
    for text in (data, data.split(b"\n", 2)[2]):
        names = read_label(text, "classes.csv").categories["category"].to_pylist()
        assert names == ["Cat, big", "Dog"]


def test_an_id_with_the_ending_of_an_image_is_the_image_without_it() -> None:
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax\n"
    rows = "a/b.c.JPG,/m/01,0.1,0.5,0.2,0.6\n\na/b.c,/m/01,0.1,0.5,0.2,0.7\n"
    delivery = read_label((head + rows).encode(), "boxes.csv")
    assert delivery.mentions.select(["ref", "stem", "instances"]).to_pylist() == [
        {"ref": "a/b.c", "stem": "b.c", "instances": 2}
    ]
    assert delivery.labels["line"].to_pylist() == [2, 4]


def test_boxes_of_one_image_may_stand_apart() -> None:
    text = HEAD + "a,x,/m/1,1,0,.5,0,1,0,0,0\nb,x,/m/2,1,0,1,0,1,0,0,1\na,x,/m/1,1,0.25,0.5,0,1,0,0,0\n"
    delivery = read_open_images(text.encode(), "a.csv")
    assert delivery.labels["ref"].to_pylist() == ["a", "b", "a"]
    assert dict(
        zip(delivery.mentions["ref"].to_pylist(), delivery.mentions["instances"].to_pylist(), strict=True)
    ) == {
        "a": 2,
        "b": 1,
    }
    frame = pl.from_arrow(delivery.labels)
    assert isinstance(frame, pl.DataFrame)
    absolute = corners(frame.with_columns(width=pl.lit(640), height=pl.lit(480)))
    assert absolute.select("xmin", "ymin", "xmax", "ymax").row(2) == (160, 0, 320, 480)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a,x,/m/1,1,0,half,0,1,0,0,0", "line 3: 'half' as XMax"),
        ("a,x,/m/1,1,0,nan,0,1,0,0,0", "line 3: 'nan' as XMax"),
        ("a,x,/m/1,1,0,1e999,0,1,0,0,0", "line 3: '1e999' as XMax"),
        ("a,x,/m/1,1,0,,0,1,0,0,0", "line 3: None as XMax"),
        (",x,/m/1,1,0,1,0,1,0,0,0", "line 3: None as ImageID"),
        ("a,x,/m/1,1,0,1,0,1,0,0,0,0,0", "line 3: 13 cells"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(row: str, found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_label((HEAD + "a,x,/m/1,1,0,1,0,1,0,0,0\n" + row + "\n").encode(), "boxes.csv")


WHOLE = (HEAD + 'a,x,/m/1,1,0,0.5,0,1,0,0,0\n"b,",x,/m/2,1,0,1,0,1,0,0,1\n').encode()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(WHOLE) - 1),
    st.binary(max_size=4) | st.sampled_from([b'"', b"\n", b","]),
    st.integers(0, 8),
)
def test_damage_ends_in_a_reading_or_a_clear_error(place: int, bytes_: bytes, gone: int) -> None:
    data = WHOLE[:place] + bytes_ + WHOLE[place + gone :]
    for read in (read_open_images, read_label):
        with suppress(UnreadableError):
            read(data, "a.csv")
