"""TFRecord framing, and the protocol buffer inside it, without TensorFlow.

A record is its length (uint64), a checksum of the length, the bytes, and a checksum of the bytes; little
endian, CRC-32C, masked by a rotation of 15 bits and the constant 0xa282ead8 (TensorFlow's record format).
A ``tf.train.Example`` is the message ``features`` (field 1), a map of names to lists of bytes, floats or
whole numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from storage.errors import UnreadableError
from transforms.formats.crc32c import crc32c

Value = list[bytes] | list[float] | list[int]
_MASK = 0xA282EAD8
_COMPRESSED = (b"\x1f\x8b\x08", b"\x78\x01\x73", b"\x78\x9c", b"\x78\xda", b"\x28\xb5\x2f\xfd")
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def records(data: bytes, path: str) -> Iterator[memoryview]:
    """The records of a file; raises :class:`UnreadableError` for one that is cut off or damaged."""
    view, offset, number = memoryview(data), 0, 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise _damaged(path, number, f"{len(data) - offset} bytes after the last record")
        length, length_sum = _HEADER.unpack_from(data, offset)
        if _masked(view[offset : offset + 8]) != length_sum:
            if not offset and data.startswith(_COMPRESSED):
                raise UnreadableError(path, "compressed records", expected="TFRecord, unpacked")
            raise _damaged(path, number, "a length whose checksum is another")
        start = offset + _HEADER.size
        end = start + length
        if end + _FOOTER.size > len(data):
            raise _damaged(path, number, f"{length} bytes announced and {len(data) - start} there")
        if _masked(view[start:end]) != _FOOTER.unpack_from(data, end)[0]:
            raise _damaged(path, number, "bytes whose checksum is another")
        yield view[start:end]
        offset, number = end + _FOOTER.size, number + 1


def example(record: memoryview, path: str, number: int) -> dict[str, Value]:
    """The features of a ``tf.train.Example``; where a name comes twice the last counts."""
    try:
        found: dict[str, Value] = {}
        for field, features in _fields(record):
            if field == 2 and isinstance(features, memoryview):
                raise ValueError("feature lists, as a tf.train.SequenceExample has them")
            if field != 1 or not isinstance(features, memoryview):
                continue
            found.update(_entries(features))
    except (IndexError, ValueError, struct.error) as error:
        raise UnreadableError(
            path, f"record {number}, counted from 0: {error}", expected="a tf.train.Example"
        ) from error
    return found


def _entries(features: memoryview) -> Iterator[tuple[str, Value]]:
    for field, entry in _fields(features):
        if field != 1 or not isinstance(entry, memoryview):
            continue
        name, value = "", memoryview(b"")
        for part, content in _fields(entry):
            if isinstance(content, memoryview):
                name, value = (str(content, "utf-8"), value) if part == 1 else (name, content)
        yield name, _feature(value)


def _feature(message: memoryview) -> Value:
    found: Value = []
    for field, content in _fields(message):
        if not isinstance(content, memoryview):
            continue
        if field == 1:
            found = [_bytes(value) for part, value in _fields(content) if part == 1]
        elif field == 2:
            found = _floats(content)
        elif field == 3:
            found = _integers(content)
    return found


def _bytes(value: memoryview | int) -> bytes:
    return bytes(value) if isinstance(value, memoryview) else b""


def _floats(content: memoryview) -> list[float]:
    found: list[float] = []
    for part, value in _fields(content):
        if part == 1 and isinstance(value, memoryview):
            if len(value) % 4:
                raise ValueError(f"{len(value)} bytes of floats")
            # The shortest decimal of a float32, not the digits that its double has.
            found += [float(str(number)) for number in np.frombuffer(value, "<f4")]
    return found


def _integers(content: memoryview) -> list[int]:
    found: list[int] = []
    for part, value in _fields(content):
        if part != 1:
            continue
        if isinstance(value, int):
            found.append(_signed(value))
            continue
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            found.append(_signed(number))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Fields of a message: number and content (a varint as int, all else as bytes)."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"the wire type {kind}")
        if size > end - place:
            raise ValueError(f"{size} bytes announced and {end - place} there")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number of more than 64 bits")


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _masked(data: memoryview) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _damaged(path: str, number: int, found: str) -> UnreadableError:
    return UnreadableError(path, f"record {number}, counted from 0: {found}", expected="TFRecord")
