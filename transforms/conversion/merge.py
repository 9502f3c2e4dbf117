"""Several label files of one form to one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from storage.errors import ConfigError
from transforms.conversion.convert import Report
from transforms.conversion.sources import read_file, write_files
from transforms.conversion.spec import MergeSpec
from transforms.writers.coco import write_coco
from transforms.writers.collection import Collection
from transforms.writers.odvg import write_odvg
from transforms.writers.written import json_text, own_attributes

_FORMS = ("coco", "odvg")


def merge(spec: MergeSpec) -> Report:
    """Merge the files of a spec: COCO to ``output.json``, ODVG to ``merged.json``.

    COCO: images, annotations and classes are numbered from 1, in the order of the files. ODVG: the instances
    of lines with one file name come together; lines with a caption stay apart. Raises :class:`ConfigError`
    for other forms, no files, or class tables that differ where ``data.same_categories``.
    """
    form = spec.data.format.strip().lower()
    if form not in _FORMS:
        raise ConfigError(f"data.format: {spec.data.format} cannot be merged; known: {', '.join(_FORMS)}")
    if not spec.data.annotations:
        raise ConfigError("data.annotations: no file; expected the files to merge")
    folder = spec.results_dir or spec.data.output_dir
    if not folder:
        raise ConfigError("results_dir: no value; expected the folder of the result")
    parts = [read_file(form, Path(name), "data.annotations") for name in spec.data.annotations]
    if form == "coco" and spec.data.same_categories:
        _refuse_other_tables(parts, spec.data.annotations)
    if form == "coco":
        _refuse_nameless(parts, spec.data.annotations)
    united = unite(parts)
    if form == "coco":
        written = write_coco(united, file="output.json", renumber=True)
    else:
        written = write_odvg(_by_image(united), lines="merged.json", label_map=None)
    files = write_files(Path(folder), written.files.items())
    return Report(files=files, images=united.images.height, boxes=united.boxes.height, unsaid=written.unsaid)


def unite(parts: list[Collection]) -> Collection:
    """Collections one after the other, their images numbered anew; classes are united by name."""
    images, boxes, first = [], [], 0
    for number, part in enumerate(parts):
        source = (pl.lit(f"{number}/") + pl.col("source")).alias("source")
        images.append(part.images.with_columns(pl.col("image") + first, source))
        boxes.append(part.boxes.with_columns(pl.col("image") + first, source))
        first += int(part.images["image"].max() or 0) + 1 if part.images.height else 0  # type: ignore[arg-type]
    categories = pl.concat([part.categories for part in parts]).unique(
        "category", keep="first", maintain_order=True
    )
    return Collection(
        images=pl.concat(images),
        boxes=pl.concat(boxes, how="diagonal"),
        categories=categories,
        documents=tuple(text for part in parts for text in part.documents),
    )


def _by_image(collection: Collection) -> Collection:
    """Lines of one file name as one image, the first; those with a caption stay as they are."""
    text = pl.col("attributes").fill_null("{}")
    caption = text.str.json_path_match("$.caption").is_not_null()
    several = text.str.contains('"$again":', literal=True)
    # Where no line of an image has a caption, its instances come together.
    captions = several & text.str.contains('"caption":', literal=True)
    name = pl.when(caption | captions).then(pl.col("image").cast(pl.String)).otherwise(None)
    first = pl.Series("attributes", [_first_line(one) for one in collection.images["attributes"]], pl.String)
    owners = collection.images.with_columns(
        pl.when(several & ~captions).then(first).otherwise("attributes").alias("attributes"),
        pl.col("image").first().over(pl.coalesce("file_name", "ref"), name).alias("__owner"),
    )
    boxes = collection.boxes.join(owners.select("image", "__owner"), on="image", maintain_order="left")
    boxes = boxes.with_columns(pl.col("__owner").alias("image")).drop("__owner")
    images = owners.filter(pl.col("image") == pl.col("__owner")).drop("__owner")
    return replace(collection, images=images, boxes=boxes)


def _first_line(attributes: str | None) -> str | None:
    values = own_attributes(attributes)
    values.pop("$again", None)
    return json_text(values) if values else None


def _refuse_nameless(parts: list[Collection], names: list[str]) -> None:
    for part, name in zip(parts, names, strict=True):
        strangers = (
            part.boxes.filter(pl.col("category").is_null())["category_id"].drop_nulls().unique().sort()
        )
        if strangers.len():
            raise ConfigError(
                f"data.annotations: {name}: the category ids {strangers.to_list()} are not in its table"
            )


def _refuse_other_tables(parts: list[Collection], names: list[str]) -> None:
    tables = [part.categories.select("category_id", "category") for part in parts]
    for table, name in zip(tables[1:], names[1:], strict=True):
        if not table.equals(tables[0]):
            raise ConfigError(
                f"data.annotations: the classes of {name} are not those of {names[0]}; "
                "data.same_categories=false unites them by name"
            )
