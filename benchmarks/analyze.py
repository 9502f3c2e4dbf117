"""``dropmill dataset analytics analyze`` of a whole data set, graphs and report among it, in a fresh process.

By default the data set is BCCD (364 images, 4,888 boxes), from the folder of real data sets.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.record import record

_PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure and print; ``--set`` and ``--form`` choose another folder of labels and images."""
    data = Path(os.environ.get("DROPMILL_TEST_DATA") or _PROJECT.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, default=data / "bccd-voc")
    parser.add_argument("--form", default="voc")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    seconds, processor = [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            words = [
                sys.executable, "-m", "dropmill", "dataset", "analytics", "analyze",
                f"data.input_format={arguments.form}", f"data.output_dir={folder}",
                f"data.image_dir={arguments.set}", f"data.ann_path={arguments.set}",
            ]  # fmt: skip
            began, before = time.perf_counter(), os.times()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            seconds.append(time.perf_counter() - began)
            processor.append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
            graphs = len(list(Path(folder, "graphs").glob("*.png")))
            report = Path(folder, "report.html").stat().st_size
    record(
        "analyze",
        [
            {
                "data set": arguments.set.name,
                "seconds": round(median(seconds), 1),
                "processor seconds": round(median(processor), 1),
                "graphs": graphs,
                "report, kB": round(report / 1e3),
            }
        ],
        packages=["matplotlib", "polars", "pillow"],
        notes={"repeats": arguments.repeats},
    )


if __name__ == "__main__":
    main()
