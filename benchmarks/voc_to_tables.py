"""3,640 Pascal VOC files with 48,880 boxes (BCCD ten times), beside globox and supervision.

The peers are installed into an environment of their own, which goes when the benchmark ends; one that cannot
be had is reported as absent. They load the labels into memory; Dropmill is measured doing that, and to
committed tables as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import in_child, tell
from benchmarks.real_data import real_data

_TIMES = 10
_TURNS = 3
_PEERS = {"globox": "globox", "supervision": "supervision"}


def main() -> None:
    """Measure and print."""
    # The peers' environments, which run this module as well, have none of its packages.
    from benchmarks.record import record

    source = real_data("bccd-voc")
    folder = Path(tempfile.mkdtemp(prefix="dropmill-voc-"))
    try:
        _multiply(source, folder / "bucket" / "voc")
        pythons = {"read": sys.executable, "committed tables": sys.executable}
        absent = {}
        for peer, package in _PEERS.items():
            python = _environment(folder / f"env-{peer}", package)
            if python is None:
                absent[peer] = "could not be installed"
            else:
                pythons[peer] = python
        runs: dict[str, list[dict[str, Any]]] = {reader: [] for reader in pythons}
        # In turns, so that what else the machine does meets all alike.
        for _ in range(_TURNS):
            for reader, python in pythons.items():
                runs[reader].append(
                    in_child("benchmarks.voc_to_tables", "--child", reader, str(folder), python=python)
                )
                shutil.rmtree(folder / "lake", ignore_errors=True)
        rows = [
            {"reader": reader, **min(found, key=lambda one: float(one["seconds"]))}
            for reader, found in runs.items()
        ]
        own, cpu = rows[0]["seconds"], rows[0]["cpu_seconds"]
        rows = [
            {
                **row,
                "times the reading": round(row["seconds"] / own, 2),
                "by CPU": round(row["cpu_seconds"] / cpu, 2),
            }
            for row in rows
        ]
        record("voc_to_tables", rows, packages=["pyarrow", "defusedxml"], notes={"absent": absent})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _multiply(source: Path, target: Path) -> None:
    for part in ("JPEGImages", "Annotations"):
        (target / part).mkdir(parents=True)
    for number in range(_TIMES):
        for file in (source / "Annotations").glob("*.xml"):
            name = f"{number}_{file.stem}"
            text = file.read_text().replace(f"{file.stem}.jpg", f"{name}.jpg")
            (target / "Annotations" / f"{name}.xml").write_text(text)
            shutil.copyfile(source / "JPEGImages" / f"{file.stem}.jpg", target / "JPEGImages" / f"{name}.jpg")


def _environment(folder: Path, package: str) -> str | None:
    uv = shutil.which("uv")
    if uv is None:
        return None
    python = folder / "bin" / "python"
    for words in (
        ["venv", "--quiet", str(folder)],
        ["pip", "install", "--quiet", "-p", str(python), package],
    ):
        if subprocess.run([uv, *words], capture_output=True, check=False).returncode:
            return None
    return str(python)


def _read(folder: Path) -> dict[str, Any]:
    from transforms.formats.detect import read_labels

    files = sorted((folder / "Annotations").iterdir())
    tables = read_labels((f"Annotations/{file.name}", file.read_bytes()) for file in files)
    return {"boxes": tables["labels"].num_rows}


def _globox(folder: Path) -> dict[str, Any]:
    from globox import AnnotationSet  # type: ignore[import-not-found]

    found = AnnotationSet.from_pascal_voc(folder / "Annotations")
    return {"boxes": sum(len(annotation.boxes) for annotation in found)}


def _supervision(folder: Path) -> dict[str, Any]:
    import supervision  # type: ignore[import-not-found]

    found = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(folder / "JPEGImages"),
        annotations_directory_path=str(folder / "Annotations"),
    )
    return {"boxes": sum(len(one) for one in found.annotations.values())}


def _child(reader: str, folder: Path) -> None:
    voc = folder / "bucket" / "voc"
    if reader == "globox":
        import globox

        assert globox
        tell(lambda: _globox(voc))
    elif reader == "supervision":
        import supervision

        assert supervision
        tell(lambda: _supervision(voc))
    elif reader == "read":
        import pyarrow as pa

        import transforms.formats.detect

        assert transforms.formats.detect
        # pyarrow imports pandas with the first list that it is given.
        pa.array(["a"], pa.string())
        tell(lambda: _read(voc))
    else:
        from benchmarks.bucket import ingest

        tell(lambda: {"boxes": ingest(folder / "bucket", folder / "lake").labels})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
