"""Augmentation of 640x480 JPEGs: turn, colours, blur, resize, with boxes, beside albumentations.

All read the same files, use the same number of threads, decode and encode with the same library at the same
quality. ``floor`` only decodes and encodes. DALI carries out our plans on the CPU.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import in_child, tell
from benchmarks.real_data import real_data
from benchmarks.record import record
from transforms.augment.executor import carry_out
from transforms.augment.generate import read_local, work_of
from transforms.augment.pixels import decode, encode
from transforms.augment.sample import LabelledImage, objects_of
from transforms.augment.single import Settings
from transforms.augment.spec import load_augment_spec

_MODULE = "benchmarks.augment"
_IMAGES = 364
_WIDTH, _HEIGHT = 512, 384
_ANGLE, _HUE, _SATURATION, _CONTRAST, _BRIGHTNESS = 15.0, 10, 0.3, 0.2, 0.1
_TURNS = 5


def main() -> None:
    """Measure and print."""
    threads = len(os.sched_getaffinity(0))
    names = ("floor", "albumentations", "dropmill", "dropmill, DALI on the CPU")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    # Taken by turns, so that all meet the same noise; the quietest counts, as other work only ever adds.
    for turn in range(_TURNS):
        for name in names:
            if turn == 0 or "DALI" not in name:
                turns[name].append(in_child(_MODULE, name, str(threads)))
    rows: list[dict[str, Any]] = [
        {"executor": name, **min(found, key=lambda one: one["seconds"])} for name, found in turns.items()
    ]
    peer = next(row for row in rows if row["executor"] == "albumentations")
    for row in rows:
        row["images_per_s"] = round(row["images"] / row["seconds"], 1)
        row["cpu_ms_per_image"] = round(1000 * row["cpu_seconds"] / row["images"], 2)
        row["faster than albumentations"] = _ratio(peer, row, "seconds")
        row["by CPU"] = _ratio(peer, row, "cpu_seconds")
    record(
        "augment",
        rows,
        packages=["albumentations", "opencv-python-headless", "nvidia-dali-cuda120", "numpy"],
        notes={
            "input": "640x480 JPEG (BCCD)",
            "output": f"{_WIDTH}x{_HEIGHT} JPEG, quality 95",
            "steps": "rotate, hue and saturation, contrast and brightness, Gaussian blur 3, resize, boxes",
            "threads": threads,
        },
    )


def _ratio(peer: dict[str, Any], row: dict[str, Any], what: str) -> str:
    return f"{peer[what] / peer['images'] / (row[what] / row['images']):.2f}x"


def _images() -> tuple[LabelledImage, ...]:
    folder = real_data("bccd-voc")
    rng = np.random.default_rng(0)
    found = []
    for path in sorted(folder.rglob("*.jpg"))[:_IMAGES]:
        corners = rng.uniform((0, 0), (560, 400), (12, 2))
        boxes = np.concatenate([corners, corners + 70], axis=1)
        objects = objects_of(boxes, ["cell"] * 12, [False] * 12, list(range(12)), [None] * 12)
        found.append(
            LabelledImage(
                sample=path.stem,
                name=path.name,
                uri=str(path),
                version="1",
                width=640,
                height=480,
                objects=objects,
            )
        )
    return tuple(found)


def _ours(executor: str, threads: int) -> None:
    spec = load_augment_spec(
        None,
        [
            f"spatial_aug.rotation.angle=[-{_ANGLE},{_ANGLE}]",
            f"color_aug.hue.hue_rotation_angle=[-{_HUE},{_HUE}]",
            f"color_aug.saturation.saturation_shift=[{1 - _SATURATION},{1 + _SATURATION}]",
            f"color_aug.contrast.contrast=[-{_CONTRAST},{_CONTRAST}]",
            f"color_aug.brightness.offset=[-{255 * _BRIGHTNESS},{255 * _BRIGHTNESS}]",
            "blur_aug.size=[3]",
            "blur_aug.std=[0.8]",
            f"data.output_image_width={_WIDTH}",
            f"data.output_image_height={_HEIGHT}",
        ],
    )
    images = _images() if executor == "opencv" else _images()[:60]
    settings = Settings(executor=executor, threads=threads, batch_size=8)

    def work() -> dict[str, Any]:
        # Drawing the plans and moving the boxes is part of it.
        todo = work_of(spec, None, images)
        done = sum(
            output.data is not None for output in carry_out(todo.plans, todo.images, read_local, settings)
        )
        assert done == len(images)
        return {"images": done}

    tell(work)


def _albumentations(threads: int) -> None:
    import albumentations as A  # noqa: N812
    import cv2

    cv2.setNumThreads(1)
    steps = A.Compose(
        [
            A.Rotate(limit=_ANGLE, interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_CONSTANT, p=1),
            A.HueSaturationValue(
                hue_shift_limit=_HUE / 2,
                sat_shift_limit=255 * _SATURATION,
                val_shift_limit=0,
                p=1,
            ),
            A.RandomBrightnessContrast(brightness_limit=_BRIGHTNESS, contrast_limit=_CONTRAST, p=1),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.8, 0.8), p=1),
            A.Resize(_HEIGHT, _WIDTH, interpolation=cv2.INTER_LINEAR),
        ],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["numbers"], clip=True),
        seed=42,
    )

    def one(image: LabelledImage) -> bytes:
        pixels = decode(Path(image.uri).read_bytes(), image.name)
        made = steps(image=pixels, bboxes=image.objects.boxes, numbers=np.arange(len(image.objects)))
        return encode(made["image"], image.name)

    _with_threads(one, threads)


def _floor(threads: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    _with_threads(lambda image: encode(decode(Path(image.uri).read_bytes(), image.name), image.name), threads)


def _with_threads(one: Any, threads: int) -> None:
    images = _images()

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(threads) as pool:
            return {"images": sum(len(data) > 0 for data in pool.map(one, images))}

    tell(work)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _name, _threads = sys.argv[1], int(sys.argv[2])
        if _name == "floor":
            _floor(_threads)
        elif _name == "albumentations":
            _albumentations(_threads)
        else:
            _ours("dali" if "DALI" in _name else "opencv", _threads)
    else:
        main()
