"""A measurement in a process of its own: seconds, CPU seconds, and the largest memory it ever had."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

_MARK = "measured: "


def in_child(module: str, *words: str, python: str = sys.executable) -> dict[str, Any]:
    """Run ``python -m module words…``, which ends with :func:`tell`, and return what it told."""
    done = subprocess.run([python, "-m", module, *words], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        raise RuntimeError(f"{module} {' '.join(words)}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
    return found


def tell(work: Callable[[], dict[str, Any]]) -> None:
    """Do the work, and print what it took, with the facts that it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    facts = work()
    took = {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_gb": round(_peak_bytes() / 1e9, 3),
    }
    print(_MARK + json.dumps({**took, **facts}))


def _peak_bytes() -> int:
    """Of this process alone: what getrusage tells begins with the peak of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def in_turns(
    turns: int, readers: Iterable[str], measure: Callable[[str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each reader: its quickest turn, and its largest peak.

    Machines are slower at one time than at another; readers that take turns meet the same times.
    """
    found: dict[str, list[dict[str, Any]]] = {reader: [] for reader in readers}
    for _ in range(turns):
        for reader, rows in found.items():
            rows.append(measure(reader))
    return [
        {
            "reader": reader,
            **min(rows, key=lambda row: float(row["seconds"])),
            "peak_gb": max(row["peak_gb"] for row in rows),
            "turns, s": " ".join(f"{row['seconds']:.2f}" for row in rows),
        }
        for reader, rows in found.items()
    ]


def beside(rows: Sequence[dict[str, Any]], peer: str) -> list[dict[str, Any]]:
    """Rows with how many times faster they are than the row named ``peer``, by wall clock and by CPU."""
    base = next(row for row in rows if row["reader"] == peer)
    return [
        {
            **row,
            f"faster than {peer}": f"{base['seconds'] / row['seconds']:.2f}x",
            "by CPU": f"{base['cpu_seconds'] / row['cpu_seconds']:.2f}x",
        }
        for row in rows
    ]
