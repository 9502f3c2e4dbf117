"""MMDetection's middle format, in and out, as JSON.

Both generations are read: the list of ``{filename, width, height, ann: {bboxes, labels, bboxes_ignore,
labels_ignore}}`` whose labels count from 1, and ``{metainfo: {classes}, data_list: [{img_path, height, width,
instances: [{bbox, bbox_label, ignore_flag}]}]}`` whose labels count from 0. Pickles, which that project also
knows, run code when they are read, and are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import ConfigError, UnreadableError
from training.evaluation.detections import EVERY_CATEGORY
from training.samples import Sample
from training.zoo.data import speaks_of_all

_MAX_BYTES = 2 << 30


def read_middle(path: str | Path, images: str | Path = "", classes: Sequence[str] = ()) -> list[Sample]:
    """Samples of a file in the middle format; ``images`` is the folder or URL that its names are in.

    ``classes`` names the labels of files that do not. Raises ``UnreadableError`` with the wrong entry.
    """
    path = Path(path)
    if path.suffix in {".pkl", ".pickle"}:
        raise ConfigError(
            f"{path}: a pickle, which runs code when it is read; write it again as JSON (mmengine.dump does)"
        )
    content = _content(path)
    if isinstance(content, dict):
        named = content.get("metainfo", {})
        named = (named.get("classes") or named.get("CLASSES") or ()) if isinstance(named, dict) else ()
        entries, first = content.get("data_list"), 0
        names = tuple(classes) or tuple(map(str, named))
    else:
        entries, first, names = content, 1, tuple(classes)
    if not isinstance(entries, list):
        raise UnreadableError(str(path), "no data_list", expected="MMDetection's middle format")
    return [_sample(entry, f"entry {i}", path, str(images), names, first) for i, entry in enumerate(entries)]


def middle_format(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """Samples in the middle format of MMDetection 3, labels from 0.

    Objects of other classes are left out; a region where no class counts is one of each.
    """
    return {
        "metainfo": {"classes": list(classes)},
        "data_list": [
            {
                "img_path": sample.uri,
                "height": sample.height,
                "width": sample.width,
                "instances": [
                    {"bbox": box, "bbox_label": label, "ignore_flag": int(ignore)}
                    | ({"mask": json.loads(shape)} if shape else {})
                    for box, label, ignore, shape in _written(sample, classes)
                ],
            }
            for sample in samples
        ],
    }


def first_middle_format(samples: Sequence[Sample], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The same in the format of MMDetection 1: labels from 1, what is ignored apart, no masks."""
    entries = []
    for sample in samples:
        ann: dict[str, list[Any]] = {"bboxes": [], "labels": [], "bboxes_ignore": [], "labels_ignore": []}
        for box, label, ignore, _ in _written(sample, classes):
            ending = "_ignore" if ignore else ""
            ann[f"bboxes{ending}"].append(box)
            ann[f"labels{ending}"].append(label + 1)
        entries.append({"filename": sample.uri, "width": sample.width, "height": sample.height, "ann": ann})
    return entries


def _written(sample: Sample, classes: Sequence[str]) -> Iterator[tuple[list[float], int, bool, str | None]]:
    """Box, label from 0, whether it is ignored, and shape of each object."""
    numbers = {name: number for number, name in enumerate(classes)}
    shapes = sample.shapes or [None] * len(sample.categories)
    for box, name, ignore, shape in zip(
        sample.boxes.tolist(), sample.categories, sample.ignore.tolist(), shapes, strict=True
    ):
        if name in numbers:
            yield box, numbers[name], ignore, shape
        elif ignore and speaks_of_all(name):
            for label in numbers.values():
                yield box, label, True, shape


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableError(str(path), "a file above 2 GiB", expected="a smaller one")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableError(str(path), str(error.strerror), expected="a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(
            str(path), f"no JSON: {error}", expected="MMDetection's middle format"
        ) from None


def _sample(entry: Any, place: str, path: Path, images: str, names: tuple[str, ...], first: int) -> Sample:
    try:
        name = str(entry["img_path"] if "img_path" in entry else entry["filename"])
        boxes, labels, ignore, shapes = _objects(entry)
        array = np.array(boxes, np.float64).reshape(-1, 4)
        if len(labels) != len(array) or not np.isfinite(array).all():
            raise ValueError(f"{len(array)} boxes and {len(labels)} labels; expected as many, and numbers")
        categories = tuple(
            EVERY_CATEGORY if label is None else _name(int(label) - first, names) for label in labels
        )
        return Sample(
            id=str(Path(name).with_suffix("")),
            uri=f"{images.rstrip('/')}/{name}" if images and not name.startswith("/") else name,
            width=int(entry["width"]),
            height=int(entry["height"]),
            split=None,
            boxes=array,
            categories=categories,
            ignore=np.array(ignore, bool).reshape(-1),
            shapes=tuple(shapes) if any(shapes) else (),
        )
    except KeyError as error:
        raise UnreadableError(str(path), f"{place}: no {error}", expected="the middle format") from None
    except (TypeError, ValueError, IndexError) as error:
        raise UnreadableError(str(path), f"{place}: {error}", expected="the middle format") from None


def _objects(entry: Any) -> tuple[list[Any], list[Any], list[bool], list[str | None]]:
    if "instances" in entry or "img_path" in entry:
        found = entry.get("instances", [])
        shapes = [json.dumps(one["mask"]) if one.get("mask") else None for one in found]
        boxes, labels = [one["bbox"] for one in found], [one["bbox_label"] for one in found]
        return boxes, labels, [bool(one.get("ignore_flag")) for one in found], shapes
    said = entry.get("ann", {})
    sure, other = said.get("bboxes", []), said.get("bboxes_ignore", [])
    # Without labels, what is ignored is so for all classes.
    labels = [*said.get("labels", []), *said.get("labels_ignore", [None] * len(other))]
    ignore = [False] * len(sure) + [True] * len(other)
    return [*sure, *other], labels, ignore, [None] * len(ignore)


def _name(number: int, names: tuple[str, ...]) -> str:
    if not 0 <= number < len(names):
        raise ValueError(f"label number {number} of {len(names)} classes; name them all")
    return names[number]
