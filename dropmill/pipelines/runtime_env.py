"""What jobs get along, looked at when the configuration is read: Ray would refuse it with every job."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError
from ray.runtime_env import RuntimeEnv

_OF_FILES = ("working_dir", "py_modules", "pip", "uv", "conda")


def checked_env(said: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The same, with files and folders below ``folder`` by their whole path.

    Raises an error of pydantic that says in ``at`` which key is wrong: one that Ray does not know, a value
    that it does not take, or a folder that is not there.
    """
    known = sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_"))
    whole = {name: _whole(value, folder) if name in _OF_FILES else value for name, value in said.items()}
    for name, value in whole.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
            raise _wrong(name, f"unknown key {name!r}; {hint}")
        try:
            RuntimeEnv(**{name: value})
        except (TypeError, ValueError) as error:
            raise _wrong(name, str(error)) from error
    try:
        RuntimeEnv(**whole)
    except (TypeError, ValueError) as error:
        raise _wrong(None, str(error)) from error
    return whole


def _whole(value: Any, folder: Path | None) -> Any:
    if isinstance(value, list):
        return [_whole(one, folder) for one in value]
    if folder is None or not isinstance(value, str) or "://" in value:
        return value
    path = folder / Path(value).expanduser()
    # The name of a package or of an environment is no path.
    return str(path.resolve()) if path.exists() else value


def _wrong(key: str | None, why: str) -> PydanticCustomError:
    return PydanticCustomError("runtime_env", "{why}", {"why": why, "at": () if key is None else (key,)})
