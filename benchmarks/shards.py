"""Shards: writing beside copying the bytes, reading beside a torch DataLoader over loose files.

Reading: the same JPEGs at 640x480, decoded by the same library into tensors, shuffled, in batches, with as
many threads here as worker processes there. Writing: the same files copied one by one, and joined into one
file, with nothing else done.

Of files of 20 KB the time goes to opening and reading them; a shard adds SHA-256 (a fifth of the processor
time, in a thread of its own), tar headers, JSON and joining. What was tried for writing, 1,092 files on two
busy cores: 0.14 s of processor time before, 0.08 s after all of it. Labels encoded once, not twice: 2 ms. A
header whose checksum is summed over name and size alone: 4 ms to 1.7 ms. One join and one write for each
megabyte in place of ``writev`` over 512 pieces that were hashed one by one: most of it, because every small
piece took the interpreter's lock. ``os.read`` in place of file objects: the rest.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import in_child, tell
from benchmarks.real_data import real_data
from benchmarks.record import record

_MODULE = "benchmarks.shards"
_COPIES = 3
_BATCH = 32
_TURNS = 2


def main() -> None:
    """Measure and print."""
    workers = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="dropmill-shards-") as scratch:
        folder = Path(scratch)
        images = _many(folder / "images")
        rows = []
        for what, names in (
            ("write", ("copy file by file", "copy into one file", "dropmill shards")),
            (
                "read",
                (
                    "torch DataLoader, loose files",
                    "dropmill ShardDataset, DataLoader",
                    "dropmill ShardLoader",
                ),
            ),
        ):
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for _ in range(_TURNS):
                for name in names:
                    turns[name].append(in_child(_MODULE, name, scratch, workers))
            best = {name: min(found, key=lambda one: one["seconds"]) for name, found in turns.items()}
            peer = best[names[0]]
            rows += [
                {
                    "what": what,
                    "how": name,
                    "seconds": found["seconds"],
                    "cpu_seconds": found["cpu_seconds"],
                    "peak_gb": found["peak_gb"],
                    "images_per_s": round(images / found["seconds"]),
                    "time beside the first": f"{found['seconds'] / peer['seconds']:.2f}x",
                    "CPU beside the first": f"{found['cpu_seconds'] / peer['cpu_seconds']:.2f}x",
                }
                for name, found in best.items()
            ]
    record(
        "shards",
        rows,
        packages=["torch", "opencv-python-headless", "numpy"],
        notes={"images": images, "input": "640x480 JPEG (BCCD)", "batch": _BATCH, "workers": int(workers)},
    )


def _many(folder: Path) -> int:
    """The images several times over, so that starting costs little beside the work."""
    folder.mkdir()
    files = sorted(real_data("bccd-voc").rglob("*.jpg"))
    for copy in range(_COPIES):
        for path in files:
            shutil.copyfile(path, folder / f"{path.stem}_{copy}.jpg")
    return _COPIES * len(files)


def _files(scratch: Path) -> list[Path]:
    return sorted((scratch / "images").iterdir())


def _into_one(scratch: Path) -> None:
    files = _files(scratch)

    def work() -> dict[str, Any]:
        with (scratch / "one").open("wb") as target:
            for path in files:
                target.write(path.read_bytes())
        return {}

    tell(work)


def _one_by_one(scratch: Path) -> None:
    target = scratch / "copies"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    files = _files(scratch)

    def work() -> dict[str, Any]:
        for path in files:
            shutil.copyfile(path, target / path.name)
        return {}

    tell(work)


def _write(scratch: Path) -> None:
    from storage.object_store import ObjectStore
    from transforms.shards.sample import ShardLabels, ShardObject, entry_of
    from transforms.shards.write import write_shards

    # The other side has its list of files as well before its time is taken.
    shutil.rmtree(scratch / "shards", ignore_errors=True)
    objects = tuple(ShardObject(category="cell", bbox=(1, 2, 3 + i, 4 + i)) for i in range(13))
    entries = [
        entry_of(
            path.name,
            str(path),
            "1",
            path.stat().st_size,
            ShardLabels(sample=path.stem, width=640, height=480, objects=objects),
        )
        for path in _files(scratch)
    ]
    store = ObjectStore.at(scratch / "shards")
    tell(lambda: {"shards": write_shards(entries, store, size_bytes=16_000_000).written})


def _loose(scratch: Path, workers: int) -> None:
    import cv2
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset

    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    class Loose(Dataset[Any]):
        def __init__(self, paths: list[Path]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, number: int) -> Any:
            data = np.frombuffer(self.paths[number].read_bytes(), np.uint8)
            return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    loader = DataLoader(Loose(_files(scratch)), batch_size=_BATCH, shuffle=True, num_workers=workers)
    tell(lambda: {"seen": sum(len(batch) for batch in loader)})


def _ours(scratch: Path, workers: int, *, threads: bool) -> None:
    import cv2
    import torch
    from torch.utils.data import DataLoader

    from transforms.shards.reader import EpochSampler, ShardDataset, ShardLoader

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    dataset = ShardDataset(scratch / "shards")
    sampler = EpochSampler(dataset.sizes)
    loader: Any
    if threads:
        loader = ShardLoader(dataset, sampler, batch_size=_BATCH, threads=workers)
    else:
        loader = DataLoader(dataset, sampler=sampler, batch_size=_BATCH, num_workers=workers, collate_fn=list)
    # Batches as one tensor each, as the other side has them.
    tell(lambda: {"seen": sum(len(torch.stack([item.image for item in batch])) for batch in loader)})


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _name, _scratch, _workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
        if _name == "copy into one file":
            _into_one(_scratch)
        elif _name == "copy file by file":
            _one_by_one(_scratch)
        elif _name == "dropmill shards":
            _write(_scratch)
        elif _name == "torch DataLoader, loose files":
            _loose(_scratch, _workers)
        else:
            _ours(_scratch, _workers, threads=_name.endswith("ShardLoader"))
    else:
        main()
