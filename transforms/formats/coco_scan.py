"""Where the annotations of a COCO file lie, in slices small enough to decode one after the other.

The file is read once by blocks. Nothing of it is kept but the outline: all that stands around the
annotations, mostly the images.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
from msgspec import Raw

SLICE_BYTES = 4 << 20

_MEMBER = re.compile(rb'"annotations"[ \t\r\n]*:[ \t\r\n]*\[')
_SPACE = re.compile(rb"[ \t\r\n]*")
_OPENER = re.compile(rb'\{[ \t\r\n]*"[^"\\]*"')
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
MARK = b"[0.25e-7]"
"""Stands for the annotations in an outline."""

_LIST_END = re.compile(rb"\}[ \t\r\n]*\]")
_MOST_TRIED = 8

_elements = msgspec.json.Decoder(list[Raw])
_OPENING, _CLOSING = b"{[", b"}]"


class ScanError(Exception):
    """The file cannot be cut: it is not COCO, or damaged. Reading it whole will tell what is wrong."""


@dataclass(frozen=True)
class Scan:
    """``outline``: the document with :data:`MARK` for its annotations, None for a list of results.
    ``slices``: places and lengths in the file, in bytes, and the number of annotations, which are whole
    and have commas between them.
    """

    outline: bytes | None
    slices: tuple[tuple[int, int, int], ...]


def scan(
    file: BinaryIO,
    *,
    slice_bytes: int = SLICE_BYTES,
    seen: Callable[[bytes, int], None] = lambda _text, _count: None,
) -> Scan:
    """Cut the annotations of a COCO file, from its start; raises :class:`ScanError` where that fails.

    ``seen`` gets every slice as it is found, as a JSON list, with the number of its annotations.
    """
    window = _Window(file, slice_bytes)
    start = window.skip_space(len(codecs.BOM_UTF8) if window.starts_with(codecs.BOM_UTF8) else 0)
    if window.byte(start) == b"[":
        slices, end = _cut(window, start + 1, slice_bytes, seen)
        if window.byte(window.skip_space(end)):
            raise ScanError("something after the list")
        return Scan(None, slices)
    if window.byte(start) != b"{":
        raise ScanError("neither an object nor a list")
    while (found := _MEMBER.search(window.buffer)) is None:
        if not window.more():
            return Scan(bytes(window.buffer[start:]), ())
    head = bytes(window.buffer[start : found.end() - 1])
    slices, end = _cut(window, found.end(), slice_bytes, seen)
    window.forget(end)
    while window.more():
        pass
    return Scan(head + MARK + bytes(window.buffer), slices)


class _Window:
    """A part of the file that moves forward; positions are those of the file."""

    def __init__(self, file: BinaryIO, block_bytes: int) -> None:
        self._file = file
        self._block = block_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._base = 0
        self.buffer = bytearray()
        self.more()

    def more(self) -> bool:
        """Read a block; False at the end of the file."""
        block = self._file.read(self._block)
        try:
            if not block.isascii() or not block or self._decoder.getstate()[0]:
                self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise ScanError("not UTF-8") from error
        self.buffer += block
        return bool(block)

    def forget(self, position: int) -> None:
        """Let go of what stands before a position."""
        del self.buffer[: position - self._base]
        self._base = position

    def starts_with(self, prefix: bytes) -> bool:
        return self.buffer.startswith(prefix)

    def skip_space(self, position: int) -> int:
        while True:
            found = _SPACE.match(self.buffer, position - self._base)
            end = (found.end() if found else 0) + self._base
            if end < self._base + len(self.buffer) or not self.more():
                return end

    def byte(self, position: int) -> bytes:
        place = position - self._base
        return bytes(self.buffer[place : place + 1])

    def at_least(self, position: int, size: int) -> bool:
        """Have ``size`` bytes from a position on, or all that there are."""
        while len(self.buffer) - (position - self._base) < size:
            if not self.more():
                return False
        return True

    def place(self, position: int) -> int:
        return position - self._base

    def position(self, place: int) -> int:
        return place + self._base


def _cut(
    window: _Window, start: int, size: int, seen: Callable[[bytes, int], None]
) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Slices of the elements of a list that begins at ``start``, and the place after its bracket."""
    slices: list[tuple[int, int, int]] = []
    position = window.skip_space(start)
    if window.byte(position) == b"]":
        return (), position + 1
    wanted = size
    while True:
        window.forget(position)
        whole = window.at_least(position, wanted)
        text, count, closed = (_quick if whole else _last)(window.buffer) or _exact(window.buffer)
        if not count:
            if not whole:
                raise ScanError("the list has no end")
            # One annotation that is larger than a slice.
            wanted *= 2
            continue
        wanted = size
        seen(text, count)
        end = len(text) - 2
        slices.append((position, end, count))
        position = window.skip_space(position + end)
        if window.byte(position) != (b"]" if closed else b","):
            raise ScanError("no comma between annotations")
        position = window.skip_space(position + 1)
        if closed:
            return tuple(slices), position


def _quick(buffer: bytearray) -> tuple[bytes, int, bool] | None:
    """The list of all whole elements before one that begins as the first does, and how many there are."""
    opener = _OPENER.match(buffer)
    if opener is None:
        return None
    last = buffer.rfind(opener.group())
    end = buffer.rfind(b"}", 0, last) + 1
    if last <= 0 or buffer[end:last].strip() != b",":
        return None
    text = _list_of(buffer, end)
    count = _elements_in(text)
    return (text, count, False) if count else None


def _last(buffer: bytearray) -> tuple[bytes, int, bool] | None:
    """The rest of the list, whose end is tried where an object and a list end together."""
    for found, _ in zip(_LIST_END.finditer(buffer), range(_MOST_TRIED), strict=False):
        text = _list_of(buffer, found.start() + 1)
        if count := _elements_in(text):
            return text, count, True
    return None


def _list_of(buffer: bytearray, end: int) -> bytes:
    with memoryview(buffer) as signs:
        return b"".join((b"[", signs[:end], b"]"))


def _elements_in(text: bytes) -> int:
    """How many elements a list has; 0 where its end is within one.

    A text between brackets that is a list of values ends where a value ends, so trying is a proof.
    """
    try:
        return len(_elements.decode(text))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return 0


def _exact(buffer: bytearray) -> tuple[bytes, int, bool]:
    """The list of all whole elements, bracket by bracket, how many, and whether the list ends after them."""
    depth = end = count = 0
    for token in _TOKEN.finditer(buffer):
        kind = token.group()
        if kind == b'"':
            break
        if kind in _OPENING:
            depth += 1
        elif kind in _CLOSING:
            depth -= 1
            if depth < 0:
                return _list_of(buffer, end), count, True
            if depth == 0:
                end = token.end()
                count += 1
    return _list_of(buffer, end), count, False
