"""Label files with their boxes corrected, in the form in which they were delivered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa

from dropmill.delivered import Delivered
from quality.review import Review
from quality.rules import CORNERS
from storage import schemas
from storage.errors import ConfigError
from transforms.writers.coco import write_coco
from transforms.writers.collection import Collection, of_labels
from transforms.writers.kitti import write_kitti
from transforms.writers.odvg import write_odvg
from transforms.writers.voc import write_voc
from transforms.writers.written import Written
from transforms.writers.yolo import write_yolo

FORMS = ("kitti", "coco", "voc", "yolo", "odvg")
_WHO = ["source", "instance"]


def write_corrected(
    delivered: Delivered, review: Review, folder: Path, *, origin: Path | None = None
) -> dict[str, tuple[Path, ...]]:
    """Write the label files that a correction has changed, and those alone; returns their paths by form.

    ``review`` must have been made with ``correct``. COCO and ODVG files are written whole below their own
    names into ``folder``; of all other forms, each changed file below ``corrected_<form>_files``. Boxes that
    nothing can save are left out. ``origin`` is the folder of the delivered files. Raises ConfigError, before
    anything is written, where a file that needs it is of a form that is not written, or would be written over
    a delivered one.
    """
    kept = review.checked.boxes.select(*_WHO, *CORNERS, "width", "height", "corrected")
    lost = delivered.material.boxes.join(kept, on=_WHO, how="anti").select(*_WHO)
    corrected = kept.filter("corrected").drop("corrected")
    sources = pl.concat([lost.select("source"), corrected.select("source")])["source"].unique().sort()
    labels = delivered.groups.labels.filter(pl.col("source").is_in(sources.implode()))
    forms = labels["format"].unique().sort().to_list()
    refused = [form for form in forms if form not in FORMS]
    if refused:
        raise ConfigError(
            f"no corrected files of the form {', '.join(refused)}; they are written as {', '.join(FORMS)}"
        )
    labels = labels.join(lost, on=_WHO, how="anti", maintain_order="left")
    labels = _with_corners(labels, corrected)
    files: dict[str, dict[Path, bytes]] = {}
    for form in forms:
        own = delivered.groups.labels.filter(pl.col("format") == form)["source"].unique()
        of_form = sources.filter(sources.is_in(own.implode()))
        files[form] = _files(form, of_form.to_list(), labels, delivered, folder)
    if origin is not None:
        delivered_files = {(origin / source).resolve() for source in sources}
        for path in (path for found in files.values() for path in found):
            if path.resolve() in delivered_files:
                raise ConfigError(
                    f"{path} would be written over the file as it was delivered; take another results_dir"
                )
    for path, data in (pair for found in files.values() for pair in found.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {form: tuple(found) for form, found in files.items()}


def _files(
    form: str, sources: list[str], labels: pl.DataFrame, delivered: Delivered, folder: Path
) -> dict[Path, bytes]:
    said, categories = delivered.groups.mentions, delivered.groups.categories
    if form in {"coco", "odvg"}:
        found = {}
        for source in sources:
            own = pl.col("source") == source
            # ODVG's classes are in a file of their own, if anywhere.
            names = categories.filter(own) if form == "coco" else categories
            collection = _collection(labels.filter(own), said.filter(own), names)
            name = Path(source).name
            written = (
                write_coco(collection, file=name)
                if form == "coco"
                else write_odvg(collection, lines=name, label_map=None)
            )
            found[folder / name] = written.files[name]
        return found
    mine = pl.col("source").is_in(sources)
    written = _write(form, _collection(labels.filter(mine), said.filter(mine, kind="label"), categories))
    below = folder / f"corrected_{form}_files"
    ending = ".xml" if form == "voc" else ".txt"
    changed = {Path(source).name for source in sources}
    return {
        below / name: data
        for name, data in written.files.items()
        if name.endswith(ending) and Path(name).name in changed
    }


def _write(form: str, collection: Collection) -> Written:
    if form == "kitti":
        return write_kitti(collection)
    if form == "voc":
        return write_voc(collection, image_sets=False)
    return write_yolo(collection)


def _collection(labels: pl.DataFrame, mentions: pl.DataFrame, categories: pl.DataFrame) -> Collection:
    def table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
        wanted = schemas.without(schema, "dataset", "batch")
        return frame.select(wanted.names).to_arrow().cast(wanted)

    return of_labels(
        table(labels, schemas.LABELS),
        table(mentions, schemas.MENTIONS),
        table(categories, schemas.CATEGORIES),
    )


def _with_corners(labels: pl.DataFrame, corrected: pl.DataFrame) -> pl.DataFrame:
    """Labels with the corners of ``corrected``, in the mode in which each box was delivered."""
    rows = labels.join(corrected, on=_WHO, how="left", maintain_order="left")
    x1, y1, x2, y2 = (pl.col(name) for name in CORNERS)
    wide, high = (x2 - x1).round_sig_figs(12), (y2 - y1).round_sig_figs(12)
    width, height = pl.col("width"), pl.col("height")
    middle = pl.concat_list((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, wide / width, high / height)
    bbox = (
        pl.when(x1.is_null())
        .then(pl.col("bbox"))
        .when(pl.col("bbox_mode") == "xywh")
        .then(pl.concat_list(x1, y1, wide, high))
        .when(pl.col("bbox_mode") == "xyxy")
        .then(pl.concat_list(x1, y1, x2, y2))
        .otherwise(middle)
    )
    rows = rows.with_columns(bbox.alias("bbox"))
    # COCO's area is the mask's; where there is no mask it was the box's, which is another now.
    stale = x1.is_not_null() & (pl.col("format") == "coco")
    stale &= pl.col("segmentation").is_null() | pl.col("segmentation").is_in(["[]", "null"])
    numbers = rows.select(
        stale.fill_null(value=False).alias("stale"), "attributes", (wide * high).alias("area")
    )
    texts: list[str | None] = numbers["attributes"].to_list()
    for row in numbers["stale"].arg_true():
        values = msgspec.json.decode(texts[row] or "{}")
        if "area" in values:
            values["area"] = float(numbers["area"][row])
            texts[row] = msgspec.json.encode(values).decode()
    return rows.with_columns(pl.Series("attributes", texts, pl.String)).drop(*CORNERS, "width", "height")
