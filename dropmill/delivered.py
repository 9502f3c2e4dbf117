"""Labels and images as they were delivered, from a folder or from a lake, ready to be reviewed."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
import pyarrow as pa

from ingest.parse import MASK_FOLDER
from quality.pictures import Look, look_at
from quality.review import Material
from quality.sets import as_findings, findings_of
from storage import schemas
from storage.errors import ConfigError, StoreError, UnreadableError
from storage.object_store import ObjectStore
from transforms.delivery import Delivery, route_of, stem_of, without_extension
from transforms.formats.detect import read_label
from transforms.formats.refs import is_image_name
from transforms.images import inspect_image
from transforms.normalise import Groups, Normalised, normalise

if TYPE_CHECKING:
    from storage.lake import Lake

_log = logging.getLogger(__name__)

_NO_SIZE_NO_BOX = "yolo"
Progress = Callable[[str, int], None]
"""Called with what is being done and how many steps it has made since."""


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A data set to review, and the rows that it was made of."""

    material: Material
    groups: Groups


def read_folder(
    annotations: Path,
    images: Path | None = None,
    *,
    form: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Delivered:
    """Read a label file, or all label files below a folder, and the headers of all images below ``images``.

    ``form`` keeps the labels of one form (kitti, coco, voc, yolo) and raises ConfigError where there are
    none; None takes all. Without images, boxes are checked against the sizes that labels declare. What cannot
    be read is a finding of the rule ``unreadable_file``.
    """
    if not annotations.exists():
        raise ConfigError(f"{annotations}: neither a label file nor a folder of them is here")
    base = annotations if annotations.is_dir() else annotations.parent
    name = _name_of(base.resolve())
    tell = progress or (lambda _what, _steps: None)
    labels, label_faults = _read_labels(annotations, base, form, workers, tell)
    labels += _class_lists_above(labels, base)
    here = images is not None and images.is_dir()
    rows: list[dict[str, Any]] = []
    image_faults: list[dict[str, Any]] = []
    if images is not None and here:
        # Where one folder holds both, names are relative to it, so that splits and class lists fit as well.
        root = base if images.resolve().is_relative_to(base.resolve()) else images
        rows, image_faults = _read_images(images, root, name, workers, tell)
    elif images is not None:
        _log.warning("no images, labels alone are looked at: folder=%s", images)
    groups = Groups(
        images=_frame(pa.Table.from_pylist(rows, schema=schemas.without(schemas.IMAGES, "batch"))),
        mentions=_table(labels, "mentions", schemas.MENTIONS, name),
        labels=_table(labels, "labels", schemas.LABELS, name),
        categories=_table(labels, "categories", schemas.CATEGORIES, name),
    )
    return _delivered(name, groups, [*label_faults, *image_faults], pixels=bool(rows), prefix="")


def read_lake(lake: Lake, dataset: str) -> Delivered:
    """Read one data set of a lake as it was delivered. Raises ConfigError where there is none."""
    frames = {
        name: lake.sql(f"SELECT * FROM {name} WHERE dataset = $1", parameters=[dataset]).polars()
        for name in ("images", "mentions", "labels", "categories", "findings")
    }
    if frames["images"].is_empty() and frames["labels"].is_empty():
        known = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM objects").to_pylist()]
        raise ConfigError(
            f"{lake.url}: no data set {dataset!r}; there are {', '.join(sorted(known)) or 'none'}"
        )
    faults = frames["findings"].filter(pl.col("rule") == "unreadable_file").to_dicts()
    groups = Groups(
        images=frames["images"].drop("batch"),
        mentions=frames["mentions"].drop("batch"),
        labels=frames["labels"],
        categories=frames["categories"].drop("batch"),
    )
    prefix = ""
    for sample, key in frames["images"].select("sample", "key").iter_rows():
        path = without_extension(key)
        if path.endswith(sample):
            prefix = path[: len(path) - len(sample)]
            break
    return _delivered(dataset, groups, faults, pixels=True, prefix=prefix)


def look_at_images(
    images: pl.DataFrame, *, workers: int = 1, progress: Progress | None = None
) -> dict[str, Look]:
    """Look at the pixels of images (columns ``sample`` and ``uri``), by sample; what is gone is left out."""
    tell = progress or (lambda _what, _steps: None)

    def look(row: tuple[str, str]) -> tuple[str, Look | None]:
        sample, uri = row
        try:
            with open_uri(uri) as file:
                found = look_at(file, uri)
        except (UnreadableError, OSError, StoreError) as error:
            _log.warning("image not looked at: uri=%s error=%s", uri, error)
            found = None
        tell("looking at images", 1)
        return sample, found

    rows = images.filter(pl.col("uri").is_not_null()).select("sample", "uri").rows()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return {sample: found for sample, found in pool.map(look, rows) if found is not None}


def open_uri(uri: str) -> BinaryIO:
    """The bytes of an image, by the address that the table ``images`` gives."""
    folder, _, name = uri.rpartition("/")
    if uri.startswith("/"):
        return Path(uri).open("rb")
    with ObjectStore(folder).open(name) as file:
        return io.BytesIO(file.read())


def _name_of(folder: Path) -> str:
    """The nearest folder above that is named after more than its role: ``kitti/label_2`` is ``kitti``."""
    for place in (folder, *folder.parents):
        if place.name and "/" in route_of(f"{place.name}/x"):
            return place.name
    return "dataset"


def _read_labels(
    annotations: Path, base: Path, form: str | None, workers: int, tell: Progress
) -> tuple[list[tuple[str, Delivery]], list[dict[str, Any]]]:
    files = [annotations] if annotations.is_file() else list(_files(annotations))
    paths = [path for path in files if not is_image_name(path.name)]

    def read(path: Path) -> tuple[str, Delivery | UnreadableError]:
        key = path.relative_to(base).as_posix()
        try:
            result: Delivery | UnreadableError = read_label(path.read_bytes(), key)
        except UnreadableError as error:
            result = error
        tell("reading labels", 1)
        return key, result

    deliveries, faults = [], []
    for key, result in _each(read, paths, workers):
        if isinstance(result, UnreadableError):
            faults.append(_fault(_name_of(base.resolve()), key, result))
        elif result.kind != "label" or form is None or result.format in {form, "empty"}:
            deliveries.append((key, result))
    kinds = {result.format for _, result in deliveries if result.kind == "label"}
    if not kinds and faults:
        raise ConfigError(f"{annotations}: {faults[0]['observed']}")
    if not kinds:
        wanted = form.upper() if form else "known"
        raise ConfigError(f"{annotations}: none of {len(paths)} files has {wanted} labels")
    return deliveries, faults


def _class_lists_above(labels: Sequence[tuple[str, Delivery]], base: Path) -> list[tuple[str, Delivery]]:
    """Class lists beside the folder of labels, where labels have numbers and no list came with them."""
    nameless = any(part.labels["category"].null_count for _, part in labels)
    if not nameless or any(part.kind == "classes" for _, part in labels):
        return []
    found = []
    for path in sorted(base.resolve().parent.iterdir()):
        if path.suffix.lower() not in {".yaml", ".yml", ".names", ".txt"} or not path.is_file():
            continue
        try:
            delivery = read_label(path.read_bytes(), path.name)
        except (UnreadableError, OSError):
            continue
        if delivery.kind == "classes":
            found.append((path.name, delivery))
    return found


def _read_images(
    images: Path, root: Path, dataset: str, workers: int, tell: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def read(path: Path) -> dict[str, Any]:
        key = path.relative_to(root).as_posix()
        sample = without_extension(key)
        row: dict[str, Any] = {"dataset": dataset, "sample": sample, "stem": stem_of(sample), "key": key}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = inspect_image(file, key, size)
        except (UnreadableError, OSError) as error:
            return {"fault": _fault(dataset, key, error)}
        finally:
            tell("reading images", 1)
        return row | {
            "uri": str(path.resolve()),
            "size_bytes": size,
            "width": header.width,
            "height": header.height,
            "channels": header.channels,
            "bit_depth": header.bit_depth,
            "format": header.format,
            "exif_orientation": header.exif_orientation,
        }

    rows, faults = [], []
    paths = [path for path in _files(images) if is_image_name(path.name)]
    pictures = [path for path in paths if not MASK_FOLDER.search(path.relative_to(images).as_posix())]
    for row in _each(read, pictures, workers):
        if "fault" in row:
            faults.append(row["fault"])
        else:
            rows.append(row)
    return rows, faults


def _each(function: Callable[[Path], Any], paths: Sequence[Path], workers: int) -> Iterable[Any]:
    if workers <= 1:
        return map(function, paths)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, paths))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder in the order of their names, hidden ones aside."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _fault(dataset: str, key: str, error: Exception) -> dict[str, Any]:
    sample = without_extension(key)
    return {
        "dataset": dataset,
        "rule": "unreadable_file",
        "sample": sample,
        "stem": stem_of(sample),
        "source": key,
        "observed": str(error),
    }


def _delivered(
    name: str, groups: Groups, faults: Sequence[dict[str, Any]], *, pixels: bool, prefix: str
) -> Delivered:
    normal = normalise(groups, prefixes={name: prefix})
    kept = {"unknown_image": normal.remarks}
    stand_ins = _stand_ins(name, groups, normal.remarks, prefix)
    if not stand_ins.is_empty():
        # Labels whose image is not here are checked as far as their own words go.
        groups = replace(groups, images=pl.concat([groups.images, stand_ins]))
        normal = normalise(groups, prefixes={name: prefix})
    kept["unknown_category"] = normal.remarks
    names = _stand_in_names(name, groups, normal.remarks)
    listed = groups.categories["category"].drop_nulls().unique(maintain_order=True).to_list()
    if not names.is_empty():
        # So are boxes of a class that has a number only.
        groups = replace(groups, categories=pl.concat([groups.categories, names]))
        normal = normalise(groups, prefixes={name: prefix})
    parts = [frame.filter(pl.col("rule") == rule) for rule, frame in kept.items()]
    remarks = pl.concat([*parts, normal.remarks.filter(~pl.col("rule").is_in(list(kept)))])
    if not pixels:
        remarks = remarks.filter(pl.col("rule") != "unknown_image")
    kinds = groups.mentions.filter(pl.col("kind") == "label")["format"].drop_nulls().unique().sort().to_list()
    spoken = [kind for kind in kinds if kind != "empty"] or kinds
    files = groups.mentions["source"].n_unique() + groups.images.height
    material = Material(
        dataset=name,
        format=",".join(spoken),
        images=normal.images.filter(pl.col("uri").is_not_null()) if pixels else normal.images,
        boxes=normal.boxes,
        mentions=_with_samples(groups.mentions, normal),
        categories=tuple(listed),
        remarks=pl.concat([as_findings(remarks), findings_of(faults)]),
        pixels=pixels,
        files=files + len(faults),
        unreadable=len(faults),
    )
    return Delivered(material=material, groups=groups)


def _stand_ins(name: str, groups: Groups, remarks: pl.DataFrame, prefix: str) -> pl.DataFrame:
    """Images that labels speak of and that are not here, with the size that is declared."""
    waiting = remarks.filter(pl.col("rule") == "unknown_image").select("source", ref="sample")
    rows = (
        groups.mentions.filter((pl.col("kind") == "label") & (pl.col("format") != _NO_SIZE_NO_BOX))
        .join(waiting, on=["source", "ref"], how="inner")
        .unique("ref", maintain_order=True)
    )
    known = {
        "dataset": pl.lit(name),
        "sample": pl.col("ref"),
        "stem": pl.col("stem"),
        "key": pl.concat_str(pl.lit(prefix), "ref"),
        "width": pl.col("width"),
        "height": pl.col("height"),
        "exif_orientation": pl.lit(1),
    }
    schema = groups.images.schema
    return rows.select(
        known.get(column, pl.lit(None)).cast(dtype).alias(column) for column, dtype in schema.items()
    )


def _stand_in_names(name: str, groups: Groups, remarks: pl.DataFrame) -> pl.DataFrame:
    """Names for class numbers that no class list names."""
    nameless = remarks.filter(pl.col("rule") == "unknown_category").select("source").unique()
    numbers = (
        groups.labels.filter(pl.col("category").is_null())
        .join(nameless, on="source")
        .select("category_id")
        .drop_nulls()
        .unique()
        .sort("category_id")
        .join(groups.categories, on="category_id", how="anti")
    )
    known = {
        "dataset": pl.lit(name),
        "source": pl.lit(""),
        "category_id": pl.col("category_id"),
        "category": pl.format("class {}", "category_id"),
    }
    schema = groups.categories.schema
    return numbers.select(
        known.get(column, pl.lit(None)).cast(dtype).alias(column) for column, dtype in schema.items()
    )


def _with_samples(mentions: pl.DataFrame, normal: Normalised) -> pl.DataFrame:
    """Label mentions with their sample: as their boxes were matched, else by the same path."""
    matched = normal.boxes.select("source", "ref", "sample").unique(["source", "ref"])
    rows = mentions.filter(pl.col("kind") == "label").join(matched, on=["source", "ref"], how="left")
    routes = {route_of(sample): sample for sample in normal.images["sample"]}
    same = pl.Series("__same", [routes.get(route_of(ref)) for ref in rows["ref"]], pl.String)
    return rows.with_columns(same).with_columns(sample=pl.coalesce("sample", "__same")).drop("__same")


def _table(
    labels: Iterable[tuple[str, Delivery]], part: str, schema: pa.Schema, dataset: str
) -> pl.DataFrame:
    wanted = schemas.without(schema, "batch")
    tables = []
    for key, delivery in labels:
        table: pa.Table = getattr(delivery, part)
        given = {"dataset": dataset, "source": key}
        columns = [
            pa.repeat(pa.scalar(given[f.name], f.type), table.num_rows) if f.name in given else table[f.name]
            for f in wanted
        ]
        tables.append(pa.table(columns, schema=wanted))
    return _frame(pa.concat_tables(tables) if tables else wanted.empty_table())


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
