"""A COCO file of train2017's size to committed tables, beside pycocotools, which only loads it.

Each reader runs in a process of its own, imports done, on the same generated file; they take turns, and the
quickest of each counts. Three times the file (one turn) shows whether memory grows with it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import beside, in_child, in_turns, tell
from benchmarks.coco_file import write_instances
from benchmarks.record import record

_PEER = "pycocotools.COCO"
_TURNS = 3


def main() -> None:
    """Measure and print; ``--only-once`` leaves out the file of three times the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-once", action="store_true")
    arguments, _ = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-coco-"))
    rows: list[dict[str, Any]] = []
    try:
        for times in (1,) if arguments.only_once else (1, 3):
            bucket = folder / f"bucket-{times}"
            (bucket / "coco").mkdir(parents=True)
            file = bucket / "coco" / "instances.json"
            size = write_instances(file, times=times)
            readers = ["read in parts", "committed tables"] + ([_PEER] if times == 1 else [])

            def measure(reader: str, file: Path = file) -> dict[str, Any]:
                found = in_child(
                    "benchmarks.coco_to_tables", "--child", reader, str(file), str(folder / "lake")
                )
                shutil.rmtree(folder / "lake", ignore_errors=True)
                return found

            found = in_turns(_TURNS if times == 1 else 1, readers, measure)
            rows += [{"file_mb": round(size / 1e6), **row} for row in found]
            file.unlink()
        record(
            "coco_to_tables", beside(rows, _PEER), packages=["pycocotools", "msgspec", "pyarrow", "deltalake"]
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(reader: str, file: Path, lake: Path) -> None:
    if reader == _PEER:
        from pycocotools.coco import COCO

        tell(lambda: {"annotations": len(COCO(str(file)).anns)})
    elif reader == "read in parts":
        from transforms.formats.coco import read_coco_chunks

        _warm()
        with file.open("rb") as stream:
            tell(lambda: {"annotations": sum(d.labels.num_rows for d in read_coco_chunks(stream, "a.json"))})
    else:
        from benchmarks.bucket import ingest

        _warm()
        tell(lambda: {"annotations": ingest(file.parents[1], lake).labels})


def _warm() -> None:
    """Pyarrow imports pandas with the first list that it is given."""
    import pyarrow as pa

    pa.array(["a"], pa.string())


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
