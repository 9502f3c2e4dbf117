from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.errors import UnreadableError
from transforms.formats.detect import read_label
from transforms.formats.labelme import read_labelme


def _shape(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {
        "label": "traffic light",
        "points": points,
        "group_id": None,
        "shape_type": kind,
        "flags": {},
    } | more


def _png(*rows: str) -> str:
    """Rows of 0 and 1 as a picture in base64."""
    file = io.BytesIO()
    Image.fromarray(np.array([[int(c) * 255 for c in row] for row in rows], np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _file(*shapes: dict[str, Any], **more: Any) -> bytes:
    document = {
        "version": "5.4.1",
        "flags": {"night": True},
        "shapes": list(shapes),
        "imagePath": "../images/a.b.jpg",
        "imageData": "QUJD",
        "imageHeight": 48,
        "imageWidth": 64,
    }
    return json.dumps(document | more).encode()


def test_each_shape_becomes_its_box() -> None:
    data = _file(
        _shape("rectangle", [[30, 40], [10, 20.5]]),
        _shape("polygon", [[1, 2], [5, 2], [3, 9]], description="bent"),
        _shape("circle", [[10, 10], [13, 14]]),
        _shape("line", [[0, 0], [5, 5]]),
        _shape("mask", [[1, 1], [4, 5]], mask=_png("0110", "0111", "0000", "0000", "0000")),
    )
    delivery = read_label(data, "set/labels/a.b.json")
    assert delivery.format == "labelme"
    rows = delivery.labels.to_pylist()
    assert [row["bbox"] for row in rows] == [
        [10, 20.5, 30, 40],
        [1, 2, 5, 9],
        [5, 5, 15, 15],
        None,
        [2, 1, 5, 3],
    ]
    polygon, mask = "[[1.0,2.0,5.0,2.0,3.0,9.0]]", json.loads(rows[4]["segmentation"])
    assert [row["segmentation"] for row in rows[:4]] == [None, polygon, None, None]
    # Down the columns of 48 pixels: the third begins after 97 of background.
    assert mask == {"size": [48, 64], "counts": [97, 2, 46, 2, 47, 1, 2877]}
    kept = [json.loads(row["attributes"]) for row in rows]
    assert kept[0]["points"] == [[30, 40], [10, 20.5]]
    assert kept[1] == {"shape_type": "polygon", "group_id": None, "flags": {}, "description": "bent"}
    assert {row["category"] for row in rows} == {"traffic light"}
    (mention,) = delivery.mentions.to_pylist()
    assert (mention["ref"], mention["width"], mention["height"]) == ("set/images/a.b", 64, 48)
    assert json.loads(mention["attributes"]) == {
        "imagePath": "../images/a.b.jpg",
        "version": "5.4.1",
        "flags": {"night": True},
    }


@pytest.mark.parametrize(
    ("image", "ref"),
    [
        ("a.jpg", "labels/a"),
        ("C:\\Users\\me\\a.jpg", "labels/a"),
        ("/home/me/a.jpg", "labels/a"),
        ("..\\images\\a.jpg", "images/a"),
        ("", "labels/x"),
        (None, "labels/x"),
    ],
)
def test_the_image_is_the_one_beside_the_file(image: str | None, ref: str) -> None:
    delivery = read_labelme(_file(imagePath=image), "labels/x.json")
    assert delivery.mentions["ref"].to_pylist() == [ref]
    assert delivery.mentions["instances"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (_shape("polygon", [[1, 2], [3, 4]]), r"2 points of a polygon at `\$.shapes\[1\]`"),
        (_shape("circle", [[1, 2], [3, 4], [5, 6]]), "3 points of a circle"),
        (_shape("rectangle", [[1, 2], [3]]), "2 points of a rectangle"),
        (_shape("spiral", [[1, 2]]), "the shape_type 'spiral'"),
        ({"points": []}, "missing required field `label`"),
        (_shape("mask", [[1, 1], [4, 5]], mask="iVBORw0KGgo="), r"at `\$.shapes\[1\].mask`"),
        (_shape("mask", [[1, 1], [4, 5]], mask="no base64"), r"at `\$.shapes\[1\].mask`"),
        (_shape("mask", [[63, 1], [64, 1]], mask=_png("11")), "a mask of 2x1 at 63,1 in 64x48"),
    ],
)
def test_a_wrong_shape_is_named(shape: dict[str, Any], found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_label(_file(_shape("point", [[1, 1]]), shape), "a.json")


def test_a_file_that_names_no_image_is_of_the_one_beside_it() -> None:
    document = {"shapes": [_shape("point", [[1, 1]]) | {"label": ""}], "imageHeight": 3, "imageWidth": 4}
    delivery = read_label(json.dumps(document).encode(), "labels/x.json")
    assert delivery.mentions["ref"].to_pylist() == ["labels/x"]
    assert delivery.labels["category"].to_pylist() == [None]


WHOLE = _file(_shape("polygon", [[1, 2], [5, 2], [3, 9]]), _shape("circle", [[1, 2], [5, 2]]))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4), st.integers(0, 8))
def test_damage_ends_in_a_reading_or_a_clear_error(place: int, bytes_: bytes, gone: int) -> None:
    data = WHOLE[:place] + bytes_ + WHOLE[place + gone :]
    for read in (read_labelme, read_label):
        with suppress(UnreadableError):
            read(data, "a.json")
