"""Protocol buffers as text, as far as label maps need them."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | [,;]
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*') | (?P<sign>[{}:]) | (?P<word>[^\s{}:,;"'\#]+)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"""\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))""")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
_MAX_DEPTH = 16

Message = dict[str, Any]


def items_of(text: str) -> list[Message] | None:
    """The messages ``item { … }`` of a text that has nothing else; None for all other texts.

    Values are texts, or messages; what comes several times is a list.
    """
    tokens = _tokens(text)
    if tokens is None:
        return None
    try:
        content, end = _message(tokens, 0, 0)
    except (IndexError, ValueError):
        return None
    items = content.get("item")
    if end != len(tokens) or content.keys() != {"item"}:
        return None
    found: list[Any] = items if isinstance(items, list) else [items]
    return found if all(isinstance(item, dict) for item in found) else None


def _tokens(text: str) -> list[tuple[str, str]] | None:
    tokens = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        if match.lastgroup is not None:
            tokens.append((match.lastgroup, match[0]))
        place = match.end()
    return tokens


def _message(tokens: list[tuple[str, str]], place: int, depth: int) -> tuple[Message, int]:
    """The members from a place to the bracket that closes, and the place after them."""
    if depth > _MAX_DEPTH:
        raise ValueError("messages within messages")
    message: Message = {}
    while place < len(tokens) and tokens[place] != ("sign", "}"):
        kind, key = tokens[place]
        place += 1
        if kind != "word":
            raise ValueError("no name")
        colon = tokens[place] == ("sign", ":")
        place += colon
        value: Any
        if tokens[place] == ("sign", "{"):
            value, place = _message(tokens, place + 1, depth + 1)
            if tokens[place] != ("sign", "}"):
                raise ValueError("no end")
            place += 1
        elif colon:
            value, place = _scalar(tokens, place)
        else:
            raise ValueError("no value")
        if key in message:
            before = message[key]
            value = [*before, value] if isinstance(before, list) else [before, value]
        message[key] = value
    return message, place


def _scalar(tokens: list[tuple[str, str]], place: int) -> tuple[str, int]:
    kind, word = tokens[place]
    if kind == "sign":
        raise ValueError("no value")
    if kind == "word":
        return word, place + 1
    texts = []
    # Texts side by side are one.
    while place < len(tokens) and tokens[place][0] == "text":
        texts.append(_ESCAPE.sub(_unescaped, tokens[place][1][1:-1]))
        place += 1
    return "".join(texts), place


def _unescaped(found: re.Match[str]) -> str:
    octal, hexadecimal, letter = found.groups()
    if octal or hexadecimal:
        return chr(int(octal, 8) if octal else int(hexadecimal, 16))
    return _LETTERS.get(letter, letter)
