"""Label files of KITTI and COCO as frames, with the sizes that their images have."""

from __future__ import annotations

import glob
import json
from pathlib import Path

import numpy as np

from storage.errors import ConfigError, UnreadableError
from training.detectnet_v2.frames import Frame
from training.detectnet_v2.spec_jobs import CocoConfig, KittiConfig


def kitti_frames(config: KittiConfig) -> tuple[list[Frame], list[str]]:
    """Every label file of the folder with its image, by name; and the boxes that have no area.

    Raises ``ConfigError`` for folders that are not there and for images that end in something else,
    ``UnreadableError`` for a label without image.
    """
    from transforms.formats.kitti import read_kitti

    root = Path(config.root_directory_path)
    images = _folder(root / config.image_dir_name, "kitti_config.image_dir_name")
    labels = _folder(root / config.label_dir_name, "kitti_config.label_dir_name")
    extension = "." + config.image_extension.lstrip(".")
    frames, dropped = [], []
    for path in sorted(labels.glob("*.txt")):
        image = images / f"{path.stem}{extension}"
        rows = read_kitti(path.read_bytes(), str(path)).labels.to_pylist()
        others = [] if image.is_file() else sorted(images.glob(f"{glob.escape(path.stem)}.*"))
        if others:
            found = config.image_extension
            raise ConfigError(
                f"kitti_config.image_extension is {found}; the image of {path} is {others[0].name}",
                key="image_extension",
                found=found,
            )
        width, height = _size(image, f"the image of {path}")
        sound = []
        for row in rows:
            x1, y1, x2, y2 = row["bbox"]
            if x1 < x2 and y1 < y2:
                sound.append(row)
            else:
                dropped.append(f"{path}, line {row['line']}: {row['category']} {row['bbox']}")
        said = [json.loads(row["attributes"]) for row in sound]
        extras = {
            "truncation": [row["truncation"] for row in sound],
            "occlusion": [row["occlusion"] for row in sound],
            "observation_angle": [one["alpha"] for one in said],
            "world_bbox_rot_y": [one["rotation_y"] for one in said],
        }
        for number, side in enumerate("hwl"):
            extras[f"world_bbox_{side}"] = [one["dimensions"][number] for one in said]
        for number, axis in enumerate("xyz"):
            extras[f"world_bbox_{axis}"] = [one["location"][number] for one in said]
        frames.append(
            Frame(
                id=f"{config.image_dir_name}/{path.stem}".lstrip("/"),
                width=width,
                height=height,
                categories=tuple(row["category"] for row in sound),
                boxes=np.array([row["bbox"] for row in sound], np.float64).reshape(-1, 4),
                ignore=np.array([row["ignore"] for row in sound], bool),
                extras=extras,
            )
        )
    if not frames:
        raise ConfigError(f"kitti_config.label_dir_name: no label files (*.txt) in {labels}")
    return frames, dropped


def coco_frames(config: CocoConfig) -> tuple[list[list[Frame]], list[str]]:
    """One partition for each annotation file, with the images of its folder; and the boxes without area."""
    from transforms.formats.detect import read_label

    count = len(config.annotation_files)
    if not count or len(config.img_dir_names) != count or config.num_partitions != count:
        raise ConfigError(
            f"coco_config has {count} annotation_files, {len(config.img_dir_names)} img_dir_names and "
            f"num_partitions {config.num_partitions}; expected one folder and one partition for each file"
        )
    root = Path(config.root_directory_path)
    parts, dropped = [], []
    for name, folder in zip(config.annotation_files, config.img_dir_names, strict=True):
        path = root / name
        if not path.is_file():
            raise ConfigError(f"coco_config.annotation_files: {path} is not a file")
        delivery = read_label(path.read_bytes(), path.name)
        if delivery.format != "coco":
            raise UnreadableError(str(path), f"{delivery.format} labels", expected="COCO")
        images = _folder(root / folder, "coco_config.img_dir_names")
        rows: dict[str, list[dict[str, object]]] = {}
        for row in delivery.labels.select(
            ["ref", "category", "bbox", "iscrowd", "ignore", "instance"]
        ).to_pylist():
            rows.setdefault(row["ref"], []).append(row)
        part = []
        for mention in delivery.mentions.to_pylist():
            file_name = json.loads(mention["attributes"] or "{}").get("file_name", mention["ref"])
            width, height = mention["width"], mention["height"]
            if not width or not height:
                width, height = _size(images / file_name, f"image {mention['ref']} of {path}")
            frame, bad = _coco_frame(
                rows.get(mention["ref"], []), f"{folder}/{mention['ref']}", width, height
            )
            part.append(frame)
            dropped += [f"{path}: {text}" for text in bad]
        parts.append(part)
    return parts, dropped


def _coco_frame(rows: list[dict[str, object]], name: str, width: int, height: int) -> tuple[Frame, list[str]]:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    sound = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    boxes[:, 2:] += boxes[:, :2]
    kept = [row for row, good in zip(rows, sound, strict=True) if good]
    frame = Frame(
        id=name.lstrip("/"),
        width=width,
        height=height,
        categories=tuple(str(row["category"]) for row in kept),
        boxes=boxes[sound],
        ignore=np.array([bool(row["iscrowd"] or row["ignore"]) for row in kept], bool),
    )
    bad = [
        f"{row['category']} {row['bbox']} in {name}"
        for row, good in zip(rows, sound, strict=True)
        if not good
    ]
    return frame, bad


def _folder(path: Path, key: str) -> Path:
    if not path.is_dir():
        raise ConfigError(f"{key}: {path} is not a folder", key=key, found=str(path))
    return path


def _size(path: Path, what: str) -> tuple[int, int]:
    """Width and height as shown, from the header."""
    from transforms.images import inspect_image

    if not path.is_file():
        raise UnreadableError(str(path), f"no such file, though it is {what}", expected="an image")
    with path.open("rb") as stream:
        header = inspect_image(stream, str(path), path.stat().st_size)
    return header.width, header.height
