"""Masks a second: the labeler of a checkpoint (boxes of many images in one batch, one decode an image,
normalisation folded, half precision where the machine has it), beside one box at a time with the same network
as it was trained.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.mal_masks import SETTINGS
from benchmarks.real_data import real_data
from benchmarks.record import record
from training.mal.checkpoint import Checkpoint, save_checkpoint
from training.mal.labeler import MalLabeler
from training.mal.network import build_network
from training.mal.precision import computes_in_half
from training.mal.spec import load_spec
from training.samples import decode_image
from transforms.formats.masks import encoded_counts, run_counts
from transforms.formats.voc import read_voc
from transforms.masks.labeler import BoxedImage, why_not

_IMAGES = 8
_Work = list[tuple[Path, np.ndarray]]
_Way = Callable[[MalLabeler, _Work], int]


def main() -> None:
    """Blood cells (some 14 boxes an image); the weights are random, which costs the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = load_spec(None, list(SETTINGS))
    network = build_network(spec)
    weights = network.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        save_checkpoint(path, Checkpoint(spec=spec, student=weights, teacher=weights))
        labeler = MalLabeler.of_checkpoint(path, batch_size=16)
    plain = MalLabeler([network], spec, batch_size=1)
    work = _cells()
    count = sum(len(boxes) for _, boxes in work)
    ways = ((_one_by_one, plain), (_together, labeler))
    for way, model in ways:
        way(model, work[:1])
    slow, fast = _seconds(ways, work)
    rows = [
        {"way": "one box at a time, a decode each", "boxes": count, "boxes/s": round(count / slow, 1)},
        {"way": "batches, one decode an image", "boxes": count, "boxes/s": round(count / fast, 1)},
    ]
    for row, seconds in zip(rows, (slow, fast), strict=True):
        row["times the loop"] = round(slow / seconds, 2)
    notes = {"threads": 1, "images": _IMAGES, "half": computes_in_half(torch.device("cpu"))}
    record("mask_throughput", rows, packages=["torch", "timm"], notes=notes)


def _cells() -> _Work:
    folder = real_data("bccd-voc")
    found = []
    for path in sorted(folder.rglob("*.xml"))[:_IMAGES]:
        labels = read_voc(path.read_bytes(), str(path)).labels
        boxes = np.array(labels["bbox"].to_pylist(), float)
        picture = next(folder.rglob(f"{path.stem}.jpg"))
        with Image.open(picture) as image:
            sound = [why_not(box.tolist(), *image.size) is None for box in boxes]
        found.append((picture, boxes[sound]))
    return found


def _together(labeler: MalLabeler, work: _Work) -> int:
    """As the lake's stage does it: eight images at a time, masks encoded from their windows."""
    done = 0
    for start in range(0, len(work), 8):
        some = [
            BoxedImage(decode_image(path.read_bytes(), str(path)), boxes)
            for path, boxes in work[start : start + 8]
        ]
        for image, windows in zip(some, labeler.label(some), strict=True):
            height, width = image.pixels.shape[:2]
            for window in windows:
                encoded_counts(run_counts(window.mask, window.left, window.top, width, height))
                done += 1
    return done


def _one_by_one(labeler: MalLabeler, work: _Work) -> int:
    """As a loop over annotations does it: image, crop, network, whole mask, run lengths; box after box."""
    from pycocotools import mask as coco_mask

    done = 0
    for path, boxes in work:
        for box in boxes:
            pixels = decode_image(path.read_bytes(), str(path))
            [[window]] = labeler.label([BoxedImage(pixels, box[None])])
            whole = np.zeros(pixels.shape[:2], np.uint8, order="F")
            rows, columns = window.mask.shape
            whole[window.top : window.top + rows, window.left : window.left + columns] = window.mask
            coco_mask.encode(whole)
            done += 1
    return done


def _seconds(ways: Sequence[tuple[_Way, MalLabeler]], work: _Work) -> list[float]:
    """The faster of two turns of each, by turns."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(2):
        for times, (way, model) in zip(found, ways, strict=True):
            began = time.perf_counter()
            way(model, work)
            times.append(time.perf_counter() - began)
    return [min(times) for times in found]


if __name__ == "__main__":
    main()
