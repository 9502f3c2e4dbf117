"""Label files on a disk to a collection, with the images beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from storage.errors import ConfigError, UnreadableError
from transforms.delivery import Delivery, route_of, without_extension
from transforms.formats.classes import is_class_list_name, read_data_yaml
from transforms.formats.detect import read_label
from transforms.formats.odvg import read_label_map
from transforms.formats.refs import is_image_name
from transforms.images import inspect_image
from transforms.writers.collection import Collection, of_deliveries

_NAMES = {
    "odvg": "ODVG",
    "kitti": "KITTI",
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "labelme": "LabelMe",
    "cvat": "CVAT",
    "open_images": "Open Images",
    "tfrecord": "TFRecord",
}

_LEVELS_ABOVE = 2

# Forms with a file for each image; of others several files may speak of one.
_OF_ONE_IMAGE = ["kitti", "voc", "yolo", "labelme", "empty"]

ImageFiles = dict[str, tuple[str, int | None, int | None]]
"""Path without extension to file name, width and height."""


def read_folder(form: str, folder: Path, key: str) -> Collection:
    """Read all labels of a form in a folder and below, or one file, in the order of their names.

    Class and split lists among them are read as well, and for YOLO the class list in one of the two folders
    above where there is none among them; files of no label form are left alone. Raises
    :class:`ConfigError` where ``folder`` (the spec's ``key``) is not there or has no such labels, and
    :class:`UnreadableError` for a file that is damaged, or labels of another form.
    """
    if not str(folder):
        raise ConfigError(f"{key}: no value; expected the path of the {_NAMES[form]} labels")
    if not folder.exists():
        raise ConfigError(f"{key}: {folder} does not exist")
    root = folder if folder.is_dir() else folder.parent
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else [folder]
    deliveries = []
    for file in files:
        if is_image_name(file.name) or file.name.startswith("."):
            continue
        path = file.relative_to(root).as_posix()
        delivery = read_label(file.read_bytes(), path)
        _refuse_other_forms(delivery, form, path)
        deliveries.append((path, delivery))
    if not any(delivery.kind == "label" for _, delivery in deliveries):
        raise ConfigError(f"{key}: no {_NAMES[form]} labels in {folder}")
    if form == "yolo" and not any(delivery.categories.num_rows for _, delivery in deliveries):
        deliveries += _names_above(root)
    return of_deliveries(deliveries)


def _names_above(folder: Path) -> list[tuple[str, Delivery]]:
    """The first class list of YOLO in the folders above: ``data.yaml`` stands beside train and valid."""
    for above in [*folder.absolute().parents][:_LEVELS_ABOVE]:
        for file in sorted(above.glob("*")):
            is_list = file.suffix in {".yaml", ".yml"} or is_class_list_name(file.name)
            if is_list and file.is_file():
                delivery = read_label(file.read_bytes(), file.name)
                if delivery.kind == "classes":
                    return [(file.name, delivery)]
    return []


def read_file(form: str, file: Path, key: str) -> Collection:
    """Read one file of a form that holds many images (COCO, ODVG)."""
    if not str(file) or str(file) == ".":
        raise ConfigError(f"{key}: no value; expected the path of a {_NAMES[form]} file")
    if not file.is_file():
        raise ConfigError(f"{key}: {file} is not a file")
    delivery = read_label(file.read_bytes(), file.name)
    if delivery.format != form:
        raise UnreadableError(str(file), f"{delivery.format} labels", expected=_NAMES[form])
    listed = delivery.mentions.num_rows - delivery.mentions["attributes"].null_count
    if form == "coco" and delivery.labels.num_rows and not listed:
        raise UnreadableError(
            str(file), "a list of results", expected="COCO annotations, which name images and classes"
        )
    return of_deliveries([(file.name, delivery)])


def read_names_file(file: Path, key: str) -> dict[int, str]:
    """Read a label map of ODVG, or the names of YOLO, as numbers to names."""
    if not file.is_file():
        raise ConfigError(f"{key}: {file} is not a file")
    data = file.read_bytes()
    delivery = read_data_yaml(data, file.name) if file.suffix in {".yaml", ".yml"} else None
    if delivery is None and file.suffix == ".json":
        delivery = read_label_map(data, file.name)
    if delivery is None:
        raise UnreadableError(str(file), "no map of numbers to names", expected='{"0": "person", …}')
    rows = delivery.categories.select(["category_id", "category"]).to_pylist()
    return {row["category_id"]: row["category"] for row in rows}


def image_files(folder: Path, key: str) -> ImageFiles:
    """The images of a folder and below, with the sizes that their headers say, as they are shown.

    Raises :class:`ConfigError` where the folder is not there. An image that cannot be read has no size.
    """
    if not folder.is_dir():
        raise ConfigError(f"{key}: {folder} is not a folder")
    found: ImageFiles = {}
    for file in sorted(folder.rglob("*")):
        if not (file.is_file() and is_image_name(file.name)):
            continue
        path = file.relative_to(folder).as_posix()
        width: int | None = None
        height: int | None = None
        try:
            with file.open("rb") as stream:
                header = inspect_image(stream, path, file.stat().st_size)
            width, height = header.width, header.height
        except UnreadableError:
            pass
        # Two images that differ in the extension alone: the first in order is meant.
        found.setdefault(without_extension(path), (path, width, height))
    return found


def with_unlabelled(collection: Collection, files: ImageFiles) -> tuple[Collection, list[str]]:
    """Add images without a label file, as images that nobody has labelled; returns their names as well."""
    known = {route_of(ref) for ref in collection.images["ref"]}
    missing = [(ref, value) for ref, value in files.items() if route_of(ref) not in known]
    if not missing:
        return collection, []
    first = collection.images.height
    rows = pl.DataFrame(
        {
            "image": range(first, first + len(missing)),
            "ref": [ref for ref, _ in missing],
            "file_name": [value[0] for _, value in missing],
            "width": [value[1] for _, value in missing],
            "height": [value[2] for _, value in missing],
        },
        schema_overrides={name: collection.images.schema[name] for name in ("image", "width", "height")},
    )
    images = pl.concat([collection.images, rows], how="diagonal")
    return replace(collection, images=images), [value[0] for _, value in missing]


def refuse_two_trees(collection: Collection, files: ImageFiles, key: str) -> None:
    """Raise :class:`ConfigError` where two label files speak of one image: of two trees one has to be named.

    ``files`` are the images, where a folder of them is known; a label whose path is not that of an image is
    of the one that its path ends with.
    """
    known = {route_of(ref) for ref in files}
    owners: dict[str, str] = {}
    rows = collection.images.filter(pl.col("format").is_in(_OF_ONE_IMAGE)).select("source", "ref")
    for source, ref in rows.iter_rows():
        route = route_of(ref)
        while known and route not in known and "/" in route:
            route = route.split("/", 1)[1]
        if (other := owners.setdefault(route, source)) != source:
            raise ConfigError(f"{key}: {other} and {source} speak of one image; name one of the folders")


def only_images(collection: Collection, keep: Sequence[bool] | pl.Series) -> Collection:
    """The images that are to be kept, with their boxes."""
    images = collection.images.filter(pl.Series(keep, dtype=pl.Boolean))
    boxes = collection.boxes.filter(pl.col("image").is_in(images["image"].implode()))
    return replace(collection, images=images, boxes=boxes)


def _refuse_other_forms(delivery: Delivery, form: str, path: str) -> None:
    if delivery.kind == "label" and delivery.format not in {form, "empty"}:
        raise UnreadableError(
            path, f"{_NAMES.get(delivery.format, delivery.format)} labels", expected=f"{_NAMES[form]} labels"
        )


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write files below a folder, each as a whole or not at all; returns their paths."""
    written = []
    for path, data in files:
        target = folder / path
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{path}: this would be written outside {folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        part.write_bytes(data)
        part.replace(target)
        written.append(target)
    return written
