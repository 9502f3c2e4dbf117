"""Progress of a training that runs elsewhere: the lines of its metrics file, as they appear."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

_LOOK_S = 1.0


def epoch_text(metrics: dict[str, Any]) -> str:
    """One epoch's line for people."""
    measured = f", mAP50 {metrics['val_map50']:.3f}" if "val_map50" in metrics else ""
    return f"epoch {metrics['epoch']:.0f}, cost {metrics['cost']:.3g}{measured}, {metrics['seconds']:.1f} s"


def last_epoch(path: Path) -> dict[str, Any] | None:
    """The newest line of a metrics file; None where there is none yet."""
    epochs = _epochs(path)
    return epochs[-1] if epochs else None


class Follow:
    """While the block runs, log every epoch that is added to ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = len(_epochs(path))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_LOOK_S)
            epochs = _epochs(self._path)
            for metrics in epochs[self._seen :]:
                log.info(epoch_text(metrics))
            self._seen = max(self._seen, len(epochs))


def _epochs(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]
