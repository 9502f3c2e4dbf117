"""Small folders to augment, and specs of TAO's form for them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dropmill.augmentation import augment
from transforms.augment.pixels import encode
from transforms.augment.spec import load_augment_spec

# As people have it, 5.0; written anew from the keys of its schema.
SPEC = """\
random_seed: 42
num_gpus: 1
gpu_ids: [0]
data:
  dataset_type: kitti
  image_dir: IMAGES
  ann_path: LABELS
  output_dataset: OUT
  output_image_width: 1000
  output_image_height: 300
  batch_size: 2
  include_masks: False
spatial_aug:
  rotation:
    angle: [0, 10, 30]
    units: degrees
    refine_box:
      enabled: False
      gt_cache: ""
  shear: {shear_ratio_x: [0.0], shear_ratio_y: [0.0]}
  translation: {translate_x: [0], translate_y: [0]}
  flip: {flip_horizontal: False, flip_vertical: False}
color_aug:
  hue: {hue_rotation_angle: [0]}
  saturation: {saturation_shift: [1]}
  contrast: {contrast: [0], center: [127]}
  brightness: {offset: [0]}
blur_aug: {size: [3], std: [0.1]}
"""
CAR = "Car 0.00 0 -1.58 10.00 10.00 30.00 40.00 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


def kitti_folder(
    folder: Path, images: dict[str, bytes | tuple[int, int]], labels: dict[str, str] | None = None
) -> list[str]:
    """A KITTI folder; an image is bytes, or a size to be drawn at. Returns the overrides that name it."""
    for name, content in images.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, tuple):
            rng = np.random.default_rng(len(name))
            rough = rng.integers(0, 256, (max(content[1] // 8, 1), max(content[0] // 8, 1), 3), np.uint8)
            path.write_bytes(encode(cv2.resize(rough, content), name))
        else:
            path.write_bytes(content)
        text = (labels or {}).get(name, CAR)
        label = (folder / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    return [
        "data.dataset_type=kitti",
        f"data.image_dir={folder / 'images'}",
        f"data.ann_path={folder / 'labels'}",
        f"results_dir={folder / 'out'}",
    ]


def coco_folder(folder: Path, annotations: list[dict], *, size=(64, 48), names=("a/x.jpg",)) -> list[str]:
    images = [
        {"id": 7 + i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)
    ]
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "#407020").save(path)
    document = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    (folder / "in.json").write_text(json.dumps(document))
    return [
        f"data.image_dir={folder / 'images'}",
        f"data.ann_path={folder / 'in.json'}",
        f"results_dir={folder / 'out'}",
    ]


def coco_annotation(number: int, bbox: list[int], **more) -> dict:
    return {"id": number, "image_id": 7, "category_id": 3, "bbox": bbox, "area": 1, "iscrowd": 0, **more}


def run(*words: str):
    return augment(load_augment_spec(None, words))[0]


def boxes_of(folder: Path) -> dict[str, list[list[str]]]:
    return {
        file.name: [line.split() for line in file.read_text().splitlines()]
        for file in sorted((folder / "labels").rglob("*.txt"))
    }
