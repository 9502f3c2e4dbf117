"""A whole set of scenes on disk, in one of the layouts of the field, with a list of what is wrong in it."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from PIL import Image

from storage.errors import ConfigError, UnknownKeyError
from transforms.scenes.compose import SceneObject, arrange_scene, render_scene
from transforms.scenes.config import SceneConfig
from transforms.scenes.defects import (
    PER_HUNDRED,
    RULE_OF,
    Defect,
    choose_defects,
    label_cut_short,
    spoiled,
)
from transforms.scenes.files import ImageFormat, image_bytes, voc_masks, write_whole
from transforms.scenes.layouts import (
    FORMATS,
    Format,
    Labelled,
    Row,
    coco_text,
    image_path,
    label_path,
    label_text,
    lists_of,
    split_of,
    stem_of_index,
)
from transforms.scenes.outline import segmentation_of

_LOOK_AHEAD = 500
"""So many scenes after the last may lend their labels to images that are not there."""
_SUFFIX: Mapping[str, str] = {"jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class Manifest:
    """What was written. Counts are those that a reader gets who reads all that can be read."""

    folder: Path
    format: Format
    images: int
    """Image files, the unreadable ones included."""
    readable_images: int
    labels: int
    """Objects in readable label files, wrong ones included."""
    per_class: Mapping[str, int]
    """``labels`` by category (names as in the configuration)."""
    splits: Mapping[str, int]
    negatives: int
    """Images whose labels say that there is nothing."""
    defects: Mapping[str, int]
    """Planted things by kind."""
    defects_path: Path | None
    """The list of them, beside the folder."""


@dataclass(frozen=True)
class _Order:
    """How a set is to be written: what every worker needs to know."""

    config: SceneConfig
    folder: Path
    layout: Format
    image_format: ImageFormat
    masks: bool


@dataclass(frozen=True)
class _Made:
    """What became of one scene."""

    labelled: Labelled
    defects: tuple[Defect, ...]
    readable_label: bool
    spoiled_row: int | None


def write_scenes(
    config: SceneConfig,
    folder: str | os.PathLike[str],
    *,
    format: Format = "voc",  # noqa: A002 - the word that every caller knows
    defects: bool = True,
    image_format: ImageFormat = "jpeg",
    masks: bool = False,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Manifest:
    """Write ``config.images`` scenes and their labels into ``folder``, which must be empty or absent.

    With ``defects`` a few files and boxes are wrong, as in real deliveries; ``<folder>-planted-defects.json``
    beside the folder lists them (see :class:`transforms.scenes.defects.Defect`). Files appear whole: they are
    written under a hidden name and renamed. COCO files always have segmentations; ``masks`` adds
    ``SegmentationObject`` to VOC. ``progress`` is called with (done, all) after each image. With several
    ``workers`` (processes) the same bytes are written.
    Boxes are absolute pixel edges, 0-based, in VOC and KITTI too: ``xmax - xmin`` is a number of pixels.
    Raises :class:`ConfigError` for wrong arguments and a folder with something in it.
    """
    _check(format, image_format, masks=masks, workers=workers)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: not empty; expected an empty or absent folder", path=str(target))
    order = _Order(config, target, format, image_format, masks)
    planted = choose_defects(config) if defects else {}
    splits = [split_of(index) for index in range(config.images)]
    for path, text in lists_of(format, splits, config.classes).items():
        write_whole(target / path, text.encode())
    if masks and format == "voc":
        for path, text in lists_of("voc", splits, config.classes).items():
            write_whole(target / path.replace("Main", "Segmentation"), text.encode())

    made: list[_Made] = []
    for item in _run(order, [(index, planted.get(index)) for index in range(config.images)], workers):
        made.append(item)
        if progress is not None:
            progress(len(made), config.images)
    strays = _strays(order) if defects else []
    found = _coco(order, made, strays, broken=defects) if format == "coco" else _others(order, made, strays)
    listing = _write_listing(order, found) if defects else None
    return _manifest(order, made, strays, found, listing)


def _check(layout: str, image_format: str, *, masks: bool, workers: int) -> None:
    if layout not in FORMATS:
        raise UnknownKeyError("write_scenes(format)", str(layout), FORMATS)
    if image_format not in get_args(ImageFormat):
        raise UnknownKeyError("write_scenes(image_format)", str(image_format), get_args(ImageFormat))
    if masks and layout not in {"voc", "coco"}:
        raise ConfigError(f"masks=True with format {layout!r}; expected 'voc' or 'coco', which have masks")
    if workers < 1:
        raise ConfigError(f"write_scenes(workers): found {workers}; expected 1 or more")


def _run(order: _Order, jobs: list[tuple[int, str | None]], workers: int) -> Iterator[_Made]:
    """All jobs in order, with a bounded number of them in flight."""
    if workers == 1:
        for index, kind in jobs:
            yield _make(order, index, kind)
        return
    # Not fork: the caller may run threads (Arrow, polars, Ray) that do not survive it.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[_Made]] = deque()
        for index, kind in jobs:
            waiting.append(pool.submit(_make, order, index, kind))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _make(order: _Order, index: int, kind: str | None) -> _Made:
    """Draw scene ``index`` and write its image and, where it has its own, its label file."""
    config, layout = order.config, order.layout
    stem, split, suffix = stem_of_index(index), split_of(index), _SUFFIX[order.image_format]
    image, label = image_path(layout, stem, split, suffix), label_path(layout, stem, split)
    rng = config.stream(index, "defect")
    scene = render_scene(config, index)
    rows = _rows(scene.objects, config, with_masks=layout == "coco")
    defects: list[Defect] = []
    number: int | None = None
    if kind in {"inverted_box", "negative_coordinate", "beyond_image", "zero_area"}:
        truth = rows
        rows, number, corrected = spoiled(kind, rows, config, rng)
        correct = truth[number].box if number < len(truth) else None
        defects.append(
            Defect(kind, RULE_OF[kind], label, image, number, rows[number].box, correct, corrected)
        )
    elif kind is not None and not (kind == "truncated_label" and layout == "coco"):
        at_fault = label if kind == "truncated_label" else image
        defects.append(Defect(kind, RULE_OF[kind], at_fault, image))
        if kind in {"truncated_image", "corrupt_image"}:
            defects.append(Defect("label_of_unreadable_image", "unknown_image", label, image))
        if kind == "truncated_label":
            defects.append(Defect("image_of_unreadable_label", "image_without_label", image, image))
    if not rows:
        defects.append(Defect("negative", None, label, image))

    write_whole(
        order.folder / image, image_bytes(Image.fromarray(scene.image), order.image_format, kind, rng)
    )
    labelled = Labelled(stem, Path(image).name, config.width, config.height, split, rows)
    readable = kind != "truncated_label" or layout == "coco"
    if layout != "coco":
        text = label_text(layout, labelled, config.classes)
        write_whole(order.folder / label, (text if readable else label_cut_short(text)).encode())
    if layout == "voc" and order.masks:
        write_whole(order.folder / f"SegmentationObject/{stem}.png", voc_masks(scene.objects, config))
    return _Made(labelled, tuple(defects), readable, number)


def _rows(objects: Iterable[SceneObject], config: SceneConfig, *, with_masks: bool) -> tuple[Row, ...]:
    rows = []
    for item in objects:
        xmin, ymin, xmax, ymax = (float(value) for value in item.box)
        segmentation = None
        if with_masks:
            segmentation = segmentation_of(item.mask, item.box[0], item.box[1], config.width, config.height)
        rows.append(
            Row(
                category=item.category,
                box=(xmin, ymin, xmax, ymax),
                truncated=item.truncated,
                occlusion=item.occlusion,
                area=int(item.mask.sum()),
                segmentation=segmentation,
            )
        )
    return tuple(rows)


def _strays(order: _Order) -> list[Labelled]:
    """Labels of images that were never delivered: those of the scenes that would come next."""
    config = order.config
    count = max(1, int(PER_HUNDRED["unknown_image"] * config.images / 100))
    strays: list[Labelled] = []
    for index in range(config.images, config.images + _LOOK_AHEAD):
        rows = _rows(arrange_scene(config, index).objects, config, with_masks=order.layout == "coco")
        if rows:
            stem = stem_of_index(index)
            name = f"{stem}{_SUFFIX[order.image_format]}"
            strays.append(Labelled(stem, name, config.width, config.height, "train", rows))
        if len(strays) == count:
            break
    return strays


def _others(order: _Order, made: list[_Made], strays: list[Labelled]) -> list[Defect]:
    found = [defect for item in made for defect in item.defects]
    for stray in strays:
        path = label_path(order.layout, stray.stem, stray.split)
        write_whole(order.folder / path, label_text(order.layout, stray, order.config.classes).encode())
        image = image_path(order.layout, stray.stem, stray.split, _SUFFIX[order.image_format])
        found.append(Defect("unknown_image", "unknown_image", path, image))
    return found


def _coco(order: _Order, made: list[_Made], strays: list[Labelled], *, broken: bool) -> list[Defect]:
    """Write the instances files; in them an object's place is known only now."""
    found: list[Defect] = []
    for split in ("train", "val", "test"):
        members = [item for item in made if item.labelled.split == split]
        images = [item.labelled for item in members] + [stray for stray in strays if stray.split == split]
        if not images:
            continue
        text = coco_text(images, order.config.classes, order.config.seed)
        path = label_path("coco", "", split)
        write_whole(order.folder / path, text.encode())
        before = 0
        for item in members:
            found += [
                replace(defect, object=None if defect.object is None else defect.object + before)
                for defect in item.defects
            ]
            before += len(item.labelled.rows)
        for stray in images[len(members) :]:
            found.append(Defect("unknown_image", "unknown_image", path, f"images/{stray.file_name}"))
        if broken and split == "train":
            path = "annotations/instances_interrupted.json"
            write_whole(order.folder / path, label_cut_short(text).encode())
            found.append(Defect("truncated_label", "unreadable_file", path))
    return found


def _write_listing(order: _Order, found: list[Defect]) -> Path:
    path = order.folder.with_name(f"{order.folder.name}-planted-defects.json")
    write_whole(path, (json.dumps([asdict(defect) for defect in found], indent=1) + "\n").encode())
    return path


def _manifest(
    order: _Order, made: list[_Made], strays: list[Labelled], found: list[Defect], listing: Path | None
) -> Manifest:
    readable = [item.labelled for item in made if item.readable_label] + strays
    per_class = Counter(row.category for image in readable for row in image.rows)
    kinds = Counter(defect.kind for defect in found)
    return Manifest(
        folder=order.folder,
        format=order.layout,
        images=len(made),
        readable_images=len(made) - kinds["truncated_image"] - kinds["corrupt_image"],
        labels=per_class.total(),
        per_class={name: per_class[name] for name in order.config.classes},
        splits=dict(Counter(item.labelled.split for item in made)),
        negatives=kinds["negative"] if listing else sum(not item.labelled.rows for item in made),
        defects=dict(sorted(kinds.items())) if listing else {},
        defects_path=listing,
    )
