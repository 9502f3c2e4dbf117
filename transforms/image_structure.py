"""Whether an image file is whole, from its structure: the checks that cost no decoding.

Sources: JPEG, ITU-T T.81 annex B; PNG, W3C Portable Network Graphics (third edition), section 5; GIF89a
specification, section 27; WebP, RFC 9649 section 2; BMP as documented for BITMAPINFOHEADER.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

At = Callable[[int, int], bytes]
"""``at(offset, count)`` gives bytes of the file; fewer where it ends."""

_BLOCK = 1 << 20
_TAIL = 1 << 16
# Frame headers, and what may stand beside one: JFIF, Adobe's transform, tables, comments. No EXIF.
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_PLAIN = _JPEG_FRAMES | {0xE0, 0xEE, 0xDB, 0xC4, 0xDD, 0xFE}
_HEAD = 64
_SHORT = 1 << 14
_USUAL = 1 << 13
_MAX_SEGMENTS = 10_000
_PALETTE = 3
# What stands around the data of the last chunk of pixels and of the end mark.
_PNG_FRAMES = 24
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
# By colour type: grey, true colour, palette (which holds colours), grey and colour with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_PNG_KINDS = frozenset(
    [(bits, 0) for bits in (1, 2, 4, 8, 16)]
    + [(bits, 3) for bits in (1, 2, 4, 8)]
    + [(bits, kind) for kind in (2, 6) for bits in (8, 16)]
    # Of 16 bits with alpha decoders make colours.
    + [(8, 4)]
)
# Chunks that say nothing of how an image is shown; a palette alone may be worth a look.
_PNG_PLAIN = frozenset(
    {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"sRGB", b"pHYs", b"cHRM", b"tIME", b"bKGD", b"sBIT"}
)


class Structure(NamedTuple):
    """``broken``: what is certainly wrong. ``doubtful``: why only decoding can tell."""

    broken: str | None = None
    doubtful: str | None = None
    bit_depth: int | None = None
    """Bits per channel, where the container says it and a decoder would hide it."""
    exif: bytes | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels with the number of ``channels``, where the structure says all that there is
    to say."""
    channels: int | None = None


def structure_of(kind: str, at: At, size_bytes: int) -> Structure:
    """Check the structure of a file of ``kind`` (as of :func:`transforms.images.is_image`)."""
    check = _CHECKS.get(kind)
    return (
        check(at, size_bytes) if check else Structure(doubtful=f"a {kind} file has to be decoded to be sure")
    )


def _jpeg(at: At, size_bytes: int) -> Structure:
    """Walk the segments up to the first scan, so that a thumbnail's end does not count as the image's."""
    position = 2
    frames: list[bytes] = []
    plain = True
    for _ in range(_MAX_SEGMENTS):
        mark = at(position, 10)
        if len(mark) < 4:
            return Structure(doubtful=f"the header runs past the end of the file, at {size_bytes} bytes")
        if mark[0] != 0xFF:
            return Structure(doubtful=f"no marker at offset {position}")
        code = mark[1]
        if code == 0xFF:
            position += 1
        elif code == 0xDA:
            break
        elif code in {0x00, 0xD9}:
            return Structure(doubtful=f"an unexpected marker at offset {position}")
        elif code == 0x01 or 0xD0 <= code <= 0xD8:
            position += 2
        else:
            plain = plain and code in _JPEG_PLAIN
            if code in _JPEG_FRAMES:
                frames.append(mark[4:])
            position += 2 + int.from_bytes(mark[2:4], "big")
    else:
        return Structure(doubtful=f"more than {_MAX_SEGMENTS} segments")
    start = max(position, size_bytes - _TAIL)
    if at(start, size_bytes - start).rfind(b"\xff\xd9") < 0:
        return Structure(doubtful="no end-of-image marker")
    if not plain or len(frames) != 1 or len(frames[0]) < 6 or frames[0][0] != 8 or frames[0][5] not in {1, 3}:
        return Structure()
    height, width = (int.from_bytes(frames[0][i : i + 2], "big") for i in (1, 3))
    return Structure(bit_depth=8, size=(width, height) if width and height else None, channels=frames[0][5])


def _png(at: At, size_bytes: int) -> Structure:
    """Walk the chunks. Of pixels only where they end is looked at, and small files as a whole.

    Files of many short chunks are followed at their end alone. Checksums of the pixels are left to those who
    decode them, for that would mean to read every byte of every image.
    """
    position, depth, channels, exif, has_data, plain = 8, None, None, None, False, True
    width = height = 0
    sure = size_bytes <= _TAIL
    while True:
        head = at(position, _HEAD)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if len(head) < 8:
            return Structure(broken="cut off: the file ends without IEND")
        end = position + 12 + length
        if not name.isalpha():
            return Structure(broken=f"no chunk name at offset {position + 4}")
        if end > size_bytes:
            missing = end - size_bytes
            return Structure(broken=f"cut off: {missing} bytes are missing of the chunk {name.decode()}")
        body = head[4 : 8 + length]
        if name != b"IDAT" or sure:
            if len(head) >= 12 + length:
                checksum, told = zlib.crc32(body), head[8 + length : 12 + length]
            else:
                checksum, body = _chunk_checksum(at, position + 4, length + 4)
                told = at(end - 4, 4)
            if checksum != int.from_bytes(told, "big"):
                return Structure(
                    broken=f"the checksum of the chunk {name.decode()} at offset {position} is wrong"
                )
        if depth is None:
            if name != b"IHDR" or length != 13:
                return Structure(broken=f"{name.decode()} as first chunk instead of IHDR")
            depth = 8 if body[13] == _PALETTE else body[12]
            width, height = int.from_bytes(body[4:8], "big"), int.from_bytes(body[8:12], "big")
            channels = _PNG_CHANNELS.get(body[13]) if (body[12], body[13]) in _PNG_KINDS else None
            plain = body[14:17] in {b"\0\0\0", b"\0\0\1"}
        plain = plain and name in _PNG_PLAIN
        if name == b"eXIf" and length < _BLOCK:
            exif = body[4:]
        if name == b"IDAT":
            if not has_data and not sure and length <= _SHORT and _ends_in_pixels(at, size_bytes, length):
                has_data = True
                break
            has_data = True
        if name == b"IEND":
            break
        position = end
    if not has_data:
        return Structure(broken="no image data")
    size = (width, height) if plain and exif is None and width and height else None
    return Structure(bit_depth=depth, exif=exif, size=size, channels=channels if size else None)


def _ends_in_pixels(at: At, size_bytes: int, length: int) -> bool:
    """Whether the chunks at the end of a PNG file are pixels and the end mark, and nothing more.

    Chunks of pixels are mostly as long as the first, ``length``, or 8 KiB, and the last is shorter.
    """
    count = min(max(length, _USUAL) + _PNG_FRAMES, size_bytes)
    tail = at(size_bytes - count, count)
    place = tail.find(b"IDAT") - 4
    while 0 <= place <= len(tail) - 24 and tail[place + 4 : place + 8] == b"IDAT":
        place += 12 + int.from_bytes(tail[place : place + 4], "big")
    return place == len(tail) - 12 and tail[place:] == _PNG_END


def _chunk_checksum(at: At, start: int, count: int) -> tuple[int, bytes]:
    """The CRC-32 of a part of the file, and its first block."""
    first = at(start, min(count, _BLOCK))
    checksum = zlib.crc32(first)
    for offset in range(start + len(first), start + count, _BLOCK):
        checksum = zlib.crc32(at(offset, min(_BLOCK, start + count - offset)), checksum)
    return checksum, first


def _gif(at: At, size_bytes: int) -> Structure:
    start = max(13, size_bytes - _TAIL)
    if not at(start, size_bytes - start).rstrip(b"\0").endswith(b"\x3b"):
        return Structure(doubtful="no trailer at the end")
    return Structure()


def _bmp(at: At, size_bytes: int) -> Structure:
    head = at(0, 34)
    pixels, header_size = _little(head, 10, 4), _little(head, 14, 4)
    if header_size == 12:
        width, height, bits, compression = _little(head, 18, 2), _little(head, 20, 2), _little(head, 24, 2), 0
    else:
        width, height = _little(head, 18, 4), abs(_little(head, 22, 4, signed=True))
        bits, compression = _little(head, 28, 2), _little(head, 30, 4)
    if compression not in {0, 3, 6}:
        return Structure(doubtful="the pixels are compressed")
    needed = pixels + (width * bits + 31) // 32 * 4 * height
    if needed > size_bytes:
        return Structure(broken=f"cut off: {size_bytes} bytes where the header asks for {needed}")
    return Structure()


def _webp(at: At, size_bytes: int) -> Structure:
    needed = _little(at(0, 12), 4, 4) + 8
    if needed > size_bytes:
        return Structure(broken=f"cut off: {size_bytes} bytes where the header asks for {needed}")
    return Structure()


def _tiff(at: At, size_bytes: int) -> Structure:  # noqa: ARG001 - its directory is read by the caller
    return Structure()


def _little(data: bytes, offset: int, count: int, *, signed: bool = False) -> int:
    return int.from_bytes(data[offset : offset + count], "little", signed=signed)


_CHECKS: dict[str, Callable[[At, int], Structure]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "bmp": _bmp,
    "webp": _webp,
    "tiff": _tiff,
}
