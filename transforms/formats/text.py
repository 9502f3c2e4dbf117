"""Bytes of a text file to numbered lines, and words of a line to numbers."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence

import msgspec

from storage.errors import UnreadableError

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EXACT = 1e15
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

Line = tuple[int, str]
"""The number of a line, 1-based, and what it says, without white space around it."""


def text_of(data: bytes, path: str) -> str:
    """Decode UTF-8, with or without byte order mark, or UTF-16 with one; all line ends become one line feed.

    Raises :class:`UnreadableError` for anything else, and for NUL characters, with the line where it stands.
    """
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start : error.start + 1].hex()} at offset {error.start}"
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            path, found, line=line, expected=f"{encoding[:6].rstrip('-').upper()} text"
        ) from error
    if (nul := text.find("\0")) >= 0:
        raise UnreadableError(
            path, "a NUL character", line=text.count("\n", 0, nul) + 1, expected="text, not binary data"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[Line]:
    """The lines that are not blank."""
    return [(number, line) for number, raw in enumerate(text.split("\n"), 1) if (line := raw.strip())]


def is_number(word: str) -> bool:
    """Whether a word is a decimal number as label files write it; ``nan``, ``inf`` and ``1_0`` are none."""
    return _NUMBER.fullmatch(word) is not None


def numbers(words: Sequence[str], path: str, line: int, *, names: Sequence[str] = ()) -> list[float]:
    """Words to finite numbers; ``names`` says what they are, for the error's message."""
    values = []
    for place, word in enumerate(words):
        value = float(word) if _NUMBER.fullmatch(word) else math.nan
        if not math.isfinite(value):
            what = names[place] if place < len(names) else "a coordinate"
            raise UnreadableError(path, f"{_short(word)!r} as {what}", line=line, expected="a finite number")
        values.append(value)
    return values


def json_number(word: str) -> str:
    """A number as JSON text with the digits that it came with; quoted where JSON does not allow that form."""
    # JSON's readers take -0 for 0.
    return word if _JSON_NUMBER.fullmatch(word) and word != "-0" else msgspec.json.encode(word).decode()


def shortest(value: float) -> str:
    """A number in the fewest digits that say it; whole numbers without a point."""
    return repr(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)


def two_decimals(value: float) -> str:
    """A number with two decimals where these say it, as KITTI's own files have it, else the shortest."""
    text = f"{value:.2f}"
    return text if float(text) == value else shortest(value)


def quote(text: str, limit: int = 60) -> str:
    """The start of a line, for a message."""
    return repr(_short(text, limit))


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
