"""Spec files as they are written: YAML, with ``key=value`` words of the command line over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.errors import ConfigError

_MAX_BYTES = 1 << 20


def read_mapping(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a spec says; overrides have dotted keys and YAML values, as in ``train.num_epochs=5``.

    Raises ConfigError that names the file, or the override, and what was expected.
    """
    content = _read(path) if path is not None else {}
    for override in overrides:
        _put(content, override)
    return content


def _read(path: Path) -> dict[str, Any]:
    # Who only builds models has no YAML.
    import yaml

    try:
        text = path.read_bytes()
        if len(text) > _MAX_BYTES:
            raise ConfigError(f"{path}: {len(text)} bytes; expected a spec of at most {_MAX_BYTES}")
        content = yaml.safe_load(text.decode("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: the spec cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {type(content).__name__}; expected a mapping of keys")
    return content


def _put(content: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, word = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{override!r}: expected key=value, as in train.num_epochs=5")
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is no YAML: {error}") from error
    *groups, last = key.strip().lstrip("+").split(".")
    place = content
    for group in groups:
        inner = place.setdefault(group, {})
        if inner is None:
            inner = place[group] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {group} is no group of keys")
        place = inner
    place[last] = value
