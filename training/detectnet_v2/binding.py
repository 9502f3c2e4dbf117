"""Text-format messages to frozen dataclasses and back: the dataclass is the schema.

Field types that are understood: ``bool``, ``int``, ``float``, ``str``, an ``IntEnum`` (by name or number),
another dataclass, ``tuple[T, ...]`` for a repeated field, ``Mapping[str, T]`` for a map (repeated ``{key
value}`` blocks), and ``T | None`` for a field whose absence means something. A dataclass may name keys that
it accepts without a meaning in a class variable ``NO_MEANING``: key to the reason.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from storage.errors import ConfigError, UnknownKeyError
from training.detectnet_v2.prototext import EnumName, Message, Scalar, Value, Writable

T = TypeVar("T")

_TRUE = frozenset({"true", "True", "t", "1"})
_FALSE = frozenset({"false", "False", "f", "0"})


def bind(message: Message, schema: type[T], path: str) -> tuple[T, dict[str, str]]:
    """A ``schema`` from ``message``, and the keys that were accepted without a meaning (key path to reason).

    Raises ``UnknownKeyError`` for a key that the schema lacks and ``ConfigError`` for a value of the wrong
    type or range; both name ``path`` and the line.
    """
    binder = _Binder(path)
    return binder.message(message, schema, ""), binder.notices


def unbind(settings: Any) -> dict[str, Writable]:
    """What ``prototext.format_text`` writes such that ``bind`` gives ``settings`` again."""
    written: dict[str, Writable] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            continue
        if isinstance(value, Mapping):
            written[field.name] = [{"key": key, "value": _writable(item)} for key, item in value.items()]
        elif isinstance(value, tuple):
            written[field.name] = [_writable(item) for item in value]
        else:
            written[field.name] = _writable(value)
    return written


def _writable(value: Any) -> Writable:
    if isinstance(value, enum.IntEnum):
        return EnumName(value.name)
    return unbind(value) if dataclasses.is_dataclass(value) else typing.cast("Writable", value)


@cache
def _hints(schema: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


class _Binder:
    def __init__(self, path: str) -> None:
        self._path = path
        self.notices: dict[str, str] = {}

    def message(self, message: Message, schema: type[T], where: str) -> T:
        hints = _hints(typing.cast("Any", schema))
        no_meaning: Mapping[str, str] = getattr(schema, "NO_MEANING", {})
        settings: dict[str, Any] = {}
        for key, values in message.fields.items():
            inner = f"{where}.{key}" if where else key
            if key in no_meaning:
                self.notices[inner] = no_meaning[key]
            elif key in hints:
                settings[key] = self._field(values, hints[key], inner)
            else:
                raise UnknownKeyError(
                    f"{self._path}, line {values[0].line if values else message.line}"
                    + (f", in {where}" if where else ""),
                    key,
                    [*hints, *no_meaning],
                )
        try:
            return schema(**settings)
        except ConfigError as error:
            place = f"{self._path}, line {message.line}" + (f", in {where}" if where else "")
            raise ConfigError(
                f"{place}: {error.message}", path=self._path, line=message.line, **error.facts
            ) from None

    def _field(self, values: list[Value], hint: Any, where: str) -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            return tuple(self._value(value, arguments[0], where) for value in values)
        if origin is not None and issubclass(origin, Mapping):
            return self._map(values, arguments[1], where)
        if origin in {types.UnionType, typing.Union}:
            hint = next(argument for argument in arguments if argument is not type(None))
        if len(values) != 1:
            again = (
                f"{len(values)} values, the second in line {values[1].line}" if values else "an empty list"
            )
            raise self._wrong(values[0].line if values else 0, where, again, "one value")
        return self._value(values[0], hint, where)

    def _map(self, values: list[Value], hint: Any, where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for value in values:
            key, given = self._entry(value, hint, where)
            if found.setdefault(key, given) != given:
                # protobuf would take the last without a word
                raise self._wrong(value.line, f"{where}[{key}]", "there a second time", "one value")
        return found

    def _entry(self, value: Value, hint: Any, where: str) -> tuple[str, Any]:
        if not isinstance(value, Message):
            raise self._wrong(value.line, where, repr(value.text), "a block with key and value")
        for key, given in value.fields.items():
            if key not in {"key", "value"}:
                raise UnknownKeyError(
                    f"{self._path}, line {given[0].line}, in {where}", key, ["key", "value"]
                )
        key = self._field(value.fields["key"], str, where) if "key" in value.fields else ""
        inner = f"{where}[{key}]"
        if "value" in value.fields:
            return key, self._field(value.fields["value"], hint, inner)
        return key, self._value(Message(value.line), hint, inner) if dataclasses.is_dataclass(
            hint
        ) else hint()

    def _value(self, value: Value, hint: Any, where: str) -> Any:
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Message):
                raise self._wrong(value.line, where, repr(value.text), "a block in braces")
            return self.message(value, typing.cast("type[Any]", hint), where)
        if isinstance(value, Message):
            raise self._wrong(value.line, where, "a block in braces", f"a value of type {_type_name(hint)}")
        return self._scalar(value, hint, where)

    def _scalar(self, value: Scalar, hint: Any, where: str) -> Any:
        try:
            if hint is str and value.kind == "string":
                return value.text
            if hint is bool and value.kind != "string" and value.text in _TRUE | _FALSE:
                return value.text in _TRUE
            if hint is float and value.kind != "string":
                return _float(value.text)
            if hint is int and value.kind == "number":
                return _integer(value.text)
            if isinstance(hint, type) and issubclass(hint, enum.IntEnum) and value.kind != "string":
                return hint[value.text] if value.kind == "name" else hint(_integer(value.text))
        except (ValueError, KeyError):
            pass
        raise self._wrong(value.line, where, repr(value.text), _type_name(hint))

    def _wrong(self, line: int, where: str, found: str, expected: str) -> ConfigError:
        return ConfigError(
            f"{self._path}, line {line}: {where} is {found}; expected {expected}",
            path=self._path, line=line, key=where, found=found, expected=expected,
        )  # fmt: skip


def _float(text: str) -> float:
    if text.lower().lstrip("-")[:2] == "0x":
        return float(_integer(text))
    return float(text if text[-1:] not in {"f", "F"} or "inf" in text.lower() else text[:-1])


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits[:2] in {"0x", "0X"}:
        return sign * int(digits, 16)
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return sign * int(digits, 8 if octal else 10)


def _type_name(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return "one of " + ", ".join(hint.__members__)
    return {
        str: "a string in quotes", bool: "true or false", float: "a number", int: "a whole number"
    }.get(hint, str(hint))  # fmt: skip
