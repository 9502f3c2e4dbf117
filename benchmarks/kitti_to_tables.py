"""KITTI's 7,481 training frames (13 real ones repeated) to committed tables, beside the floor.

The floor is what nobody can do without: reading the bytes of every label and the header of every image.
Both are done in turns, each in a process of its own, and the quickest turn of each counts.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import in_child, in_turns, tell
from benchmarks.real_data import real_data
from benchmarks.record import record

_FRAMES = 7_481
_TURNS = 5


def main() -> None:
    """Measure and print."""
    source = real_data("kitti")
    folder = Path(tempfile.mkdtemp(prefix="dropmill-kitti-"))
    try:
        training = folder / "bucket" / "kitti" / "training"
        _frames(source, training)

        def measure(reader: str) -> dict[str, Any]:
            found = in_child("benchmarks.kitti_to_tables", "--child", reader, str(folder))
            shutil.rmtree(folder / "lake", ignore_errors=True)
            return found

        rows = in_turns(_TURNS, ("floor", "committed tables"), measure)
        floor = rows[0]["seconds"]
        rows = [{**row, "times the floor": round(row["seconds"] / floor, 2)} for row in rows]
        record("kitti_to_tables", rows, packages=["pyarrow", "deltalake", "pillow"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _frames(source: Path, training: Path) -> None:
    """Frames as hard links where the file system allows, else as copies of the smallest image alone."""
    for part in ("image_2", "label_2"):
        (training / part).mkdir(parents=True)
    stems = sorted(file.stem for file in (source / "label_2").glob("*.txt"))
    first = {}
    for stem in stems:
        first[stem] = shutil.copy(source / "image_2" / f"{stem}.png", training.parents[2] / f"{stem}.png")
    for number in range(_FRAMES):
        stem = stems[number % len(stems)]
        os.link(first[stem], training / "image_2" / f"{number:06d}.png")
        shutil.copyfile(source / "label_2" / f"{stem}.txt", training / "label_2" / f"{number:06d}.txt")


def _floor(training: Path) -> dict[str, Any]:
    from PIL import Image

    size = 0
    for label in sorted((training / "label_2").iterdir()):
        size += len(label.read_bytes())
    for path in sorted((training / "image_2").iterdir()):
        with Image.open(path) as image:
            size += image.width
    return {"boxes": None}


def _child(reader: str, folder: Path) -> None:
    if reader == "floor":
        from PIL import PngImagePlugin

        assert PngImagePlugin
        tell(lambda: _floor(folder / "bucket" / "kitti" / "training"))
    else:
        from benchmarks.bucket import ingest

        tell(lambda: {"boxes": ingest(folder / "bucket", folder / "lake").labels})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
