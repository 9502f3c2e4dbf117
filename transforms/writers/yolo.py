"""Boxes and polygons to YOLO label files, in both layouts."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from typing import Any, Literal

import msgspec
import polars as pl
import yaml
from msgspec import Raw

from transforms.formats.text import shortest
from transforms.writers.categories import numbered
from transforms.writers.collection import Collection
from transforms.writers.written import Written, attributes_of, unsaid

Layout = Literal["ultralytics", "darknet"]
_polygons = msgspec.json.Decoder(list[list[Raw]])
_SPLITS = ("train", "val", "test")


def write_yolo(collection: Collection, *, layout: Layout = "ultralytics", polygons: bool = True) -> Written:
    """One file per image, empty where it has no box, and the class list.

    Numbers are parts of the image: ``class cx cy w h``, with a score after them, or ``class x1 y1 …`` for an
    outline of one part where ``polygons``. ``ultralytics`` has ``data.yaml``; ``darknet`` has ``obj.data``,
    ``obj.names`` and the lists of images, with each label beside its image. Classes keep the numbers of the
    collection where these are a class list of YOLO, else they are counted from 0.
    """
    classes = numbered(collection)
    losses: Counter[str] = Counter()
    lines: dict[int, list[str]] = defaultdict(list)
    for row in _rows(collection).iter_rows(named=True):
        number = classes.number_of(row["category_id"], row["category"], row["format"] == "yolo")
        points = _points(row, losses) if polygons else None
        if points is None and row["segmentation"] is not None and not polygons:
            losses["segmentation"] += 1
        if row["bbox"] is None:
            continue
        if points is None:
            points = _box(row)
        lines[row["image"]].append(" ".join([str(number), *points]))
    files = {
        f"{ref}.txt": "".join(f"{line}\n" for line in lines[image]).encode()
        for image, ref in collection.images.select("image", "ref").iter_rows()
    }
    lost = [("several images of one path", collection.images.height - len(files))]
    files |= (
        _lists(collection, classes.names) if layout == "darknet" else _data_yaml(collection, classes.names)
    )
    says = {"score", "segmentation"} if polygons else {"score"}
    return Written(files=files, unsaid=unsaid(collection, "yolo", says=says, also=[*losses.items(), *lost]))


def _rows(collection: Collection) -> pl.DataFrame:
    """The boxes with ``parts``: centre and size as parts of the image, as delivered where they are so."""
    own = collection.boxes["bbox_mode"] == "cxcywh_norm"
    if own.all():
        nothing = pl.lit(None, pl.Int32)
        return collection.boxes.with_columns(pl.col("bbox").alias("parts"), width=nothing, height=nothing)
    # Sizes are needed by every box that is in pixels.
    frame = collection.with_sizes_needed().absolute()
    width, height = pl.col("width"), pl.col("height")
    made = pl.concat_list(
        value.round_sig_figs(10)
        for value in (
            (pl.col("xmin") + pl.col("xmax")) / 2 / width,
            (pl.col("ymin") + pl.col("ymax")) / 2 / height,
            (pl.col("xmax") - pl.col("xmin")) / width,
            (pl.col("ymax") - pl.col("ymin")) / height,
        )
    )
    delivered = collection.boxes["segmentation"]
    relative = pl.col("bbox_mode") == "cxcywh_norm"
    return frame.with_columns(
        pl.when(relative).then(pl.col("bbox")).otherwise(made).alias("parts"),
        pl.when(relative).then(delivered).otherwise(pl.col("segmentation")).alias("segmentation"),
        pl.when(relative).then(None).otherwise(width).alias("width"),
    )


def _points(row: dict[str, Any], losses: Counter[str]) -> list[str] | None:
    """The words of an outline; None where there is none that a line of YOLO can be."""
    text = row["segmentation"]
    if text is None or text in {"[]", "[[]]"}:
        return None
    if not text.startswith("["):
        losses["masks as run lengths"] += 1
        return None
    parts = _polygons.decode(text)
    if len(parts) != 1:
        losses["outlines of several parts"] += 1
        return None
    words = [bytes(word).decode() for word in parts[0]]
    if len(words) < 6 or len(words) % 2:
        losses["outlines of fewer than 3 points"] += 1
        return None
    if row["width"] is None:
        return words
    sizes = (row["width"], row["height"])
    return [shortest(float(f"{float(word) / sizes[i % 2]:.10g}")) for i, word in enumerate(words)]


def _box(row: dict[str, Any]) -> list[str]:
    values = [*row["parts"], *([] if row["score"] is None else [row["score"]])]
    written = attributes_of(row["attributes"]).get("$written")
    if row["format"] == "yolo" and isinstance(written, list) and len(written) == len(values):
        words = [str(word) for word in written]
        return [
            word if float(word) == value else shortest(value)
            for word, value in zip(words, values, strict=True)
        ]
    return [shortest(float(value)) for value in values]


def _data_yaml(collection: Collection, names: dict[int, str]) -> dict[str, bytes]:
    if not names:
        return {}
    splits = set(collection.images["split"].drop_nulls())
    lists = {
        f"{split}.txt": "".join(f"{name}\n" for name in _names(collection, split)).encode()
        for split in _SPLITS
        if split in splits
    }
    if not lists:
        lists = {"train.txt": "".join(f"{name}\n" for name in _names(collection, None)).encode()}
    content: dict[str, Any] = {"path": "."} | {name.removesuffix(".txt"): name for name in lists}
    if "val" not in content:
        content["val"] = next(iter(lists))
    content["names"] = names
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1_000_000)
    return {**lists, "data.yaml": text.encode()}


def _lists(collection: Collection, names: dict[int, str]) -> dict[str, bytes]:
    last = max(names, default=-1)
    splits = set(collection.images["split"].drop_nulls())
    files = {"obj.names": "".join(f"{names.get(number, '')}\n" for number in range(last + 1)).encode()}
    data = [f"classes = {last + 1}"]
    for key, split in (("train", "train"), ("valid", "val")):
        if split in splits or (split == "train" and not splits):
            files[f"{key}.txt"] = "".join(
                f"{name}\n" for name in _names(collection, split if splits else None)
            ).encode()
            data.append(f"{key} = {key}.txt")
    files["obj.data"] = "\n".join([*data, "names = obj.names", "backup = backup/", ""]).encode()
    return files


def _names(collection: Collection, split: str | None) -> list[str]:
    images = collection.images if split is None else collection.images.filter(pl.col("split") == split)
    return [
        posixpath.join(".", name or f"{ref}.jpg")
        for ref, name in images.select("ref", "file_name").iter_rows()
    ]
