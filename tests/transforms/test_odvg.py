from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnreadableError
from transforms.formats.detect import read_label
from transforms.formats.odvg import read_odvg

DETECTION = {
    "file_name": "d/a.b.jpg",
    "height": 48,
    "width": 64,
    "image_id": 5,
    "detection": {
        "instances": [
            {"bbox": [1, 2.5, 3, 4], "label": 0, "category": "cat", "mask": [[1, 2, 3, 4, 5, 6]]},
            {"bbox": [1, 2, 3, 4], "label": 7, "note": 1.50},
        ]
    },
}
GROUNDING = {
    "filename": "b.jpg",
    "height": 4,
    "width": 6,
    "grounding": {"caption": "two cats", "regions": [{"bbox": [0, 0, 1, 1], "phrase": ["cats", "two"]}]},
}
LINES = "\n".join(map(json.dumps, [DETECTION, GROUNDING])).encode()


def test_detections_and_phrases_are_rows_of_the_image_of_their_line() -> None:
    delivery = read_label(LINES + b"\n\n", "train.jsonl")
    assert (delivery.kind, delivery.format) == ("label", "odvg")
    first, second, third = delivery.labels.to_pylist()
    assert (first["ref"], first["stem"], first["line"]) == ("d/a.b", "a.b", 1)
    assert (first["category_id"], first["category"], first["bbox"]) == (0, "cat", [1, 2.5, 3, 4])
    assert (first["segmentation"], first["bbox_mode"]) == ("[[1,2,3,4,5,6]]", "xyxy")
    assert (second["category_id"], second["category"], second["attributes"]) == (7, None, '{"note":1.5}')
    assert (third["category"], third["line"], third["attributes"]) == ("cats", 2, '{"phrase":["cats","two"]}')
    one, two = delivery.mentions.to_pylist()
    assert (one["instances"], one["width"], one["height"]) == (2, 64, 48)
    assert json.loads(one["attributes"]) == {"file_name": "d/a.b.jpg", "image_id": 5}
    assert json.loads(two["attributes"]) == {"filename": "b.jpg", "caption": "two cats"}


def test_a_label_map_is_a_class_list() -> None:
    delivery = read_label(b'{"0": "person", "12": "traffic light"}', "labelmap.json")
    assert delivery.kind == "classes"
    rows = delivery.categories.to_pylist()
    assert [(row["category_id"], row["category"]) for row in rows] == [(0, "person"), (12, "traffic light")]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"detection": {"instances": [{"bbox": [1, 2, 3]}]}}, r"line 2: 3 numbers as bbox at `\$.detection"),
        ({"detection": {"instances": [{"label": 1}]}}, r"line 2: Object missing required field `bbox`"),
        ({"grounding": GROUNDING["grounding"]}, "line 2: both detection and grounding"),
        ({"file_name": ""}, "line 2: a line without file_name"),
        ({"detection": {"instances": [{"bbox": [0, 0, 1, 1], "label": 2**70}]}}, "line 2: "),
    ],
)
def test_a_wrong_line_is_named(change: dict[str, object], found: str) -> None:
    data = "\n".join(map(json.dumps, [DETECTION, DETECTION | change])).encode()
    with pytest.raises(UnreadableError, match=found):
        read_label(data, "a.jsonl")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(LINES) - 1), st.binary(max_size=4), st.integers(0, 8))
def test_damage_ends_in_a_reading_or_a_clear_error(place: int, bytes_: bytes, gone: int) -> None:
    data = LINES[:place] + bytes_ + LINES[place + gone :]
    for read in (read_odvg, read_label):
        with suppress(UnreadableError):
            read(data, "a.jsonl")
