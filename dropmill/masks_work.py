"""What an actor of the masks' stage does: images in, rows of masks and of what cannot be masked out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from dropmill.masks_config import MasksConfig
from storage.errors import DropmillError, StoreError, UnreadableError
from storage.object_store import ObjectStore
from training.samples import decode_image
from transforms.formats.masks import encoded_counts, run_counts
from transforms.masks.crops import Pixels, Window
from transforms.masks.labeler import BoxedImage, why_not

IMAGES = pa.schema(
    [
        pa.field("sample", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("version", pa.string()),
        pa.field("sources", pa.list_(pa.string())),
        pa.field("instances", pa.list_(pa.int64())),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("crowds", pa.list_(pa.bool_())),
        pa.field("boxes", pa.list_(pa.list_(pa.float64()))),
    ]
)
"""A row for each image, with its boxes that have no mask yet."""

DONE = pa.schema(
    [
        pa.field("sample", pa.string()),
        pa.field("source", pa.string()),
        pa.field("instance", pa.int64()),
        pa.field("category", pa.string()),
        pa.field("rle", pa.string()),  # null where there is no mask
        pa.field("score", pa.float64()),
        pa.field("area", pa.int64()),
        pa.field("box", pa.list_(pa.float64())),
        pa.field("image_version", pa.string()),
        pa.field("rule", pa.string()),  # why there is no mask
        pa.field("observed", pa.string()),
    ]
)
"""A row for each box: a mask, or the rule that says why there is none."""

NO_BOX, OUTSIDE, CROWD = "mask_of_empty_box", "mask_of_box_outside", "mask_of_crowd"
NO_IMAGE, UNREADABLE, NOTHING = "mask_without_image", "mask_of_unreadable_image", "mask_found_nothing"
KILLED = "mask_killed_its_worker"
RULES = {
    NO_BOX: "warning",
    OUTSIDE: "warning",
    CROWD: "info",
    NO_IMAGE: "warning",
    UNREADABLE: "warning",
    NOTHING: "warning",
    KILLED: "warning",
}
"""Why a box has no mask, with the severity of that."""
_READ_AT_ONCE = 4
_MAX_IMAGE_BYTES = 256 << 20
_RULE_OF = {"empty": NO_BOX, "not finite": NO_BOX, "outside": OUTSIDE}


class LabelImages:
    """Holds the labeler; called with batches of :data:`IMAGES`, answers with :data:`DONE`."""

    def __init__(self, config: MasksConfig, *, use_gpu: bool, threads: int) -> None:
        self._labeler = config.labeler(use_gpu=use_gpu, threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One decode for each image, and all boxes of all images through the model together."""
        rows = batch.to_pylist()
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            pictures = list(pool.map(_pixels, rows))
        done: list[dict[str, Any]] = []
        ready: list[tuple[dict[str, Any], Pixels, list[int]]] = []
        for row, picture in zip(rows, pictures, strict=True):
            if not isinstance(picture, np.ndarray):
                done += [_without(row, place, *picture) for place in range(len(row["boxes"]))]
                continue
            places = []
            for place, box in enumerate(row["boxes"]):
                broken = _refused(row, place, box, picture)
                if broken is None:
                    places.append(place)
                else:
                    done.append(broken)
            if places:
                ready.append((row, picture, places))
        boxed = [
            BoxedImage(picture, np.array([row["boxes"][place] for place in places], np.float64))
            for row, picture, places in ready
        ]
        for (row, picture, places), windows in zip(ready, self._labeler.label(boxed), strict=True):
            done += [
                _with(row, place, window, picture) for place, window in zip(places, windows, strict=True)
            ]
        return pa.Table.from_pylist(done, schema=DONE)


def killed(images: pa.Table, how: str) -> pa.Table:
    """What is said of all boxes of images that no worker survives."""
    rows = [
        _without(row, place, KILLED, f"{row['uri']}: {how}")
        for row in images.to_pylist()
        for place in range(len(row["boxes"]))
    ]
    return pa.Table.from_pylist(rows, schema=DONE)


def _pixels(row: dict[str, Any]) -> Pixels | tuple[str, str]:
    """The image as the lake knows it, or the rule that says why there is none, and what was seen."""
    folder, _, name = str(row["uri"]).rpartition("/")
    try:
        # The address is spelt as its store spells it, so it is taken as it is.
        store = ObjectStore(folder)
        info = store.head(name)
        if info is None:
            return NO_IMAGE, f"{row['uri']}: no such object"
        if info.version != row["version"]:
            return NO_IMAGE, f"{row['uri']}: version {info.version}, and the lake knows {row['version']}"
        with store.open(name, info) as file:
            data = file.read(_MAX_IMAGE_BYTES + 1)
        if len(data) > _MAX_IMAGE_BYTES:
            return UNREADABLE, f"{row['uri']}: more than {_MAX_IMAGE_BYTES >> 20} MiB"
        return decode_image(data, str(row["uri"]))
    except UnreadableError as error:
        return UNREADABLE, str(error)
    except StoreError as error:
        return NO_IMAGE, str(error)
    except DropmillError as error:
        return UNREADABLE, str(error)


def _refused(row: dict[str, Any], place: int, box: list[float], picture: Pixels) -> dict[str, Any] | None:
    if row["crowds"][place]:
        return _without(row, place, CROWD, f"box {_short(box)} of many objects")
    height, width = picture.shape[:2]
    why = why_not([np.nan if side is None else side for side in box], width, height)
    return why and _without(row, place, _RULE_OF[why], f"box {_short(box)} on an image of {width}x{height}")  # type: ignore[return-value]


def _with(row: dict[str, Any], place: int, window: Window, picture: Pixels) -> dict[str, Any]:
    height, width = picture.shape[:2]
    if not window.area:
        return _without(row, place, NOTHING, f"no pixel in box {_short(row['boxes'][place])}")
    counts = run_counts(window.mask, window.left, window.top, width, height)
    rle = json.dumps({"size": [height, width], "counts": encoded_counts(counts)})
    return _row(row, place) | {"rle": rle, "score": window.score, "area": window.area}


def _without(row: dict[str, Any], place: int, rule: str, observed: str) -> dict[str, Any]:
    return _row(row, place) | {"rule": rule, "observed": observed}


def _row(row: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        "sample": row["sample"],
        "source": row["sources"][place],
        "instance": row["instances"][place],
        "category": row["categories"][place],
        "box": row["boxes"][place],
        "image_version": row["version"],
    }


def _short(box: list[float]) -> str:
    return ", ".join("null" if side is None else f"{side:g}" for side in box)
