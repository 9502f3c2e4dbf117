"""YAML specs become dataclasses: unknown keys are errors that name the nearest, overrides are dotted."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from storage.errors import ConfigError, UnknownKeyError
from transforms.spec_file import read_mapping

_Spec = TypeVar("_Spec")


def read_spec(kind: type[_Spec], path: Path | None, overrides: Sequence[str] = ()) -> _Spec:
    """Read a YAML file and put ``key=value`` overrides (dotted keys, YAML values) over it.

    Keys without a value, and Hydra's ``???``, keep their default. Raises ``ConfigError``, for an unknown key
    ``UnknownKeyError``.
    """
    where = str(path) if path is not None else "command line"
    return bind(kind, read_mapping(path, overrides), where)


def bind(kind: type[_Spec], content: Mapping[Any, Any], where: str, prefix: str = "") -> _Spec:
    """Make a ``kind`` of a mapping; ``where`` and ``prefix`` (``train.``) only serve errors."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = prefix + str(key)
        if key not in hints:
            raise UnknownKeyError(where, name, [prefix + known for known in hints])
        if value is None or value == "???":
            continue
        values[key] = _converted(hints[key], value, where, name)
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {prefix}{error}") from error


def plain(spec: Any) -> dict[str, Any]:
    """A spec as plain containers, which ``bind`` reads back."""
    content: dict[str, Any] = dataclasses.asdict(spec)
    return content


def _converted(kind: Any, value: Any, where: str, name: str) -> Any:
    options = get_args(kind) if get_origin(kind) in {types.UnionType, typing.Union} else (kind,)
    for option in options:
        if option is Any:
            return value
        if isinstance(option, type) and dataclasses.is_dataclass(option) and isinstance(value, dict):
            return bind(option, value, where, f"{name}.")
        if get_origin(option) is tuple:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(_converted(get_args(option)[0], item, where, name) for item in items)
        if option is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            # YAML 1.1 takes 1e-6, without a point, for text.
            try:
                return float(value)
            except ValueError:
                continue
        if option is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if option is not type(None) and isinstance(option, type) and type(value) is option:
            return value
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options if option is not None)
    raise ConfigError(f"{where}: {name}: found {value!r}; expected {names}")
