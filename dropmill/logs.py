"""Logging: JSON lines for services and scripts, plain lines for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = ("dropmill", "ingest", "transforms", "quality", "training", "storage")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the fields given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """``12:00:01 event key=value``, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        level = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        text = f"{datetime.now():%H:%M:%S} {level}{record.getMessage()} {fields}".rstrip()  # noqa: DTZ005
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Send our own records to standard error; those of libraries from warnings on."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    # Ray puts fields of its own into every record, under names that begin with an underscore.
    known = vars(record).items()
    return {name: value for name, value in known if name not in _STANDARD and not name.startswith("_")}
