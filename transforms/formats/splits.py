"""Lists that say which images are for training, validation and test."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transforms.delivery import DELIVERED_MENTIONS, Delivery, stem_of, table
from transforms.formats.refs import is_image_name, ref_of, tidy
from transforms.formats.text import Line

_SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "trainval": "trainval",
}
_WORDS = re.compile(r"[A-Za-z]+")
_OTHER_TASKS = {"action", "layout", "segmentation"}


def read_image_list(lines: Sequence[Line], path: str) -> Delivery:
    """Read a list of image paths, such as YOLO's ``train.txt``: mentions of kind split.

    A list whose name says no split is of kind other: it only repeats that the images are there.
    """
    split = split_of(path.rsplit("/", 1)[-1])
    if split is None:
        return Delivery(kind="other", format="image-list")
    return _delivery([ref_of(line) for _, line in lines], split)


def read_image_set(lines: Sequence[Line], path: str) -> Delivery:
    """Read a list below VOC's ``ImageSets``: names without folder and extension.

    Lists per class (a name and -1, 0 or 1) and those of other tasks (Action, Layout, Segmentation) are of
    kind other. A ``ref`` keeps the folder above ``ImageSets``, so that years of VOC side by side stay apart.
    """
    folders, name = path.split("/")[:-1], path.rsplit("/", 1)[-1]
    place = folders.index("ImageSets")
    stem = name.removesuffix(".txt").lower()
    names = [line for _, line in lines if not line.startswith("#")]
    if {folder.lower() for folder in folders[place:]} & _OTHER_TASKS or stem not in _SPLITS:
        return Delivery(kind="other", format="image-set")
    if any(len(line.split()) > 1 and line.split()[-1] in {"-1", "0", "1"} for line in names):
        return Delivery(kind="other", format="image-set")
    above = folders[:place]
    refs = ["/".join([*above, ref_of(name) if is_image_name(name) else tidy(name)]) for name in names]
    return _delivery(refs, _SPLITS[stem])


def is_image_list(lines: Sequence[Line]) -> bool:
    """Whether every line is the path of an image."""
    return all(is_image_name(line) for _, line in lines)


def is_image_set(path: str) -> bool:
    """Whether the file stands below VOC's folder of lists."""
    return "ImageSets" in path.split("/")[:-1]


def split_of(name: str) -> str | None:
    """The split that a file name speaks of: ``2007_train.txt`` gives train, ``train2017.txt`` as well."""
    words = [word.lower() for word in _WORDS.findall(name.rsplit(".", 1)[0])]
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def _delivery(refs: Sequence[str], split: str) -> Delivery:
    columns = {
        "kind": ["split"] * len(refs),
        "format": ["split"] * len(refs),
        "ref": refs,
        "stem": [stem_of(ref) for ref in refs],
        "split": [split] * len(refs),
    }
    return Delivery(kind="split", format="split", mentions=table(columns, DELIVERED_MENTIONS))
