"""What a training leaves on its node, kept in a lake that is elsewhere: another node goes on from there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import StoreError
from storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_PATTERNS = ("metrics.jsonl", "weights/best.pt", "checkpoints/*.pt")
_LOOK_S = 5.0


@contextmanager
def kept(store: ObjectStore, prefix: str, folder: Path, *, look_s: float = _LOOK_S) -> Iterator[None]:
    """Bring what ``store`` has below ``prefix`` into ``folder``; as it changes there, put it into the store.

    Checkpoints, the best weights and the metrics are kept, looked after every ``look_s`` seconds and at the
    end of the block, however it ends; nothing that an attempt before has left in ``folder`` is overwritten.
    A folder that is in the store already is left to itself. That the store is away for a while ends no
    training: it is tried again.
    """
    if store.is_directory:
        yield
        return
    copy = _Copy(store, prefix, folder)
    copy.bring()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(look_s):
            copy.put()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        copy.put()


class _Copy:
    def __init__(self, store: ObjectStore, prefix: str, folder: Path) -> None:
        self._store, self._prefix, self._folder = store, prefix.rstrip("/") + "/", folder
        self._known: dict[str, tuple[int, int]] = {}

    def bring(self) -> None:
        if self._files():
            # An attempt before this one was here too, and has gone further than it could tell.
            return
        for info in self._store.list(self._prefix):
            name = info.key.removeprefix(self._prefix)
            if not any(Path(name).match(pattern) for pattern in _PATTERNS):
                continue
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            with self._store.open(info.key, info) as source, partial.open("wb") as copy:
                while block := source.read(1 << 20):
                    copy.write(block)
            partial.replace(target)
            self._known[name] = _state(target)
        if self._known:
            log.info("goes on from the lake", extra={"files": sorted(self._known)})

    def put(self) -> None:
        """Weights before checkpoints: what a checkpoint calls the best has to be there."""
        try:
            for name, path in self._files().items():
                try:
                    state = _state(path)
                    if self._known.get(name) != state:
                        self._store.upload(self._prefix + name, path)
                        self._known[name] = state
                except FileNotFoundError:
                    continue  # an old checkpoint, which has just been taken away
            for name in self._known.keys() - self._files().keys():
                self._store.remove(self._prefix + name)
                del self._known[name]
        except (OSError, StoreError) as error:
            log.warning("the lake does not take what was learnt, trying again", extra={"why": str(error)})

    def _files(self) -> dict[str, Path]:
        found = [path for pattern in _PATTERNS for path in sorted(self._folder.glob(pattern))]
        return {path.relative_to(self._folder).as_posix(): path for path in found}


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
