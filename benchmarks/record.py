"""What a benchmark found: a table on the terminal, and ``benchmarks/results/<name>.json``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

_RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    rows: Sequence[Mapping[str, object]],
    *,
    packages: Sequence[str] = (),
    notes: Mapping[str, object] | None = None,
) -> Path:
    """Print the rows and write them down with date, cores, memory and the versions of ``packages``."""
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=160).print(table)
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{name}.json"
    found = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": {"python": platform.python_version(), **{one: version(one) for one in packages}},
        **(notes or {}),
        "rows": list(rows),
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return path
