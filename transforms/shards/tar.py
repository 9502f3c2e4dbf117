"""Tar files as webdataset lays them out: the members of a sample one after the other, under one name.

Plain ustar, a pax header before names that do not fit, no times and no owners: the same samples give the
same bytes. ``<key>.jpg`` (or the image's own suffix) is the image, ``<key>.json`` what is said of it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from storage.errors import UnreadableError

BLOCK = 512
_RECORD = 20 * BLOCK
_LONGEST = 99
_MODE = b"0000644\x000000000\x000000000\x00"
_TIME = b"\x0000000000000\x00"
_REST = b"\x00 0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\x00" + bytes(167)
_PLAIN = sum(_MODE) + sum(_TIME) + 8 * ord(" ") + sum(_REST[2:])


def header(name: str, size: int) -> bytes:
    """The header of a member, with a pax header before it where the name needs one."""
    raw = name.encode()
    if len(raw) > _LONGEST or size >= 8**11 or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = 0o644
        return info.tobuf(tarfile.PAX_FORMAT)
    # The same as tarfile writes, at a thirtieth of its time: only name and size differ.
    digits = b"%011o" % size
    checksum = _PLAIN + sum(raw) + sum(digits)
    filled = raw + bytes(_LONGEST + 1 - len(raw))
    return b"%b%b%b%b%06o%b" % (filled, _MODE, digits, _TIME, checksum, _REST)


def padding(size: int) -> bytes:
    """What fills a member of ``size`` bytes up to whole blocks."""
    return b"\x00" * (-size % BLOCK)


def end(size: int) -> bytes:
    """The end of an archive of ``size`` bytes: two empty blocks, up to a whole record."""
    return b"\x00" * (2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)


def members(file: BinaryIO, path: str) -> Iterator[tuple[str, int, int]]:
    """Names, offsets and sizes of the files in an archive; raises UnreadableError where it is damaged."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="a tar file") from None
