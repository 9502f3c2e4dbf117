"""Typed decoding of JSON whose errors say where in the file they are, and keys that no type asked for."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw

from storage.errors import UnreadableError
from transforms.formats.text import text_of

T = TypeVar("T")
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_BLOCK = 1 << 20
_any_object = msgspec.json.Decoder(dict[str, Raw])


def utf8(data: bytes, path: str) -> bytes:
    """JSON as UTF-8 without byte order mark; what is not UTF-8 is an :class:`UnreadableError`."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text_of(data, path).encode()
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
    # In blocks, because a large file need not be in memory as text as well.
    for start in range(0, len(data), _BLOCK):
        try:
            decoder.decode(view[start : start + _BLOCK], final=start + _BLOCK >= len(data))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, start + error.start) + 1
            raise UnreadableError(
                path, f"bytes that are not UTF-8: {error.reason}", line=line, expected="JSON"
            ) from error
    return data.removeprefix(codecs.BOM_UTF8)


def encode(value: object) -> str:
    """A value as JSON without blanks."""
    return msgspec.json.encode(value).decode()


def decode(data: bytes | Raw, kind: type[T], path: str, *, expected: str, within: str = "$") -> T:
    """Decode JSON into ``kind``; ``within`` is the place of ``data`` in its document, as a JSON path.

    Raises :class:`UnreadableError` with the line of a mistake in the syntax, or the path of a value of
    another type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        # The decoder leaves the place out where it is the value itself.
        message = str(error) if "`$" in str(error) else f"{error} - at `$`"
        raise UnreadableError(path, message.replace("`$", "`" + within, 1), expected=expected) from error
    except msgspec.DecodeError as error:
        raise _syntax_error(bytes(data), str(error), path) from error
    except (RecursionError, ValueError) as error:
        raise UnreadableError(path, str(error), expected=expected) from error


def extras(objects: Iterable[Raw], known: Iterable[str]) -> list[str]:
    """Of each JSON object, the members that are not ``known``, as JSON text without braces."""
    # Objects of a list mostly have the same keys: each is written once. None is for those that are known.
    starts: dict[str, str | None] = dict.fromkeys(known)
    found = []
    for raw in objects:
        members = []
        for key, value in _any_object.decode(raw).items():
            if key not in starts:
                starts[key] = f"{msgspec.json.encode(key).decode()}:"
            if start := starts[key]:
                members.append(start + compact(value))
        found.append(",".join(members))
    return found


def keys_of(json: bytes) -> set[str]:
    """The keys of a JSON object; none where it is something else."""
    try:
        return set(_any_object.decode(json))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return set()


def compact(value: Raw) -> str:
    """JSON text without white space between its parts; numbers and strings keep their writing."""
    text = bytes(value)
    if text[:1] not in {b"{", b"["}:
        return text.decode()
    if b" " in text or b"\n" in text or b"\t" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    return text.decode()


def _syntax_error(data: bytes, message: str, path: str) -> UnreadableError:
    place = _BYTE.search(message)
    if place is None:
        return UnreadableError(path, message, line=data.count(b"\n") + 1, expected="complete JSON")
    offset = int(place.group(1))
    found = data[offset : offset + 16].decode(errors="replace")
    return UnreadableError(
        path,
        f"{found!r} at offset {offset}",
        line=data.count(b"\n", 0, offset) + 1,
        expected="JSON (which has no NaN, no Infinity, no comments and no comma before a bracket)",
    )
