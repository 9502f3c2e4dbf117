"""The one error root of Dropmill and its causes.

Every error carries its facts as attributes and builds its own sentence: file, place in it, what was found,
what was expected, what to do. All are picklable, because Ray ships them between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class DropmillError(Exception):
    """Root of all errors that Dropmill raises on purpose.

    ``transient`` says whether the same call may succeed later without anyone changing anything.
    """

    transient: bool = False

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(kind: type[DropmillError], message: str, facts: dict[str, Any]) -> DropmillError:
    error = kind.__new__(kind)
    DropmillError.__init__(error, message, **facts)
    return error


class UnreadableError(DropmillError):
    """A file in the bucket cannot be read: the object is quarantined with this message.

    ``UnreadableError("a.xml", "no <object> element", line=3, expected="Pascal VOC")``.
    """

    def __init__(
        self, path: str, found: str, *, line: int | None = None, expected: str | None = None
    ) -> None:
        place = path if line is None else f"{path}, line {line}"
        message = f"{place}: {found}" if expected is None else f"{place}: {found}; expected {expected}"
        super().__init__(message, path=path, line=line, found=found, expected=expected)


class UnknownFormatError(UnreadableError):
    """A text that is no label form we know; names the nearest one."""


class ConfigError(DropmillError):
    """A configuration, spec file or command line that cannot be used (exit status 2)."""


class UnknownKeyError(ConfigError):
    """A key or value that is not one of the known ones; names the nearest."""

    def __init__(self, where: str, key: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
        super().__init__(f"{where}: unknown key {key!r}; {hint}", where=where, key=key, known=names)


class LakeError(DropmillError):
    """The lake cannot be opened, or its store does not behave as it must."""


class CommitConflictError(LakeError):
    """Another writer committed to a table between our read and our commit; the batch is run again."""

    transient = True


class StoreError(DropmillError):
    """The object store failed (network, throttling, permission)."""

    transient = True


class SupersededError(StoreError):
    """The object is no longer the version that was asked for."""


class QueryError(DropmillError):
    """A SQL query that is wrong, or that tries more than reading."""


class QueryBoundError(QueryError):
    """A SQL query that met its bound of rows, memory or seconds: it would do so again."""


class JobError(DropmillError):
    """A job could not be submitted, or failed."""


class TrainingError(DropmillError):
    """Training cannot start or go on: empty data set, wrong checkpoint, loss not finite."""


class ExportError(DropmillError):
    """A model cannot be exported or compiled."""
