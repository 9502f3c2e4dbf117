"""Frames: what a TFRecord of DetectNet_v2 says of one image, and the files that hold them.

A record is a ``tf.train.Example`` with the features of TAO's converter (``frame/id``,
``target/object_class``, ``target/coordinates_x1`` …), here with two of our own that other readers pass over:
``target/ignore`` for regions that neither count nor blame, and ``frame/uri`` where the image lies outside of
any image folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.errors import UnreadableError
from training.samples import Sample
from transforms.formats.crc32c import crc32c
from transforms.formats.tfrecord import Value, example, records

_MASK = 0xA282EAD8
_CORNERS = tuple(f"target/coordinates_{axis}" for axis in ("x1", "y1", "x2", "y2"))
# What KITTI says beside the box, each with the value that stands for "not said".
EXTRAS: Mapping[str, float] = {
    "truncation": 0.0,
    "occlusion": 0,
    "observation_angle": 0.0,
    "world_bbox_h": 0.0,
    "world_bbox_w": 0.0,
    "world_bbox_l": 0.0,
    "world_bbox_x": 0.0,
    "world_bbox_y": 0.0,
    "world_bbox_z": 0.0,
    "world_bbox_rot_y": 0.0,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """An image and its objects. ``id`` is the image's path below the image folder, without extension;
    ``boxes [n, 4]`` are corners in pixels; ``extras`` are KITTI's other columns by the names of ``EXTRAS``.
    """

    id: str
    width: int
    height: int
    categories: tuple[str, ...]
    boxes: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    extras: Mapping[str, Sequence[float]] = field(default_factory=dict)
    uri: str = ""

    def sample(self, uri: str, *, weight: float = 1.0) -> Sample:
        """For training, with the address of its image."""
        return Sample(
            id=self.id,
            uri=uri,
            width=self.width,
            height=self.height,
            split=None,
            boxes=self.boxes,
            categories=self.categories,
            ignore=self.ignore,
            weight=weight,
        )


def frame_of(sample: Sample) -> Frame:
    """A sample as a frame that says itself where its image lies."""
    return Frame(
        id=sample.id,
        width=sample.width,
        height=sample.height,
        categories=sample.categories,
        boxes=sample.boxes,
        ignore=sample.ignore,
        uri=sample.uri,
    )


def write_frames(path: Path, frames: Iterable[Frame]) -> None:
    """Write a TFRecord file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            for frame in frames:
                data = _example(_features(frame))
                length = struct.pack("<Q", len(data))
                file.write(length + _checksum(length) + data + _checksum(data))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_frames(path: Path) -> Iterator[Frame]:
    """The frames of a TFRecord file of TAO's converter, or of ours.

    Raises ``UnreadableError`` for a damaged file and for records without what training needs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(str(path), str(error), expected="a TFRecord file") from None
    for number, record in enumerate(records(data, str(path))):
        yield _frame(example(record, str(path), number), f"{path}, record {number}")


def _frame(features: Mapping[str, Value], place: str) -> Frame:
    if "frame/encoded" in features or "target/object_class_id" in features:
        raise UnreadableError(
            place,
            "images inside of the record (TAO's DALI form)",
            expected="records that name their images; convert again with dataset_convert",
        )
    missing = {"frame/id", "frame/width", "frame/height"} - features.keys()
    if missing:
        raise UnreadableError(
            place, f"no {', '.join(sorted(missing))}", expected="a record of DetectNet_v2's dataset_convert"
        )
    categories = tuple(_text(value, place) for value in features.get("target/object_class", []))
    count = len(categories)
    columns = [_numbers(features, name, count, place) for name in _CORNERS]
    ignore = _numbers(features, "target/ignore", count, place, absent=0)
    extras = {
        name: _numbers(features, f"target/{name}", count, place).tolist()
        for name in EXTRAS
        if f"target/{name}" in features
    }
    boxes = np.stack(columns, axis=1)
    if not np.isfinite(boxes).all():
        raise UnreadableError(place, "a box with a number that is not finite")
    width, height = (int(_numbers(features, f"frame/{side}", 1, place)[0]) for side in ("width", "height"))
    if min(width, height) < 1:
        raise UnreadableError(place, f"an image of {width}x{height} pixels", expected="a size above 0")
    return Frame(
        id=_text(features["frame/id"][0], place) if features["frame/id"] else "",
        width=width,
        height=height,
        categories=categories,
        boxes=boxes,
        ignore=ignore.astype(bool),
        extras=extras,
        uri=_text(features["frame/uri"][0], place) if features.get("frame/uri") else "",
    )


def _numbers(
    features: Mapping[str, Value], name: str, count: int, place: str, *, absent: float | None = None
) -> NDArray[np.float64]:
    values = features.get(name, [])
    if absent is not None and not values:
        return np.full(count, absent, np.float64)
    if len(values) != count or any(isinstance(value, bytes) for value in values):
        raise UnreadableError(place, f"{len(values)} values of {name}", expected=f"{count} numbers")
    return np.array(values, np.float64)


def _text(value: bytes | float, place: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise UnreadableError(place, f"{value!r}", expected="UTF-8 text")


def _features(frame: Frame) -> dict[str, Value]:
    features: dict[str, Value] = {
        "frame/id": [frame.id.encode()],
        "frame/width": [frame.width],
        "frame/height": [frame.height],
        "target/object_class": [name.encode() for name in frame.categories],
    }
    for name, column in zip(_CORNERS, frame.boxes.T, strict=True):
        features[name] = [float(value) for value in column]
    for name, absent in EXTRAS.items():
        values = frame.extras.get(name, [absent] * len(frame.categories))
        whole = isinstance(absent, int)
        features[f"target/{name}"] = [int(v) for v in values] if whole else [float(v) for v in values]
    if frame.ignore.any():
        features["target/ignore"] = [int(value) for value in frame.ignore]
    if frame.uri:
        features["frame/uri"] = [frame.uri.encode()]
    return features


def _example(features: Mapping[str, Value]) -> bytes:
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(values)))
        for name, values in sorted(features.items())
    )
    return _field(1, entries)


def _feature(values: Value) -> bytes:
    if values and isinstance(values[0], bytes):
        return _field(1, b"".join(_field(1, value) for value in values if isinstance(value, bytes)))
    if values and isinstance(values[0], int):
        return _field(3, _field(1, b"".join(_varint(int(value)) for value in values)))
    if values:
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return b""


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)
