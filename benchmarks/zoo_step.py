"""A training step of the zoo beside the bare loop over torchvision's own network, on the same batches."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchmarks.real_data import real_data
from benchmarks.record import record
from dropmill.folder_samples import read_folder_samples
from training.zoo.data import BatchOrder, DetectionDataset, collate
from training.zoo.detectors import build_detector
from training.zoo.loop import _Run
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec
from training.zoo.work_dir import WorkDir

_ROUNDS = 8


def main() -> None:
    """One step of either by turns; the median of the ratios."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples = read_folder_samples(real_data("nuts-coco-masks"))
    spec = ZooSpec(
        model=ModelSpec(backbone="mobilenet_v2", neck_channels=64, short_side=(160,), long_side=320),
        data=DataSpec(transforms=()),
        train=TrainSpec(batch_size=2, tensorboard=False, group_by_shape=False, lr=1e-4),
    )
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = _ours(spec, samples, Path(folder), device), _theirs(spec, samples, device)
        ours(), theirs()
        pairs = [(_seconds(ours, device), _seconds(theirs, device)) for _ in range(_ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    mine, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    rows = [
        {"loop": "torchvision, bare", "step s": round(bare, 3), "ratio": 1.0},
        {"loop": "dropmill", "step s": round(mine, 3), "ratio": round(ratio, 3)},
    ]
    record("zoo_step", rows, packages=("torch", "torchvision"), notes={"device": device, "rounds": _ROUNDS})


def _ours(spec: ZooSpec, samples: Any, folder: Path, device: str) -> Callable[[], object]:
    from training.place import Place

    run = _Run(spec, samples, [], WorkDir(folder), Place(), device)
    run.begin()

    def batches() -> Iterator[Any]:
        while True:
            yield from run._batches()  # noqa: SLF001

    stream = batches()
    run._network.train()  # noqa: SLF001

    def step() -> object:
        images, targets, _ = next(stream)
        return run._step(images, targets, 0, move=True)  # noqa: SLF001

    return step


def _theirs(spec: ZooSpec, samples: Any, device: str) -> Callable[[], object]:
    parts: Any = build_detector(spec.model, 3)
    anchors = AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    network = FasterRCNN(parts.backbone, 4, min_size=160, max_size=320, rpn_anchor_generator=anchors)
    network.to(device).train()
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, weight_decay=1e-4
    )
    data = DetectionDataset(samples, ("date", "hazelnut", "fig"), spec.data, spec.model)

    def batches() -> Iterator[Any]:
        while True:
            for numbers in BatchOrder(len(samples), 2, seed=0):
                yield collate([data[i] for i in numbers])

    stream = batches()

    def step() -> object:
        images, targets = next(stream)
        losses = network([image.to(device) for image in images],
                         [{k: v.to(device) for k, v in one.items()} for one in targets])  # fmt: skip
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _seconds(step: Callable[[], object], device: str) -> float:
    # On a CPU the time of this process, which others on the machine do not change much.
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


if __name__ == "__main__":
    main()
