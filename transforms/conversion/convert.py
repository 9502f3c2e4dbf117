"""Labels of one form to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from storage.errors import ConfigError, UnknownKeyError
from transforms.conversion.mapping import read_mapping
from transforms.conversion.sources import (
    image_files,
    only_images,
    read_file,
    read_folder,
    read_names_file,
    refuse_two_trees,
    with_unlabelled,
    write_files,
)
from transforms.conversion.spec import ConvertSpec, FolderSpec
from transforms.formats.masks import mask_box
from transforms.writers.categories import numbered
from transforms.writers.coco import write_coco
from transforms.writers.collection import Collection
from transforms.writers.kitti import write_kitti
from transforms.writers.odvg import write_odvg
from transforms.writers.voc import write_voc
from transforms.writers.written import Written
from transforms.writers.yolo import write_yolo

_ONE_FILE = {"coco", "odvg"}
_READ = ("kitti", "coco", "odvg", "voc", "yolo", "labelme", "cvat", "open_images", "tfrecord")
_WRITTEN = ("kitti", "coco", "odvg", "voc", "yolo")
# Forms whose files know a class by its number, so that no name is needed from one to the other.
_BY_NUMBER = {("coco", "coco"), ("yolo", "yolo"), ("odvg", "odvg")}
_CLASS_LISTS = dict.fromkeys(_READ, "name a list of classes") | {
    "odvg": "name the label map",
    "coco": "the table of categories does not have them",
    "yolo": "expected data.yaml, classes.txt or obj.names among the labels or above them",
    "tfrecord": "expected a label map (.pbtxt) among the records",
}
_ELSEWHERE = {"ovpkl", "aicity", "nvidia_pas", "nvidia_paidf_pas", "tao_clip"}


@dataclass(kw_only=True)
class Report:
    """What a conversion did: files written, counts, classes with their numbers, and what it had to leave."""

    files: list[Path] = field(default_factory=list)
    images: int = 0
    boxes: int = 0
    classes: dict[int, str] = field(default_factory=dict)
    unsaid: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert(spec: ConvertSpec) -> Report:
    """Convert the labels that a spec names, and write the result into its folder.

    Raises :class:`ConfigError` for forms that cannot be converted, and paths that are missing or wrong;
    :class:`UnreadableError` for labels that are damaged.
    """
    source, target = _form(spec.data.input_format, "input"), _form(spec.data.output_format, "output")
    if target not in _WRITTEN or source not in _READ:
        raise ConfigError(
            f"data: {spec.data.input_format} to {spec.data.output_format} is not supported; from: "
            f"{', '.join(_READ)}; to: {', '.join(_WRITTEN)}"
        )
    folder = spec.results_dir or spec.data.output_dir
    if not folder:
        raise ConfigError(
            "results_dir: no value; expected the folder of the results (data.output_dir in 5.0)"
        )
    report = Report()
    collection = _collection(spec, source, report)
    if (source, target) not in _BY_NUMBER:
        _refuse_nameless(collection, source)
    written = _write(spec, source, target, collection, report)
    report.files = write_files(Path(folder), written.files.items())
    report.unsaid = written.unsaid
    report.images, report.boxes = collection.images.height, collection.boxes.height
    report.classes = numbered(collection, first=1, keep=target != "odvg").names
    return report


def _form(word: str, side: str) -> str:
    form = word.strip().lower().replace("-", "_").replace(" ", "_")
    if form not in {*_READ, *_WRITTEN, *_ELSEWHERE}:
        raise UnknownKeyError(f"data.{side}_format", form, {*_READ, *_ELSEWHERE})
    return form


def _collection(spec: ConvertSpec, source: str, report: Report) -> Collection:
    if source == "coco":
        collection = read_file("coco", Path(spec.coco.ann_file), "coco.ann_file")
        if spec.coco.image_dir:
            collection = collection.with_images(image_files(Path(spec.coco.image_dir), "coco.image_dir"))
        unlisted = collection.images.filter(pl.col("attributes").is_null())["ref"]
        if unlisted.len():
            report.notes.append(f"{unlisted.len()} images are not listed: {', '.join(unlisted[:3])} …")
        return _refined(collection, report) if spec.coco.refine_box else collection
    if source == "odvg":
        return _odvg(spec)
    if source == "kitti":
        return _kitti(spec, report)
    group: FolderSpec = getattr(spec, source)
    collection = read_folder(source, Path(group.label_dir), f"{source}.label_dir")
    return _with_folder(collection, group.image_dir, f"{source}.image_dir", report)


def _kitti(spec: ConvertSpec, report: Report) -> Collection:
    group = spec.kitti
    collection = read_folder("kitti", Path(group.label_dir), "kitti.label_dir")
    if not group.image_dir:
        raise ConfigError("kitti.image_dir: no value; expected the folder of the images")
    if group.mapping:
        mapping = read_mapping(Path(group.mapping))
        before = collection.boxes.height
        boxes = mapping.apply(collection.boxes, others="drop")
        categories = pl.DataFrame({"category": mapping.targets}).select(
            pl.lit(None, pl.Int64).alias("category_id"),
            "category",
            pl.lit(None, pl.String).alias("attributes"),
        )
        collection = replace(collection, boxes=boxes, categories=categories)
        if before > boxes.height:
            report.notes.append(
                f"{before - boxes.height} boxes of classes that {group.mapping} does not name"
            )
    collection = _with_folder(collection, group.image_dir, "kitti.image_dir", report)
    if group.preserve_hierarchy:
        above = "/".join(Path(group.image_dir).parts[-2:]).strip("/")
        name = pl.concat_str(pl.lit(f"{above}/"), "file_name")
        collection = replace(collection, images=collection.images.with_columns(name.alias("file_name")))
    return collection


def _odvg(spec: ConvertSpec) -> Collection:
    collection = read_file("odvg", Path(spec.odvg.ann_file), "odvg.ann_file")
    if not spec.odvg.labelmap_file:
        return collection
    names = read_names_file(Path(spec.odvg.labelmap_file), "odvg.labelmap_file")
    categories = pl.DataFrame(
        {"category_id": list(names), "category": list(names.values())},
        schema={"category_id": pl.Int64, "category": pl.String},
    ).with_columns(pl.lit(None, pl.String).alias("attributes"))
    named = pl.col("category_id").replace_strict(
        list(names), list(names.values()), default=None, return_dtype=pl.String
    )
    boxes = collection.boxes.with_columns(pl.coalesce(named, "category").alias("category"))
    return replace(collection, boxes=boxes, categories=categories)


def _with_folder(collection: Collection, folder: str, key: str, report: Report) -> Collection:
    """Sizes and file names of the images, and those that have no label."""
    files = image_files(Path(folder), key) if folder else {}
    refuse_two_trees(collection, files, key.replace("image_dir", "label_dir"))
    if not folder:
        return collection
    collection, missing = with_unlabelled(collection.with_images(files), files)
    if missing:
        report.notes.append(f"{len(missing)} images have no label file: {', '.join(missing[:3])} …")
    absent = collection.images.filter(pl.col("file_name").is_null())
    if absent.height:
        report.notes.append(f"{absent.height} label files have no image: {', '.join(absent['ref'][:3])} …")
    return collection


def _refined(collection: Collection, report: Report) -> Collection:
    """Boxes become the extent of their masks; an empty mask leaves its box as it was."""
    boxes: list[list[float] | None] = []
    refined = empty = 0
    for box, text in collection.boxes.select("bbox", "segmentation").iter_rows():
        found = mask_box(text) if text else None
        refined += found is not None
        empty += found is None and text not in {None, "[]"}
        left, top, right, bottom = found or (0.0, 0.0, 0.0, 0.0)
        boxes.append([left, top, right - left, bottom - top] if found else box)
    report.notes.append(f"{refined} boxes are the extent of their masks; {empty} masks are empty")
    column = pl.Series("bbox", boxes, pl.List(pl.Float64))
    return replace(collection, boxes=collection.boxes.with_columns(column))


def _write(spec: ConvertSpec, source: str, target: str, collection: Collection, report: Report) -> Written:
    if target == "coco":
        return _coco(spec, source, collection, report)
    if target == "odvg":
        name = _base(spec, source)
        if not spec.coco.use_all_categories:
            collection = _used(collection)
        return write_odvg(collection, lines=f"{name}_odvg.jsonl", label_map=f"{name}_odvg_labelmap.json")
    writers: dict[str, Callable[[Collection], Written]] = {
        "kitti": write_kitti,
        "voc": write_voc,
        "yolo": lambda found: write_yolo(found, layout=spec.yolo.layout, polygons=spec.yolo.polygons),
    }
    return writers[target](collection)


def _refuse_nameless(collection: Collection, source: str) -> None:
    boxes = collection.boxes.filter(pl.col("category").is_null() & pl.col("category_id").is_not_null())
    if boxes.height:
        key = "odvg.labelmap_file" if source == "odvg" else f"{source}.label_dir"
        numbers = ", ".join(map(str, boxes["category_id"].unique().sort().head(8)))
        raise ConfigError(f"{key}: the class numbers {numbers} have no name; {_CLASS_LISTS[source]}")


def _coco(spec: ConvertSpec, source: str, collection: Collection, report: Report) -> Written:
    name = _base(spec, source)
    if source == "coco":
        return write_coco(
            contiguous(collection, use_all=spec.coco.use_all_categories), file=f"{name}_remapped.json"
        )
    extra: dict[str, bytes] = {}
    if source == "kitti" and not spec.kitti.no_skip:
        with_boxes = collection.images["image"].is_in(collection.boxes["image"].unique().implode())
        skipped = collection.images.filter(~with_boxes)
        collection = only_images(collection, with_boxes)
        if skipped.height:
            names = skipped.select(pl.coalesce("file_name", "ref")).to_series()
            extra["skipped_files.txt"] = "".join(f"{name}\n" for name in names).encode()
            report.notes.append(f"{skipped.height} images without a box are left out, as kitti.no_skip asks")
    first = 1
    if source == "odvg":
        collection, first = _odvg_categories(collection, background=spec.coco.add_background)
    written = write_coco(collection, file=f"{name}.json", first_category=first)
    return replace(written, files={**written.files, **extra})


def _odvg_categories(collection: Collection, *, background: bool) -> tuple[Collection, int]:
    """Class numbers of a label map, one more than its labels; 0 is the background, if there is one."""
    listed = collection.categories.with_columns(pl.col("category_id") + 1)
    if background:
        row = {"category_id": [0], "category": ["background"], "attributes": [None]}
        listed = pl.concat([pl.DataFrame(row, schema=listed.schema), listed])
    return replace(collection, categories=listed), 0 if background else 1


def contiguous(collection: Collection, *, use_all: bool) -> Collection:
    """COCO with category ids from 0 on without gaps: those that occur, or all of the table."""
    table = collection.categories.filter(pl.col("category_id").is_not_null())
    if not use_all:
        table = table.filter(pl.col("category_id").is_in(collection.boxes["category_id"].unique().implode()))
    table = table.unique("category_id", keep="first", maintain_order=True)
    new = dict(zip(table["category_id"], range(table.height), strict=True))
    known = pl.col("category_id").is_in(list(new)) | pl.col("category_id").is_null()
    strangers = collection.boxes.filter(~known)["category_id"]
    if strangers.len():
        raise ConfigError(f"coco.ann_file: the category ids {sorted(set(strangers))} are not in its table")
    swapped = pl.col("category_id").replace_strict(
        list(new), list(new.values()), default=None, return_dtype=pl.Int64
    )
    return replace(
        collection,
        categories=table.with_columns(swapped.alias("category_id")),
        boxes=collection.boxes.with_columns(swapped.alias("category_id")),
    )


def _used(collection: Collection) -> Collection:
    used = collection.boxes["category"].drop_nulls().unique().implode()
    return replace(collection, categories=collection.categories.filter(pl.col("category").is_in(used)))


def _base(spec: ConvertSpec, source: str) -> str:
    """The name of the output: that of the file, of the project, or of the folder above the images."""
    if source in _ONE_FILE:
        return Path(getattr(spec, source).ann_file).stem
    if source == "kitti" and spec.kitti.project:
        return spec.kitti.project
    folder = getattr(spec, source).image_dir or getattr(spec, source).label_dir
    # As the path was given: a link is not followed, so that the name is the one that its user sees.
    path = Path(folder).absolute()
    return (path.resolve() if ".." in path.parts else path).parent.name or "annotations"
