"""How long trainings wait for data that comes from shards, beside the same from loose files.

One epoch of DetectNet_v2 and of Faster R-CNN each, on the same pictures, pixels read anew; both give the same
weights, so that only the waiting differs. The share is of the time of the steps, waiting included. They take
turns, and the turn that waited least counts: other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.real_data import real_data
from benchmarks.record import record
from dropmill.folder_samples import read_folder_samples
from storage.object_store import ObjectStore
from training.detectnet_v2.loop import fit as fit_detectnet
from training.detectnet_v2.spec import default_spec
from training.samples import Sample
from training.shard_samples import read_shard_samples
from training.zoo.loop import fit as fit_zoo
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec
from transforms.shards.sample import ShardLabels, ShardObject, entry_of
from transforms.shards.write import write_shards

_CLASSES = ("RBC", "WBC", "Platelets")


def main() -> None:
    """Train four times and print the shares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shard_training", description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="Processes that read pictures.")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    loose = read_folder_samples(real_data("bccd-voc"))[: asked.images]
    rows = []
    with tempfile.TemporaryDirectory(prefix="dropmill-shard-training-") as scratch:
        folder = Path(scratch)
        _write(loose, folder / "shards")
        sharded = read_shard_samples(folder / "shards")
        for what, train in (("DetectNet_v2, 320x240", _detectnet), ("Faster R-CNN, short side 160", _zoo)):
            both = {"loose files": loose, "shards": sharded}
            turns = [
                (source, train(samples, folder / f"{what}-{source}-{turn}", asked.workers))
                for turn in range(asked.turns)
                for source, samples in both.items()
            ]
            for source in both:
                seconds, share = min((found for name, found in turns if name == source), key=_waited)
                rows.append(
                    {
                        "training": what,
                        "data": source,
                        "images": len(loose),
                        "seconds": round(seconds, 2),
                        "waiting ms an image": round(1000 * seconds * share / len(loose), 2),
                        "waiting share": round(share, 4),
                    }
                )
            mine, peer = rows[-1], rows[-2]
            waited = [float(str(one["waiting ms an image"])) for one in (mine, peer)]
            mine["beside loose files"], peer["beside loose files"] = round(waited[0] / waited[1], 2), 1.0
    record(
        "shard_training",
        rows,
        packages=("torch", "torchvision", "pillow"),
        notes={
            "input": "640x480 JPEG (BCCD)",
            "workers": asked.workers,
            "threads": asked.threads,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        },
    )


def _waited(found: tuple[float, float]) -> float:
    return found[0] * found[1]


def _write(samples: Sequence[Sample], folder: Path) -> None:
    entries = []
    for one in samples:
        path = Path(one.uri)
        objects = tuple(
            ShardObject(category=name, bbox=(box[0], box[1], box[2], box[3]), ignore=ignore)
            for name, box, ignore in zip(one.categories, one.boxes.tolist(), one.ignore.tolist(), strict=True)
        )
        labels = ShardLabels(sample=one.id, width=one.width, height=one.height, objects=objects)
        entries.append(entry_of(f"{one.id}{path.suffix}", str(path), "1", path.stat().st_size, labels))
    write_shards(entries, ObjectStore.at(folder), size_bytes=200_000)


def _detectnet(samples: Sequence[Sample], folder: Path, workers: int) -> tuple[float, float]:
    spec = default_spec(_CLASSES, 320, 240, epochs=1, batch_size=8, amp=False)
    found = fit_detectnet(spec, samples, [], folder, workers=workers).history[0]
    return len(samples) / found["images_per_second"], found["data_wait_share"]


def _zoo(samples: Sequence[Sample], folder: Path, workers: int) -> tuple[float, float]:
    spec = ZooSpec(
        model=ModelSpec(backbone="mobilenet_v2", neck_channels=64, short_side=(160,), long_side=320),
        data=DataSpec(workers=workers, classes=_CLASSES),
        train=TrainSpec(epochs=1, batch_size=2, tensorboard=False, lr=1e-4),
    )
    found = fit_zoo(spec, samples, folder).history[0]
    return found["seconds"], found["waiting_s"] / found["seconds"]


if __name__ == "__main__":
    main()
