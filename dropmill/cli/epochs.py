"""Progress of a training whose processes are elsewhere: its lines of metrics, as they come."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from storage.errors import DropmillError

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0


@contextmanager
def epochs_told(
    read: Callable[[], bytes | None],
    tell: Callable[[dict[str, Any]], None],
    *,
    look_every_s: float = _LOOK_EVERY_S,
) -> Iterator[None]:
    """Within, ``tell`` is given every line of JSON that is new in what ``read`` gives (None: no file yet)."""
    done = len(_lines(read))
    ended = Event()

    def watch() -> None:
        nonlocal done
        last = False
        while not last:
            # The lines that came before the end are told too.
            last = ended.wait(look_every_s)
            lines = _lines(read)
            for line in lines[done:]:
                tell(line)
            done = max(done, len(lines))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lines(read: Callable[[], bytes | None]) -> list[dict[str, Any]]:
    """The whole lines; a training does not end because its progress cannot be shown."""
    try:
        text = read() or b""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    except (OSError, ValueError, DropmillError) as error:
        log.debug("no progress to show", extra={"error": str(error)})
        return []
