"""Parts of a COCO file: by chance, by number, by class or by file name."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from storage.errors import ConfigError, UnknownKeyError
from transforms.conversion.convert import Report
from transforms.conversion.sources import only_images, read_file, write_files
from transforms.conversion.spec import FilterSpec, SliceSpec
from transforms.writers.coco import write_coco
from transforms.writers.collection import Collection


def slice_annotations(spec: SliceSpec) -> Report:
    """Cut the file of a spec: ``kept.json``, with ``remainder.json`` if asked for, or ``part_<i>.json``.

    Images keep the order of the file, and all ids; a fixed seed makes the draw the same every time. Raises
    :class:`ConfigError` for other forms, unknown classes, and filters that keep nothing.
    """
    if spec.data.format.strip().lower() != "coco":
        raise ConfigError(f"data.format: {spec.data.format} cannot be sliced; known: COCO")
    folder = spec.results_dir or spec.data.output_dir
    if not folder:
        raise ConfigError("results_dir: no value; expected the folder of the results")
    collection = read_file("coco", Path(spec.data.annotation_file), "data.annotation_file")
    parts = cut(collection, spec.filter)
    report = Report()
    for name, part in parts.items():
        kept = part if spec.filter.reuse_categories else _renumbered(part)
        written = write_coco(kept, file=name)
        report.files += write_files(Path(folder), written.files.items())
        report.images += part.images.height
        report.boxes += part.boxes.height
    return report


def cut(collection: Collection, chosen: FilterSpec) -> dict[str, Collection]:
    """The parts of a collection by the names of their files."""
    count = collection.images.height
    if not count:
        raise ConfigError("data.annotation_file: it has no image")
    if chosen.mode == "random" and isinstance(chosen.split, int):
        return _equal_parts(collection, chosen.split, chosen.seed)
    if chosen.mode == "category":
        return _by_category(collection, chosen)
    if chosen.mode == "random":
        if not 0 < chosen.split < 1:
            raise ConfigError(
                f"filter.split: {chosen.split}; expected a part below 1, or a whole number of parts"
            )
        number = int(chosen.split * count)
        drawn = set(random.Random(chosen.seed).sample(range(count), number))
        keep = [place in drawn for place in range(count)]
    elif chosen.mode == "number":
        keep = [place < chosen.num_samples for place in range(count)]
    else:
        keep = _by_name(collection, chosen.re_patterns)
    if not any(keep):
        raise ConfigError(f"filter: nothing of {count} images is kept")
    parts = {"kept.json": only_images(collection, keep)}
    if chosen.dump_remainder:
        parts["remainder.json"] = only_images(collection, [not one for one in keep])
    return parts


def _equal_parts(collection: Collection, number: int, seed: int) -> dict[str, Collection]:
    count = collection.images.height
    if not 1 < number <= count:
        raise ConfigError(f"filter.split: {number} parts of {count} images; expected 2 to {count}")
    order = list(range(count))
    random.Random(seed).shuffle(order)
    part_of = {place: rank * number // count for rank, place in enumerate(order)}
    return {
        f"part_{part}.json": only_images(collection, [part_of[place] == part for place in range(count)])
        for part in range(number)
    }


def _by_name(collection: Collection, patterns: list[str]) -> list[bool]:
    if not patterns:
        raise ConfigError("filter.re_patterns: no pattern; expected regular expressions")
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ConfigError(f"filter.re_patterns: {error}") from error
    names = collection.images.select(pl.coalesce("file_name", "ref")).to_series()
    return [any(pattern.match(name) for pattern in compiled) for name in names]


def _by_category(collection: Collection, chosen: FilterSpec) -> dict[str, Collection]:
    known = collection.categories["category"].to_list()
    for name in (*chosen.included_categories, *chosen.excluded_categories):
        if name not in known:
            raise UnknownKeyError("filter.included_categories, excluded_categories", name, known)
    wanted = [
        name
        for name in known
        if (not chosen.included_categories or name in chosen.included_categories)
        and name not in chosen.excluded_categories
    ]
    mine = pl.col("category").is_in(wanted).fill_null(value=False)
    parts = {"kept.json": _with_boxes(collection, mine)}
    if not parts["kept.json"].boxes.height:
        raise ConfigError(f"filter: no box is of {', '.join(wanted) or 'any class'}")
    if chosen.dump_remainder:
        kept = set(parts["kept.json"].images["image"])
        rest = collection.boxes.filter(~mine)
        owners = set(rest["image"])
        keep = [image in owners or image not in kept for image in collection.images["image"]]
        parts["remainder.json"] = replace(only_images(collection, keep), boxes=rest)
    return parts


def _with_boxes(collection: Collection, chosen: pl.Expr) -> Collection:
    boxes = collection.boxes.filter(chosen)
    owners = set(boxes["image"])
    kept = only_images(collection, [image in owners for image in collection.images["image"]])
    return replace(kept, boxes=boxes)


def _renumbered(collection: Collection) -> Collection:
    """The classes that occur, numbered from 1 in the order of the table."""
    used = collection.boxes["category_id"].unique().implode()
    table = collection.categories.filter(pl.col("category_id").is_in(used))
    new = dict(zip(table["category_id"], range(1, table.height + 1), strict=True))
    swapped = pl.col("category_id").replace_strict(
        list(new), list(new.values()), default=None, return_dtype=pl.Int64
    )
    return replace(
        collection,
        categories=table.with_columns(swapped.alias("category_id")),
        boxes=collection.boxes.with_columns(swapped.alias("category_id")),
    )
