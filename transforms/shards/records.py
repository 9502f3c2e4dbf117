"""TFRecord files in the layout of DetectNet_v2's converter, with the image inside.

Each record is a ``tf.train.Example``. Features: ``frame/id`` (the path without extension), ``frame/height``,
``frame/width``, ``frame/encoded`` (the file's bytes, as in the layout for DALI), and per object
``target/object_class``, ``target/coordinates_x1`` … ``_y2`` (pixels), truncation, occlusion, observation
angle and the box of three dimensions, which are 0 where nothing is known. Regions to ignore are DontCare.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from transforms.formats.crc32c import crc32c
from transforms.shards.sample import ShardLabels

_MASK = 0xA282EAD8
_UNKNOWN = (
    *("truncation", "observation_angle", "world_bbox_h", "world_bbox_w", "world_bbox_l"),
    *("world_bbox_x", "world_bbox_y", "world_bbox_z", "world_bbox_rot_y"),
)


def framed(record: bytes) -> bytes:
    """A record with its length and checksums."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _sum(length), record, _sum(record)))


def tao_example(labels: ShardLabels, image: bytes) -> bytes:
    """The example of one image."""
    boxes = np.array([one.bbox for one in labels.objects], np.float32).reshape(-1, 4)
    count = len(boxes)
    features: dict[
        str, Sequence[bytes] | np.ndarray[tuple[int, ...], np.dtype[np.float32]] | Sequence[int]
    ] = {
        "frame/id": [labels.sample.encode()],
        "frame/height": [labels.height],
        "frame/width": [labels.width],
        "frame/encoded": [image],
        "target/object_class": [
            b"DontCare" if one.ignore else one.category.encode() for one in labels.objects
        ],
        "target/occlusion": [0] * count,
        **{f"target/coordinates_{name}": boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
        **{f"target/{name}": np.zeros(count, np.float32) for name in _UNKNOWN},
    }
    return example(features)


def example(
    features: Mapping[
        str, Sequence[bytes] | np.ndarray[tuple[int, ...], np.dtype[np.float32]] | Sequence[int]
    ],
) -> bytes:
    """A ``tf.train.Example``: bytes, floats (arrays of float32) or whole numbers by name, in this order."""
    entries = []
    for name, values in features.items():
        if isinstance(values, np.ndarray):
            feature = _field(2, _field(1, values.astype("<f4").tobytes()) if len(values) else b"")
        elif values and isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, value) for value in values if isinstance(value, bytes)))
        elif name == "target/object_class":
            feature = _field(1, b"")
        else:
            packed = b"".join(_varint(value) for value in values if isinstance(value, int))
            feature = _field(3, _field(1, packed) if packed else b"")
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _sum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)
