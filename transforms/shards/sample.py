"""One sample of a shard: an image's own bytes, what is said of it, and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from transforms.delivery import without_extension

# Image suffixes as webdataset's and DALI's readers know them; all else keeps its own.
_SUFFIXES = {".jpeg": "jpg", ".jpe": "jpg", ".tif": "tiff"}


class ShardObject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object: corners in absolute pixels of the image as it is shown."""

    category: str
    bbox: tuple[float, float, float, float]
    ignore: bool = False
    segmentation: list[Any] | dict[str, Any] | None = None
    """COCO's polygons or run lengths."""


class ShardLabels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of one image."""

    sample: str
    width: int
    height: int
    split: str | None = None
    objects: tuple[ShardObject, ...] = ()
    parameters: dict[str, Any] | None = None
    """The plan of an augmented image."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sample before its bytes are read: where they are, and how many."""

    key: str
    """Name in the shard: the path without extension, without dots."""
    suffix: str
    """Of the image, without a dot."""
    uri: str
    version: str
    size_bytes: int
    labels: ShardLabels


def entry_of(name: str, uri: str, version: str, size_bytes: int, labels: ShardLabels) -> Entry:
    """An entry for an image of this path below its data set."""
    stem = without_extension(name)
    dotted = name[len(stem) :].lower()
    return Entry(
        key=key_of(stem),
        suffix=_SUFFIXES.get(dotted, dotted[1:] or "bin"),
        uri=uri,
        version=version,
        size_bytes=size_bytes,
        labels=labels,
    )


def key_of(sample: str) -> str:
    """A sample's name in a shard. Readers take the first dot for the end of the name, so dots are ``%2E``."""
    return sample.replace("%", "%25").replace(".", "%2E")


def sample_of(key: str) -> str:
    """The sample that a name in a shard stands for."""
    return key.replace("%2E", ".").replace("%25", "%")


def labels_json(labels: ShardLabels) -> bytes:
    """Labels as the JSON member of a sample."""
    return msgspec.json.encode(labels)


def read_labels(data: bytes) -> ShardLabels:
    """The labels of a JSON member. Raises msgspec.ValidationError for what is none."""
    return msgspec.json.decode(data, type=ShardLabels)


def counts_of(labels: ShardLabels) -> Mapping[str, int]:
    """Objects of each category that count."""
    found: dict[str, Any] = {}
    for one in labels.objects:
        if not one.ignore:
            found[one.category] = found.get(one.category, 0) + 1
    return found
