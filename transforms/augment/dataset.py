"""KITTI folders and COCO files as labelled images, and the labels of outputs in the form of their set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from storage.errors import ConfigError
from transforms.augment.boxes import overlap
from transforms.augment.plan import Plan
from transforms.augment.sample import LabelledImage, Objects, Placed, no_objects, objects_of
from transforms.conversion.sources import image_files, read_file, read_folder
from transforms.delivery import route_of, without_extension
from transforms.writers.coco import write_coco
from transforms.writers.collection import Collection
from transforms.writers.kitti import write_kitti

_SAME = 0.5  # intersection over union from which a cached mask is that of a box

# What KITTI's own files say of three dimensions where nothing is known, as for DontCare.
_FLAT = {
    "alpha": -10,
    "dimensions": [-1, -1, -1],
    "location": [-1000, -1000, -1000],
    "rotation_y": -10,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledSet:
    """Images with labels, in the order of their labels, and the rows that they came from."""

    form: str
    images: tuple[LabelledImage, ...]
    collection: Collection
    boxes: pl.DataFrame
    """The rows of all objects, in pixels."""
    without_image: tuple[str, ...]
    """Labels whose image is not there, or has no readable header."""
    without_label: tuple[str, ...]
    """Images that no label speaks of."""


def read_set(form: str, image_dir: Path, ann_path: Path) -> LabelledSet:
    """Read the labels of a folder of KITTI files, or of one COCO file, and find their images.

    An image with an empty label is a sample like any other. Raises ConfigError where a path is not there,
    UnreadableError for labels that are damaged.
    """
    if not str(image_dir) or str(image_dir) == ".":
        raise ConfigError("data.image_dir: no value; expected the folder of the images")
    read = read_file if form == "coco" else read_folder
    files = image_files(image_dir, "data.image_dir")
    return labelled_set(read(form, ann_path, "data.ann_path"), files, image_dir, form)


def labelled_set(
    collection: Collection, files: Mapping[str, tuple[str, int | None, int | None]], folder: Path, form: str
) -> LabelledSet:
    """The images of a collection that are among ``files`` (see ``image_files``) below ``folder``."""
    there = {name for name, width, _ in files.values() if width is not None}
    collection = collection.with_images(files)
    boxes = collection.absolute().with_row_index("row")
    by_image = {int(str(key[0])): frame for key, frame in boxes.partition_by("image", as_dict=True).items()}
    images, lost = [], []
    columns = ("image", "ref", "file_name", "width", "height", "split")
    for number, ref, name, width, height, split in collection.images.select(columns).iter_rows():
        if name not in there:
            lost.append(name or ref)
            continue
        stat = (folder / name).stat()
        images.append(
            LabelledImage(
                sample=without_extension(name),
                name=name,
                uri=str(folder / name),
                version=f"{stat.st_size:x}-{stat.st_mtime_ns:x}",
                width=width,
                height=height,
                objects=_objects(by_image.get(number)),
                row=number,
                split=split,
            )
        )
    named = {route_of(image.sample) for image in images}
    bare = tuple(value[0] for ref, value in files.items() if route_of(ref) not in named and value[0] in there)
    return LabelledSet(
        form=form,
        images=_distinct(images),
        collection=collection,
        boxes=boxes,
        without_image=tuple(lost),
        without_label=bare,
    )


def with_cached_masks(
    images: Sequence[LabelledImage], cache: Path
) -> tuple[tuple[LabelledImage, ...], dict[str, int]]:
    """The images with the masks of a COCO file, and counts of objects with and without one.

    A mask belongs to the box of its image, of the same class, that its own box meets best, from half on. An
    image is found by its path without extension, or by the last part of it where that is the only one.
    """
    masks = read_file("coco", cache, "spatial_aug.rotation.refine_box.gt_cache")
    rows = masks.absolute().filter(pl.col("segmentation").is_not_null() & pl.col("xmin").is_not_null())
    refs = dict(masks.images.select("image", "ref").iter_rows())
    by_ref: dict[str, pl.DataFrame] = {
        refs[int(str(key[0]))]: frame for key, frame in rows.partition_by("image", as_dict=True).items()
    }
    stems: dict[str, list[str]] = {}
    for ref in by_ref:
        stems.setdefault(ref.rsplit("/", 1)[-1], []).append(ref)
    found, counts = [], {"with_mask": 0, "without_mask": 0}
    for image in images:
        same = stems.get(image.sample.rsplit("/", 1)[-1], [])
        alone = same[0] if len(same) == 1 else None
        found_ref = image.sample if image.sample in by_ref else alone
        objects = image.objects if found_ref is None else _matched(image.objects, by_ref[found_ref])
        having = sum(text is not None for text in objects.segmentations)
        counts["with_mask"] += having
        counts["without_mask"] += len(objects) - having
        found.append(_with_objects(image, objects))
    return tuple(found), counts


def labels_files(
    read: LabelledSet, outputs: Sequence[tuple[Plan, Placed]], coco_file: str
) -> dict[str, bytes]:
    """Label files of outputs by their paths below the folder of results, in the set's own form.

    KITTI: ``labels/<name>.txt``. The fields of three dimensions say "unknown" where the image was moved;
    truncated grows by what is out of view, occluded becomes 1 where another layer hides a part. COCO: one
    file; ids of images and annotations are those that came in where there is one output of each image.
    """
    collection = _collection(read, outputs)
    if read.form == "kitti":
        return {f"labels/{name}": data for name, data in write_kitti(collection).files.items()}
    return {coco_file: next(iter(write_coco(collection).files.values()))}


def _objects(frame: pl.DataFrame | None) -> Objects:
    if frame is None:
        return no_objects()
    corners = ("xmin", "ymin", "xmax", "ymax")
    frame = frame.filter(pl.all_horizontal(pl.col(corners).is_finite().fill_null(value=False)))
    crowd = frame["iscrowd"].fill_null(value=False) | frame["ignore"].fill_null(value=False)
    outlines = [None if text in {"[]", "[[]]", "null"} else text for text in frame["segmentation"]]
    return objects_of(
        frame.select(corners).to_numpy(),
        frame["category"].fill_null("").to_list(),
        crowd.to_list(),
        frame["row"].to_list(),
        outlines,
    )


def _distinct(images: Sequence[LabelledImage]) -> tuple[LabelledImage, ...]:
    seen: set[str] = set()
    for image in images:
        if image.sample in seen:
            raise ConfigError(
                f"{image.name}: two images, or two labels, have this path without extension; rename one"
            )
        seen.add(image.sample)
    return tuple(images)


def _with_objects(image: LabelledImage, objects: Objects) -> LabelledImage:
    return LabelledImage(**{**vars(image), "objects": objects})


def _matched(objects: Objects, masks: pl.DataFrame) -> Objects:
    """Each object with the mask that fits it best; no mask goes to two."""
    boxes = masks.select("xmin", "ymin", "xmax", "ymax").to_numpy()
    share = overlap(objects.boxes, boxes)
    own = masks["category"].to_list()
    if any(own):
        share[np.array([[name != other for other in own] for name in objects.categories])] = 0.0
    texts = masks["segmentation"].to_list()
    outlines = list(objects.segmentations)
    order = np.argsort(-share, axis=None, kind="stable")
    given: set[int] = set()
    done: set[int] = set()
    for place in order.tolist():
        i, j = divmod(place, share.shape[1])
        if share[i, j] < _SAME:
            break
        if i not in done and j not in given:
            outlines[i] = texts[j]
            done.add(i)
            given.add(j)
    return objects_of(objects.boxes, objects.categories, objects.ignore.tolist(), objects.rows, outlines)


def _collection(read: LabelledSet, outputs: Sequence[tuple[Plan, Placed]]) -> Collection:
    """The outputs as a collection that the writers take."""
    by_sample = {image.sample: image for image in read.images}
    shown = [source for _, placed in outputs for source in placed.sources]
    single = len({plan.sample for plan, _ in outputs}) == len(outputs) and len(set(shown)) == len(shown)
    keep_ids = single and read.form == "coco"
    rows, parts = [], []
    for number, (plan, placed) in enumerate(outputs):
        image = by_sample[plan.sample]
        old = read.collection.images.row(image.row, named=True)
        record = msgspec.json.decode(old["attributes"] or "{}", type=dict[str, msgspec.Raw])
        record.pop("$again", None)
        record["file_name"] = msgspec.Raw(msgspec.json.encode(plan.name))
        if not (keep_ids and "id" in record):
            record["id"] = msgspec.Raw(str(number + 1).encode())
        rows.append(
            {
                "image": number,
                "source": old["source"],
                "ref": without_extension(plan.name),
                "file_name": plan.name,
                "width": plan.width,
                "height": plan.height,
                "split": old["split"],
                "format": read.form,
                "attributes": msgspec.json.encode(record).decode() if read.form == "coco" else None,
            }
        )
        if len(placed):
            parts.append(_frame(number, plan, placed, by_sample))
    images = pl.DataFrame(rows, schema=read.collection.images.schema)
    boxes = _rows(read, pl.concat(parts) if parts else _no_frame(), keep_ids=keep_ids)
    categories = read.collection.categories
    return Collection(images=images, boxes=boxes, categories=categories, documents=read.collection.documents)


def _frame(number: int, plan: Plan, placed: Placed, images: Mapping[str, LabelledImage]) -> pl.DataFrame:
    """What is new of the objects of one output."""
    count = len(placed)
    source_rows = [images[sample].objects.rows[i] for sample, i in placed.sources]
    return pl.DataFrame(
        {
            "image": [number] * count,
            "row": source_rows,
            "new_bbox": placed.boxes.tolist(),
            "new_segmentation": list(placed.segmentations),
            "visible": placed.visible,
            "covered": placed.covered,
            "area": placed.areas,
            "same": [plan.is_identity] * count,
        },
        schema=_no_frame().schema,
    )


def _no_frame() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "image": pl.Int64,
            "row": pl.UInt32,
            "new_bbox": pl.List(pl.Float64),
            "new_segmentation": pl.String,
            "visible": pl.Float64,
            "covered": pl.Float64,
            "area": pl.Float64,
            "same": pl.Boolean,
        }
    )


def _rows(read: LabelledSet, new: pl.DataFrame, *, keep_ids: bool) -> pl.DataFrame:
    """Rows of the set with what is new of them, once for each output that shows them."""
    corners = ["xmin", "ymin", "xmax", "ymax"]
    columns = [name for name in read.collection.boxes.columns if name != "image"]
    old = read.boxes.select("row", *columns, *corners)
    rows = new.join(old, on="row", how="left", maintain_order="left")
    attributes = [
        _attributes(read.form, text, number + 1, area, same=same, keep_id=keep_ids)
        for number, (text, area, same) in enumerate(rows.select("attributes", "area", "same").iter_rows())
    ]
    corner = [pl.col("new_bbox").list.get(i) for i in range(4)]
    if read.form == "coco":
        wide, high = ((corner[i + 2] - corner[i]).round(4) for i in range(2))
        bbox = pl.concat_list(corner[0].round(4), corner[1].round(4), wide, high)
    else:
        bbox = pl.concat_list(value.round(4) for value in corner)
    # -1 is KITTI's word for "unknown"; what was out of view already is not in view again.
    truncated = pl.when(pl.col("truncation") >= 0).then(pl.col("truncation")).otherwise(None)
    grown = (1 - (1 - truncated) * pl.col("visible") / (1 - pl.col("covered")).clip(1e-9)).clip(0, 1)
    changed = (pl.col("visible") < 1) & truncated.is_not_null()
    hidden = (pl.col("covered") > 0.1) & pl.col("occlusion").is_in([0, 3])
    return rows.with_columns(
        bbox.alias("bbox"),
        pl.lit("xywh" if read.form == "coco" else "xyxy").alias("bbox_mode"),
        pl.lit(read.form).alias("format"),
        pl.col("new_segmentation").alias("segmentation"),
        pl.when(changed).then(grown.round(4)).otherwise(pl.col("truncation")).alias("truncation"),
        pl.when(hidden).then(1).otherwise(pl.col("occlusion")).cast(pl.Int32).alias("occlusion"),
        pl.Series("attributes", attributes, pl.String),
    ).select("image", *columns)


def _attributes(form: str, text: str | None, number: int, area: float, *, same: bool, keep_id: bool) -> str:
    values = msgspec.json.decode(text or "{}", type=dict[str, msgspec.Raw])
    if form == "kitti":
        if not same:
            values |= {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in _FLAT.items()}
            values.pop("$written", None)
        return msgspec.json.encode(values).decode()
    if not (keep_id and "id" in values):
        values["id"] = msgspec.Raw(str(number).encode())
    values.pop("image_id", None)
    values["area"] = msgspec.Raw(msgspec.json.encode(round(area, 4)))
    return msgspec.json.encode(values).decode()
