"""Protobuf's text format: to nested messages with line numbers, and back.

Covers what the format's specification allows in a file without a schema: ``key: scalar``, ``key { … }`` and
``key: { … }`` (also ``< … >``), lists ``[a, b]``, repeated keys, ``,`` or ``;`` after a field, ``#``
comments, numbers (decimal, hexadecimal, octal, with exponent or ``f``), enum names, and strings with escapes
that are joined when they stand side by side. Extension and ``Any`` names in brackets are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from storage.errors import ConfigError

_MAX_DEPTH = 64

Kind = Literal["string", "number", "name"]


class PrototextError(ConfigError):
    """A text that is not protobuf text format; names the file and the line."""

    def __init__(self, path: str, line: int, found: str, expected: str) -> None:
        super().__init__(
            f"{path}, line {line}: found {found}; expected {expected}",
            path=path,
            line=line,
            found=found,
            expected=expected,
        )


@dataclass(frozen=True)
class Scalar:
    """One value as written: ``text`` is unescaped for a string, verbatim for a number or a name."""

    text: str
    kind: Kind
    line: int


@dataclass(frozen=True)
class Message:
    """Fields by name, each with its values in file order; ``line`` is where the message opens (1-based)."""

    line: int
    fields: dict[str, list[Value]] = field(default_factory=dict)


Value: TypeAlias = Scalar | Message
Writable: TypeAlias = "str | int | float | bool | EnumName | Mapping[str, Writable] | Sequence[Writable]"


class EnumName(str):
    """A name that is written without quotes."""

    __slots__ = ()


def parse(text: str, path: str = "<text>") -> Message:
    """Parse ``text``; ``path`` is only used in errors (``PrototextError``)."""
    return _Parser(text, path).message(closing="", line=1, depth=0)


def format_text(fields: Mapping[str, Writable], indent: str = "") -> str:
    """The text of a message: sequences become repeated keys, mappings become blocks."""
    lines: list[str] = []
    for key, value in fields.items():
        repeated = isinstance(value, Sequence) and not isinstance(value, str)
        for item in value if repeated else [value]:  # type: ignore[union-attr]
            if isinstance(item, Mapping):
                lines += [
                    f"{indent}{key} {{",
                    *filter(None, [format_text(item, indent + "  ").rstrip("\n")]),
                    f"{indent}}}",
                ]
            else:
                lines.append(f"{indent}{key}: {_format_scalar(item)}")
    return "".join(line + "\n" for line in lines)


def _format_scalar(value: object) -> str:
    if isinstance(value, EnumName):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        return f'"{plain}"'
    return repr(value)


_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\f\v]+ | \#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*')
    | (?P<number>0[xX][0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.])
    | (?P<name>[A-Za-z_]\w*)
    | (?P<mark>[{}<>\[\]:,;\-])
    """,
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {
    "a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63
}  # fmt: skip


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else repr(self.text)


def _tokens(text: str, path: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            found = (
                "an unclosed string"
                if text[position] in "\"'"
                else repr(text[position : position + 20].split("\n", maxsplit=1)[0])
            )
            raise PrototextError(path, line, found, "a field name, a value or a brace")
        position = match.end()
        if match.lastgroup == "newline":
            line += 1
        elif match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match.group(), line)
    yield _Token("end", "", line)


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self._path = path
        self._tokens = _tokens(text.removeprefix("\ufeff"), path)
        self._next = next(self._tokens)

    def message(self, closing: str, line: int, depth: int) -> Message:
        if depth > _MAX_DEPTH:
            raise PrototextError(
                self._path, line, f"messages nested deeper than {_MAX_DEPTH}", "a flatter text"
            )
        result = Message(line)
        while True:
            token = self._take()
            if token.kind == "end" and not closing:
                return result
            if closing and token.text == closing and token.kind == "mark":
                return result
            if token.kind != "name":
                inside = (
                    f"a field name or {closing!r} for the block opened in line {line}"
                    if closing
                    else "a field name"
                )
                raise self._error(token, inside)
            result.fields.setdefault(token.text, []).extend(self._values(depth))
            if self._is_mark(",;"):
                self._take()

    def _values(self, depth: int) -> list[Value]:
        colon = self._is_mark(":")
        if colon:
            self._take()
        if self._is_mark("["):
            return self._list(depth, scalars=colon)
        return [self._value(depth, scalars=colon)]

    def _list(self, depth: int, *, scalars: bool) -> list[Value]:
        self._take()
        values: list[Value] = []
        if self._is_mark("]"):
            self._take()
            return values
        while True:
            values.append(self._value(depth, scalars=scalars))
            token = self._take()
            if token.kind == "mark" and token.text == "]":
                return values
            if token.text != "," or token.kind != "mark":
                raise self._error(token, "',' or ']'")

    def _value(self, depth: int, *, scalars: bool) -> Value:
        token = self._take()
        if token.kind == "mark" and token.text in _CLOSING:
            return self.message(_CLOSING[token.text], token.line, depth + 1)
        if not scalars:
            raise self._error(token, "':' and a value, or a block in braces")
        if token.kind == "string":
            text = self._unescape(token)
            while self._next.kind == "string":
                text += self._unescape(self._take())
            return Scalar(text, "string", token.line)
        if token.kind == "mark" and token.text == "-":
            number = self._take()
            if number.kind == "number" or number.text.lower() in {"inf", "infinity", "nan"}:
                return Scalar("-" + number.text, "number", token.line)
            raise self._error(number, "a number after '-'")
        if token.kind == "number":
            return Scalar(token.text, "number", token.line)
        if token.kind == "name":
            return Scalar(token.text, "name", token.line)
        raise self._error(token, "a value")

    def _unescape(self, token: _Token) -> str:
        body = token.text[1:-1]
        if "\\" not in body:
            return body
        data = bytearray()  # escapes give bytes, which are UTF-8 only once joined
        position = 0
        for match in _ESCAPE.finditer(body):
            data += body[position : match.start()].encode()
            position = match.end()
            data += self._escaped(match.group(1), token)
        data += body[position:].encode()
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._error(token, "escapes that give UTF-8 text") from None

    def _escaped(self, code: str, token: _Token) -> bytes:
        try:
            if code[0] in "uU" and len(code) > 1:
                return chr(int(code[1:], 16)).encode()
            if code[0] == "x" and len(code) > 1:
                return bytes([int(code[1:], 16)])
            if code[0] in "01234567":
                return bytes([int(code, 8)])
            return bytes([_SIMPLE_ESCAPES[code]])
        except (KeyError, ValueError, OverflowError):
            raise self._error(token, f"a known escape instead of '\\{code}'") from None

    def _is_mark(self, marks: str) -> bool:
        return self._next.kind == "mark" and self._next.text in marks

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _error(self, token: _Token, expected: str) -> PrototextError:
        return PrototextError(self._path, token.line, str(token), expected)
