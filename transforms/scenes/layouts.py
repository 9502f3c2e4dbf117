"""Label files in the four layouts: where they lie and what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from xml.sax.saxutils import escape

from transforms.scenes.outline import Segmentation

Format: TypeAlias = Literal["voc", "coco", "kitti", "yolo"]
Corners: TypeAlias = tuple[float, float, float, float]
FORMATS: tuple[Format, ...] = ("voc", "coco", "kitti", "yolo")

_SPLITS = {2: "val", 9: "val", 16: "val", 5: "test", 12: "test", 19: "test"}


@dataclass(frozen=True)
class Row:
    """One object of a label file."""

    category: str
    box: Corners
    """xmin, ymin, xmax, ymax in pixel edges of the image as it is shown."""
    truncated: float = 0.0
    occlusion: int = 0
    area: int = 0
    """Visible pixels."""
    segmentation: Segmentation | None = None


@dataclass(frozen=True)
class Labelled:
    """What is said of one image; sizes are those of the image as it is shown."""

    stem: str
    file_name: str
    width: int
    height: int
    split: str
    rows: tuple[Row, ...]


def split_of(index: int) -> str:
    """train, val or test: 14, 3 and 3 of every 20 scenes, mixed evenly."""
    return _SPLITS.get(index % 20, "train")


def stem_of_index(index: int) -> str:
    """The name of scene ``index`` without its ending."""
    return f"{index:06d}"


def image_path(layout: Format, stem: str, split: str, suffix: str) -> str:
    """Where an image lies, below the folder of the set."""
    folder = {"voc": "JPEGImages", "coco": "images", "kitti": "training/image_2", "yolo": f"images/{split}"}
    return f"{folder[layout]}/{stem}{suffix}"


def label_path(layout: Format, stem: str, split: str) -> str:
    """Where an image's labels lie, below the folder of the set; for COCO the file of its split."""
    if layout == "voc":
        return f"Annotations/{stem}.xml"
    if layout == "coco":
        return f"annotations/instances_{split}.json"
    return f"training/label_2/{stem}.txt" if layout == "kitti" else f"labels/{split}/{stem}.txt"


def label_text(layout: Format, image: Labelled, classes: Sequence[str]) -> str:
    """The label file of one image (VOC, KITTI, YOLO)."""
    if layout == "voc":
        return _voc(image)
    if layout == "kitti":
        return "".join(_kitti_line(row) for row in image.rows)
    return "".join(_yolo_line(row, image, classes) for row in image.rows)


def coco_text(images: Sequence[Labelled], classes: Sequence[str], seed: int) -> str:
    """An instances file of COCO's object detection task."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        annotations += [_coco_annotation(row, number, classes) for row in image.rows]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    document = {
        "info": {"description": f"Drawn aerial scenes, seed {seed}", "version": "1.0"},
        "licenses": [],
        "images": [
            {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "aircraft"}
            for number, name in enumerate(classes, start=1)
        ],
    }
    return json.dumps(document, separators=(",", ":"))


def lists_of(layout: Format, splits: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The files beside the labels: which image is in which split, and what the classes are called."""
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for index, split in enumerate(splits):
        names[split].append(stem_of_index(index))
    listed = {split: "".join(f"{stem}\n" for stem in stems) for split, stems in names.items()}
    if layout == "voc":
        both = sorted(names["train"] + names["val"])
        listed["trainval"] = "".join(f"{stem}\n" for stem in both)
        return {f"ImageSets/Main/{split}.txt": text for split, text in listed.items()}
    if layout == "kitti":
        return {f"ImageSets/{split}.txt": text for split, text in listed.items()}
    if layout == "yolo":
        return {"data.yaml": _data_yaml(classes)}
    return {}


def as_written(layout: Format, box: Corners) -> list[float]:
    """The corners that a reader gets back from a label file of this layout."""
    if layout in {"voc", "kitti"}:
        return [round(value, 2) for value in box]
    return [float(value) for value in box]


def kitti_name(category: str) -> str:
    """KITTI's columns are separated by spaces, so a name has none."""
    return category.replace(" ", "_")


def _voc(image: Labelled) -> str:
    objects = "".join(
        f"""\t<object>
\t\t<name>{escape(row.category)}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{int(row.truncated > 0.02)}</truncated>
\t\t<occluded>{int(row.occlusion > 0)}</occluded>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{_plain(row.box[0])}</xmin>
\t\t\t<ymin>{_plain(row.box[1])}</ymin>
\t\t\t<xmax>{_plain(row.box[2])}</xmax>
\t\t\t<ymax>{_plain(row.box[3])}</ymax>
\t\t</bndbox>
\t</object>
"""
        for row in image.rows
    )
    return f"""<annotation>
\t<folder>JPEGImages</folder>
\t<filename>{escape(image.file_name)}</filename>
\t<source>
\t\t<database>Drawn aerial scenes</database>
\t</source>
\t<size>
\t\t<width>{image.width}</width>
\t\t<height>{image.height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{objects}</annotation>
"""


def _kitti_line(row: Row) -> str:
    # A drawing has no third dimension: KITTI's own values for "unknown" stand in its columns.
    corners = " ".join(f"{value:.2f}" for value in row.box)
    unknown = "-1 -1 -1 -1000 -1000 -1000 -10"
    return f"{kitti_name(row.category)} {row.truncated:.2f} {row.occlusion} -10 {corners} {unknown}\n"


def _yolo_line(row: Row, image: Labelled, classes: Sequence[str]) -> str:
    xmin, ymin, xmax, ymax = row.box
    parts = (
        (xmin + xmax) / 2 / image.width,
        (ymin + ymax) / 2 / image.height,
        (xmax - xmin) / image.width,
        (ymax - ymin) / image.height,
    )
    return f"{list(classes).index(row.category)} " + " ".join(f"{part:.6f}" for part in parts) + "\n"


def _coco_annotation(row: Row, image_id: int, classes: Sequence[str]) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = row.box
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": list(classes).index(row.category) + 1,
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": row.area,
        "iscrowd": 0,
        "segmentation": row.segmentation if row.segmentation is not None else [],
    }


def _data_yaml(classes: Sequence[str]) -> str:
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(classes))
    return f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\n\nnames:\n{names}"


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.2f}"
