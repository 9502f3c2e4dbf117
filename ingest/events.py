"""Events: what is to be worked on, in which data set, in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from transforms.delivery import stem_of_file

# First-level folders that name a role or a split rather than a data set: with these the bucket is one data
# set.
_INNER_FOLDER = re.compile(
    r"((images?|imgs?|pictures|labels?|annotations?|anns?|data)([-_. ].*|\d*)"
    r"|jpegimages|pngimages|imagesets|segmentation(class|object)|xmls?|txts?|masks?|calib"
    r"|(image|label)_\d+|train(ing|val)?\d*|val(id|idation)?\d*|test(ing)?\d*)",
    re.IGNORECASE,
)


@lru_cache(maxsize=1_000)
def _is_inner(folder: str) -> bool:
    return _INNER_FOLDER.fullmatch(folder) is not None


class Event(NamedTuple):
    """An object that was put or removed, at the version that is to be worked on.

    Two actions come from people: ``drop`` takes an object that cannot be read out of the quarantine, and
    ``replay`` derives a group again, whose stem is then the key.
    """

    action: Literal["put", "remove", "drop", "replay"]
    key: str
    version: str
    size_bytes: int
    dataset: str


@dataclass(frozen=True, kw_only=True)
class DatasetRule:
    """Which data set a key belongs to.

    With ``name`` the whole bucket is that data set. With ``prefixes`` (data set to prefix) the longest that
    fits decides. Else it is the first-level folder, unless that folder only names a role (``images``,
    ``Annotations``, ``image_2``) or a split (``train``), or the object lies at the top: then the data set
    is called like the bucket.
    """

    bucket: str
    name: str | None = None
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> tuple[str, str]:
        """The data set of a key, and the part of the key that leads to it."""
        if self.name is not None:
            return self.name, ""
        if self.prefixes:
            fitting = [
                (len(prefix), name, prefix)
                for name, prefix in self.prefixes.items()
                if key.startswith(prefix)
            ]
            if fitting:
                _, name, prefix = max(fitting)
                return name, prefix
        first, slash, _ = key.partition("/")
        if not slash or _is_inner(first):
            return self.bucket, ""
        return first, first + "/"

    def prefix_of(self, event: Event) -> str:
        """The part of keys that leads to the data set of an event."""
        if event.action != "replay":
            return self.of(event.key)[1]
        if self.name is not None or event.dataset == self.bucket:
            return ""
        return self.prefixes.get(event.dataset, event.dataset + "/")


def work_order(event: Event) -> tuple[str, int, str, str]:
    """Class and split files first, then images beside their labels, then files that speak of many images.

    The order changes no result, only how often a sample is derived again.
    """
    folders, _, last = event.key.rpartition("/")
    name = last.lower()
    dot = name.rfind(".")
    suffix = name[dot:] if 0 < dot < len(name) - 1 else ""
    first = (
        suffix in {".yaml", ".yml", ".names", ".data"}
        or name in {"classes.txt", "train.txt", "val.txt", "test.txt", "trainval.txt", "valid.txt"}
        or ("ImageSets" in folders and "ImageSets" in folders.split("/"))
    )
    rank = 0 if first else 2 if suffix in {".json", ".jsonl"} else 1
    return event.dataset, rank, stem_of_file(event.key), event.key
