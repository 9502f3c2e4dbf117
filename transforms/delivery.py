"""What one file of the bucket says, as tables: the common result of every label reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from storage import schemas

_OURS = ("dataset", "source", "batch")
DELIVERED_LABELS = schemas.without(schemas.LABELS, *_OURS)
DELIVERED_MENTIONS = schemas.without(schemas.MENTIONS, *_OURS)
DELIVERED_CATEGORIES = schemas.without(schemas.CATEGORIES, *_OURS)

# Folder names that only say which role a file has. "train" or "cam1" are not among them: they tell samples
# apart.
_ROLE_FOLDER = re.compile(
    r"(images?|imgs?|jpegimages|pngimages|pictures|data|labels?|annotations?|anns?|xmls?|txts?)"
    r"(_?\d+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a label, class or split file says. ``labels``, ``mentions`` and ``categories`` lack the columns
    ``dataset``, ``source`` and ``batch``, which only the caller knows.
    """

    kind: str  # label, classes, split, other
    format: str  # kitti, coco, voc, yolo, empty, split, other
    labels: pa.Table = field(default_factory=DELIVERED_LABELS.empty_table)
    mentions: pa.Table = field(default_factory=DELIVERED_MENTIONS.empty_table)
    categories: pa.Table = field(default_factory=DELIVERED_CATEGORIES.empty_table)


def table(rows: Iterable[Mapping[str, Any]] | Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Rows (or columns) to a table of ``schema``; columns that are not given are null."""
    if isinstance(rows, Mapping):
        length = max((len(values) for values in rows.values()), default=0)
        return pa.table([rows.get(f.name, pa.nulls(length, f.type)) for f in schema], schema=schema)
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def without_extension(path: str) -> str:
    """``a/b.c.jpg`` gives ``a/b.c``: only the last suffix goes, the folders stay."""
    # A path object costs more than a small file, and every object comes here several times.
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    if 0 < dot < len(name) - 1 and "//" not in path and "/." not in path and path[0] != ".":
        return path[: dot - len(name)]
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix else str(pure)


def stem_of(ref: str) -> str:
    """The last component of a path that has lost its extension already."""
    return ref.rsplit("/", 1)[-1]


def stem_of_file(path: str) -> str:
    """The last component of a path without its extension: the stem of :func:`without_extension`."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else stem_of(without_extension(path))


def route_of(ref: str) -> str:
    """A path without the folders that only name a role: what an image and its label have in common.

    ``training/image_2/000010`` and ``training/label_2/000010`` both give ``training/000010``.
    """
    if "/" not in ref:
        return ref
    folders, _, last = ref.rpartition("/")
    return "/".join([*_telling(folders), last])


@lru_cache(maxsize=10_000)
def _telling(folders: str) -> tuple[str, ...]:
    """The parts of a path of folders that tell samples apart: thousands of samples share one."""
    return tuple(part for part in folders.split("/") if not _ROLE_FOLDER.fullmatch(part))
