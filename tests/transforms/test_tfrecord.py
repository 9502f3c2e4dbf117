from __future__ import annotations

import gzip
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnknownFormatError, UnreadableError
from transforms.formats.crc32c import crc32c
from transforms.formats.detect import read_label
from transforms.formats.tf_detection import read_pbtxt, read_tfrecord


def _number(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _example(features: dict[str, list[bytes] | list[float] | list[int]]) -> bytes:
    entries = b""
    for name, values in features.items():
        if values and isinstance(values[0], float):
            feature = _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
        elif values and isinstance(values[0], int):
            feature = _field(3, _field(1, b"".join(map(_number, values))))  # type: ignore[arg-type]
        else:
            feature = _field(1, b"".join(_field(1, value) for value in values))  # type: ignore[arg-type]
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _sum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _sum(length) + data + _sum(data)


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5_000), st.integers(0, 255))
def test_the_checksum_of_many_bytes_is_that_of_one_after_the_other(size: int, seed: int) -> None:
    data = bytes((seed * n * n + n) % 251 for n in range(size))
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("path", "images", "boxes"),
    [
        ("tf_detection_api_dataset/train.tfrecord", 1, 3),
        ("tf_detection_api_dataset/val.tfrecord", 1, 1),
        ("tf_detection_api_dataset/test.tfrecord", 1, 0),
        ("roboflow_dataset/tfrecord/train/train.tfrecord", 2, 2),
        ("roboflow_dataset/tfrecord/val/val.tfrecord", 1, 2),
    ],
)
def test_the_samples_give_their_images_and_boxes(
    shared_data: Path, path: str, images: int, boxes: int
) -> None:
    delivery = read_label((shared_data / "formats" / path).read_bytes(), "a.tfrecord")
    assert (delivery.format, delivery.mentions.num_rows, delivery.labels.num_rows) == (
        "tfrecord",
        images,
        boxes,
    )


def test_a_sample_says_what_its_features_say(shared_data: Path) -> None:
    data = (shared_data / "formats/tf_detection_api_dataset/train.tfrecord").read_bytes()
    delivery = read_label(data, "train.tfrecord")
    rows = delivery.labels.to_pylist()
    assert [row["bbox"] for row in rows] == [
        [0, 0.25, 0.25, 0.75],
        [0, 0.25, 0.25, 0.5],
        [0.125, 0.25, 0.375, 0.5],
    ]
    assert [(row["category_id"], row["category"]) for row in rows] == [
        (3, "label_2"),
        (4, "label_3"),
        (0, None),
    ]
    assert {row["bbox_mode"] for row in rows} == {"xyxy_norm"}
    (mention,) = delivery.mentions.to_pylist()
    assert (mention["ref"], mention["width"], mention["height"]) == ("1", 16, 16)
    assert json.loads(mention["attributes"])["image/source_id"] == ["1"]
    names = read_label(
        (shared_data / "formats/tf_detection_api_dataset/label_map.pbtxt").read_bytes(), "m.pbtxt"
    )
    assert names.categories["category"].to_pylist() == [f"label_{n}" for n in range(10)]


def test_flags_masks_and_numbers_of_float32_keep_their_meaning() -> None:
    features: dict[str, list[bytes] | list[float] | list[int]] = {
        "image/filename": ["ü/a.jpg".encode()],
        "image/height": [2],
        "image/width": [3],
        "image/object/class/label": [-1],
        **{
            f"image/object/bbox/{side}": [value]
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), (0.1, 0.2, 0.7, 0.9), strict=True)
        },
        "image/object/group_of": [1],
        "image/object/difficult": [0],
        "image/object/view": [b"front"],
        "image/object/mask": [_png()],
    }
    (row,) = read_tfrecord(_record(_example(features)), "a.record").labels.to_pylist()
    assert (row["ref"], row["category_id"], row["iscrowd"], row["ignore"]) == ("ü/a", -1, True, True)
    assert row["bbox"] == [0.1, 0.2, 0.7, 0.9]
    assert json.loads(row["segmentation"]) == {"size": [2, 3], "counts": [2, 2, 2]}
    assert json.loads(row["attributes"]) == {"group_of": 1, "difficult": 0, "view": "front"}


def _png() -> bytes:
    import io

    from PIL import Image

    image = Image.new("L", (3, 2))
    image.putpixel((1, 0), 1)
    image.putpixel((1, 1), 1)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_damage_is_found_by_its_checksum(shared_data: Path) -> None:
    data = bytearray((shared_data / "formats/tf_detection_api_dataset/train.tfrecord").read_bytes())
    data[700] ^= 1
    with pytest.raises(UnreadableError, match="record 0, counted from 0: bytes whose checksum is another"):
        read_label(bytes(data), "a.tfrecord")
    with pytest.raises(UnreadableError, match="bytes announced and"):
        read_label(bytes(data[:500]), "a.tfrecord")


def _objects(**more: list[bytes] | list[float] | list[int]) -> dict[str, Any]:
    sides = {f"image/object/bbox/{side}": [0.25, 0.5] for side in ("xmin", "ymin", "xmax", "ymax")}
    return {"image/filename": [b"a.jpg"], **sides, **{f"image/object/{k}": v for k, v in more.items()}}


def test_compressed_records_say_so() -> None:
    whole = _record(_example(_objects()))
    for packed in (gzip.compress(whole), zlib.compress(whole)):
        with pytest.raises(UnreadableError, match="compressed records"):
            read_label(packed, "a.tfrecord")


def test_a_sequence_is_not_half_read() -> None:
    with pytest.raises(UnreadableError, match=r"record 0.*SequenceExample"):
        read_tfrecord(_record(_example(_objects()) + _field(2, b"")), "a.tfrecord")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"class/text": [b"cat"]}, "1 values as class/text for 2 boxes"),
        ({"class/label": [1, 2, 3]}, "3 values as class/label for 2 boxes"),
        ({"bbox/xmin": [1, 2]}, "xmin in other than floats"),
        ({"bbox/xmin": [0.5]}, "2 numbers as ymin for 1 objects"),
    ],
)
def test_classes_that_are_not_one_for_each_box_are_refused(more: dict[str, Any], found: str) -> None:
    with pytest.raises(UnreadableError, match=found):
        read_tfrecord(_record(_example(_objects(**more))), "a.tfrecord")


def test_a_feature_that_is_not_one_for_each_box_is_kept_with_the_image() -> None:
    delivery = read_tfrecord(_record(_example(_objects(order=[3, 1, 2]))), "a.tfrecord")
    (mention,) = delivery.mentions.to_pylist()
    assert json.loads(mention["attributes"])["image/object/order"] == [3, 1, 2]


def test_two_records_of_one_image_are_one_image() -> None:
    delivery = read_tfrecord(_record(_example(_objects())) * 2, "a.tfrecord")
    assert delivery.mentions.select(["ref", "instances"]).to_pylist() == [{"ref": "a", "instances": 4}]


@pytest.mark.parametrize(
    ("text", "name", "further"),
    [
        ("item { id: 1 display_name: 'a' }", "a", None),
        ("item: { id: 1, name: 'a#b{}' display_name: \"it's\" }", "a#b{}", {"display_name": "it's"}),
        ("item { id: 1 name: 'a' k { id: 2 } k { id: 3 } }", "a", {"k": [{"id": "2"}, {"id": "3"}]}),
        ('item { id: 1 name: "\\"a\\" " "b" }', '"a" b', None),
    ],
)
def test_label_maps_as_people_write_them_are_read(text: str, name: str, further: Any) -> None:
    found = read_pbtxt(text.encode(), "map.pbtxt")
    assert found is not None
    (row,) = found.categories.to_pylist()
    assert (row["category_id"], row["category"]) == (1, name)
    assert (row["attributes"] and json.loads(row["attributes"])) == further


def test_examples_of_another_kind_are_refused_by_their_features() -> None:
    record = _record(_example({"audio/pcm": [1.0]}))
    with pytest.raises(UnknownFormatError, match="has the features audio/pcm"):
        read_label(record, "a.tfrecord")


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a\xff\xff\xff\xff\x7f",
        b"\x0b",
        b"\x0a\x02\x0a\x05",
        b"\xff" * 12,
        _field(1, _field(1, _field(1, b"\xff\xfe"))),
    ],
)
def test_a_record_that_is_no_example_is_refused(message: bytes) -> None:
    with pytest.raises(UnreadableError, match="record 0"):
        read_tfrecord(_record(message), "a.tfrecord")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 200), st.binary(max_size=4), st.integers(0, 8))
def test_hostile_records_end_in_a_reading_or_a_clear_error(place: int, bytes_: bytes, gone: int) -> None:
    whole = _example(
        {
            "image/filename": [b"a.jpg"],
            "image/height": [2],
            "image/object/bbox/xmin": [0.5],
            "image/object/bbox/ymin": [0.5],
            "image/object/bbox/xmax": [0.5],
            "image/object/bbox/ymax": [0.5],
            "image/object/class/text": [b"cat"],
        }
    )
    message = whole[:place] + bytes_ + whole[place + gone :]
    for data in (_record(message), message):
        with suppress(UnreadableError):
            read_tfrecord(data, "a.tfrecord")


def test_label_maps_in_both_quotes_and_with_comments_are_read() -> None:
    text = b"# classes\nitem {\n id: 1\n name: 'cat'\n display_name: \"a cat\" # soft\n}\n"
    text += b'item { name: "dog" id: 2 }'
    delivery = read_pbtxt(text, "map.pbtxt")
    assert delivery is not None
    rows = delivery.categories.to_pylist()
    assert [(row["category_id"], row["category"], row["attributes"]) for row in rows] == [
        (1, "cat", '{"display_name":"a cat"}'),
        (2, "dog", None),
    ]
    assert read_pbtxt(b"node { name: 'x' op: 'Const' }", "graph.pbtxt") is None
    with pytest.raises(UnreadableError, match="an id that comes twice"):
        read_pbtxt(b"item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "map.pbtxt")
