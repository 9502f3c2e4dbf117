"""The tables of the lake, column by column.

Boxes of ``annotations`` are corners in absolute pixels of the image as it is shown (EXIF orientation
applied): ``xmin, ymin, xmax, ymax``, float64, origin at the outer corner of the top left pixel, x to the
right, y down. ``labels`` keeps the numbers as delivered, with ``bbox_mode`` saying what they mean.

An *instance* is identified by ``(dataset, source, instance)``: the key of its label object and its ordinal
in it (0-based, in file order). ``stem`` is the last path component without extension: images and labels
that can belong together share it.
"""

from __future__ import annotations

import pyarrow as pa

UTC_TIME = pa.timestamp("us", tz="UTC")

EVENT = pa.struct(
    [
        pa.field("action", pa.string()),  # "put" or "remove"
        pa.field("key", pa.string()),
        pa.field("version", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("dataset", pa.string()),
    ]
)

OBJECTS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("key", pa.string()),  # path below the bucket, "/" between parts
        pa.field("version", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("kind", pa.string()),  # image, label, classes, split, other
        pa.field("format", pa.string()),  # jpeg, png, ..., kitti, coco, voc, yolo, ...
        pa.field("state", pa.string()),  # done, quarantined, removed
        pa.field("error", pa.string()),
        pa.field("lane", pa.string()),
        pa.field("batch", pa.int64()),
        pa.field("seen_at", UTC_TIME),
    ]
)

BATCHES = pa.schema(
    [
        pa.field("lane", pa.string()),
        pa.field("number", pa.int64()),
        pa.field("state", pa.string()),  # planned, done
        pa.field("events", pa.list_(EVENT)),
        pa.field("planned_at", UTC_TIME),
        pa.field("done_at", UTC_TIME),
        pa.field("images", pa.int64()),
        pa.field("labels", pa.int64()),
        pa.field("annotations", pa.int64()),
        pa.field("findings", pa.int64()),
        pa.field("quarantined", pa.int64()),
        pa.field("removed", pa.int64()),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("sample", pa.string()),  # path below the dataset, without extension
        pa.field("stem", pa.string()),
        pa.field("key", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("version", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("width", pa.int32()),  # as shown, EXIF orientation applied
        pa.field("height", pa.int32()),
        pa.field("channels", pa.int32()),
        pa.field("bit_depth", pa.int32()),  # bits per channel
        pa.field("format", pa.string()),
        pa.field("exif_orientation", pa.int32()),  # 1 to 8; 1 where absent or not legal
        pa.field("split", pa.string()),
        pa.field("labelled", pa.bool_()),  # a label file speaks of it, perhaps to say that it is empty
        # Null where pixels are not looked at:
        pa.field("phash", pa.int64()),  # perceptual hash: bit_count(xor(a, b)) tells how near two are
        pa.field("deviation", pa.float64()),  # of the grey values, 0 to 127.5; near 0 the image is one colour
        pa.field("pattern", pa.string()),  # 63 low frequencies, signed bytes in hexadecimal digits
        pa.field("batch", pa.int64()),
    ]
)

MENTIONS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("source", pa.string()),  # key of the label or split file
        pa.field("kind", pa.string()),  # label or split
        pa.field("format", pa.string()),
        pa.field("ref", pa.string()),  # the image as the file names it: path without extension
        pa.field("stem", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),  # as the file declares it
        pa.field("height", pa.int32()),
        pa.field("instances", pa.int64()),
        pa.field("attributes", pa.string()),  # JSON: what else the file says of the image
        pa.field("batch", pa.int64()),
    ]
)

CATEGORIES = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("source", pa.string()),
        pa.field("category_id", pa.int64()),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.string()),  # JSON
        pa.field("batch", pa.int64()),
    ]
)

LABELS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("source", pa.string()),
        pa.field("instance", pa.int64()),
        pa.field("line", pa.int64()),  # 1-based, null where the format has no lines
        pa.field("format", pa.string()),
        pa.field("ref", pa.string()),
        pa.field("stem", pa.string()),
        pa.field("category_id", pa.int64()),
        pa.field("category", pa.string()),  # null where the file only gives a number
        pa.field("bbox", pa.list_(pa.float64())),  # four numbers as delivered, null where there are none
        pa.field("bbox_mode", pa.string()),  # xyxy, xywh (pixels), cxcywh_norm, xyxy_norm (parts)
        pa.field("truncation", pa.float64()),
        pa.field("occlusion", pa.int32()),
        pa.field("iscrowd", pa.bool_()),
        pa.field("ignore", pa.bool_()),  # KITTI DontCare, VOC difficult, COCO crowd
        pa.field("score", pa.float64()),
        pa.field("segmentation", pa.string()),  # JSON as in COCO; parts of the image for YOLO polygons
        pa.field("attributes", pa.string()),  # JSON: everything that has no column
        pa.field("batch", pa.int64()),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("sample", pa.string()),
        pa.field("stem", pa.string()),
        pa.field("source", pa.string()),
        pa.field("instance", pa.int64()),
        pa.field("category", pa.string()),
        pa.field("xmin", pa.float64()),
        pa.field("ymin", pa.float64()),
        pa.field("xmax", pa.float64()),
        pa.field("ymax", pa.float64()),
        pa.field("truncation", pa.float64()),
        pa.field("occlusion", pa.int32()),
        pa.field("iscrowd", pa.bool_()),
        pa.field("ignore", pa.bool_()),
        pa.field("score", pa.float64()),
        pa.field("segmentation", pa.string()),  # JSON as in COCO, absolute pixels
        pa.field("attributes", pa.string()),
        pa.field("corrected", pa.bool_()),
        pa.field("changes", pa.string()),  # JSON: the corners as delivered, null where nothing was changed
        pa.field("batch", pa.int64()),
    ]
)

FINDINGS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("severity", pa.string()),  # info, warning, error
        pa.field("sample", pa.string()),  # of the image; the label's ref where no image is there
        pa.field("stem", pa.string()),
        pa.field("source", pa.string()),
        pa.field("instance", pa.int64()),  # null where the finding is about a file
        pa.field("line", pa.int64()),
        pa.field("category", pa.string()),
        pa.field("observed", pa.string()),
        pa.field("correction", pa.string()),  # what was done; null where nothing was
        pa.field("batch", pa.int64()),
    ]
)

MASKS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("sample", pa.string()),
        pa.field("source", pa.string()),
        pa.field("instance", pa.int64()),
        pa.field("rle", pa.string()),  # JSON: size and encoded counts, of the whole image
        pa.field("score", pa.float64()),  # mean probability of its pixels; null where the model has none
        pa.field("area", pa.int64()),  # pixels
        pa.field("xmin", pa.float64()),  # the box that it was made from
        pa.field("ymin", pa.float64()),
        pa.field("xmax", pa.float64()),
        pa.field("ymax", pa.float64()),
        pa.field("image_version", pa.string()),
        pa.field("model", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("run", pa.string()),
        pa.field("made_at", UTC_TIME),
    ]
)

SHARDS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("samples", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("run", pa.string()),
        pa.field("made_at", UTC_TIME),
        pa.field("format", pa.string()),  # webdataset, tfrecord
        pa.field("objects", pa.string()),  # JSON: category -> objects in it
        pa.field("snapshot", pa.string()),  # JSON: table -> version
        pa.field("parameters", pa.string()),  # JSON: the augmentation's spec
    ]
)

RUNS = pa.schema(
    [
        pa.field("run", pa.string()),  # also the submission id of the job's first attempt
        pa.field("pipeline", pa.string()),
        pa.field("step", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("state", pa.string()),  # planned, submitted, succeeded, failed, stopped, skipped
        pa.field("snapshot", pa.string()),  # JSON: table -> version
        pa.field("parameters", pa.string()),  # JSON
        pa.field("metrics", pa.string()),  # JSON
        pa.field("outputs", pa.string()),  # JSON: name -> uri
        pa.field("labelled_images", pa.int64()),  # in the snapshot: what the next trigger counts from
        pa.field("error", pa.string()),
        pa.field("submitted_at", UTC_TIME),
        pa.field("ended_at", UTC_TIME),
        # Null in runs of no pipeline:
        pa.field("execution", pa.string()),  # what the steps of one execution of a pipeline share
        pa.field("position", pa.int32()),  # of the step in its pipeline, from 1
        pa.field("inputs", pa.string()),  # JSON: what it is -> the run that made it
        pa.field("attempt", pa.int32()),  # from 1
        pa.field("policy", pa.string()),  # JSON: retries, retry_wait_s, resources
        pa.field("not_before", UTC_TIME),  # of the next attempt
        pa.field("cluster", pa.string()),  # the dashboard of the Ray cluster that has the job
    ]
)

MODELS = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("run", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("architecture", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("kind", pa.string()),  # checkpoint, onnx, engine, labels, card
        pa.field("uri", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("metrics", pa.string()),  # JSON
        pa.field("snapshot", pa.string()),  # JSON: table -> version
        pa.field("made_at", UTC_TIME),
        pa.field("state", pa.string()),  # null, current, rejected, retired
    ]
)

SEEN = pa.schema(
    [
        pa.field("run", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("sample", pa.string()),
        pa.field("role", pa.string()),  # shards, train, val, test, calibration
        pa.field("kind", pa.string()),  # image, label
        pa.field("key", pa.string()),
        pa.field("version", pa.string()),
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("sample", pa.string()),
        pa.field("detection", pa.int64()),  # place among those of the image, best first
        pa.field("category", pa.string()),
        pa.field("xmin", pa.float64()),
        pa.field("ymin", pa.float64()),
        pa.field("xmax", pa.float64()),
        pa.field("ymax", pa.float64()),
        pa.field("score", pa.float64()),
        pa.field("verdict", pa.string()),  # true, false or ignored, at IoU 0.5
        pa.field("segmentation", pa.string()),  # JSON: COCO's encoded run lengths
        pa.field("made_at", UTC_TIME),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "objects": OBJECTS,
    "batches": BATCHES,
    "images": IMAGES,
    "mentions": MENTIONS,
    "categories": CATEGORIES,
    "labels": LABELS,
    "annotations": ANNOTATIONS,
    "findings": FINDINGS,
    "masks": MASKS,
    "shards": SHARDS,
    "runs": RUNS,
    "models": MODELS,
    "seen": SEEN,
    "predictions": PREDICTIONS,
}


ABOUT: dict[str, str] = {
    "objects": "every version of every object of the bucket that was worked on, and how that ended",
    "batches": "events that were worked on and committed together",
    "images": "images that can be read",
    "mentions": "what a label or split file says of one image",
    "categories": "class lists as delivered",
    "labels": "object instances as delivered, uncorrected",
    "annotations": "object instances after checks and corrections: boxes in absolute pixels, corners",
    "findings": "rules that were broken, by what, and what was done",
    "masks": "pseudo masks of annotations",
    "shards": "files of many samples, ready to stream into training",
    "runs": "executions of jobs: versions they read, parameters, metrics, outputs",
    "models": "checkpoints, ONNX files and engines, and the versions they were made from",
    "seen": "objects of the bucket, with their versions, that a run learnt from or was measured on",
    "predictions": "what a model found in a data set, and whether it is right",
}
"""One line on every table, for help texts and documents."""


def without(schema: pa.Schema, *columns: str) -> pa.Schema:
    """Return ``schema`` without ``columns``."""
    return pa.schema([field for field in schema if field.name not in columns])
