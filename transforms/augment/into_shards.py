"""Outputs of augmentation as samples of shards, straight from their plans or from the folder they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from storage.object_store import ObjectStore
from transforms.augment.generate import CarryOut, Work
from transforms.augment.plan import Plan, as_json, row_of
from transforms.augment.sample import Placed
from transforms.augment.single import Output, Settings
from transforms.augment.spec import AugmentSpec
from transforms.delivery import without_extension
from transforms.shards.sample import Entry, ShardLabels, ShardObject, entry_of
from transforms.shards.write import WriteReport, write_shards

_MEGABYTE = 1_000_000


def folder_into_shards(spec: AugmentSpec, work: Work, folder: Path, done: Iterable[str]) -> WriteReport:
    """Shards of the outputs ``done`` (by name), whose images are in ``folder``, into ``shards`` beside it."""
    there = set(done)
    entries = []
    for plan, placed in zip(work.plans, work.placed, strict=True):
        if plan.name in there:
            path = folder / plan.name
            stat = path.stat()
            version = f"{stat.st_size:x}-{stat.st_mtime_ns:x}"
            entries.append(
                entry_of(plan.name, str(path), version, stat.st_size, shard_labels(work, plan, placed))
            )
    return _write(spec, entries, ObjectStore.at(folder.parent / "shards"), None, {}, None)


def plans_into_shards(
    spec: AugmentSpec,
    work: Work,
    store: ObjectStore,
    carry_out_all: CarryOut,
    settings: Settings,
    *,
    sizes: Mapping[str, int],
    made_from: dict[str, Any],
    progress: Callable[[int], None] = lambda _count: None,
) -> WriteReport:
    """Carry plans out shard by shard, with no folder between. ``sizes`` are bytes of the images by sample.

    The bytes of an output are not known before it is made; those of its image stand for them, so that shards
    have the size that is asked for roughly, and the same outputs always share one.
    """
    plans = {plan.name: plan for plan in work.plans}
    entries = []
    for plan, placed in zip(work.plans, work.placed, strict=True):
        version = hashlib.sha256(f"{settings.executor} {settings.jpeg_quality}".encode() + as_json(plan))
        for layer in plan.layers:
            version.update(work.images[layer.sample].version.encode())
        labels = shard_labels(work, plan, placed)
        entries.append(entry_of(plan.name, plan.name, version.hexdigest(), sizes[plan.sample], labels))

    def read(part: Sequence[Entry]) -> Iterator[bytes | str]:
        waiting = {entry.uri for entry in part}
        early: dict[str, bytes | str] = {}
        outputs = iter(carry_out_all([plans[entry.uri] for entry in part], work.images, settings))
        for entry in part:
            # Actors give outputs in any order.
            while entry.uri not in early:
                output = next(outputs, None)
                if output is None:
                    early[entry.uri] = "no output came back"
                elif output.plan.name in waiting:
                    early[output.plan.name] = _content(output)
            yield early.pop(entry.uri)

    return _write(spec, entries, store, read, made_from, progress)


def shard_labels(work: Work, plan: Plan, placed: Placed) -> ShardLabels:
    """What a shard says of an output: its objects, and the plan that it was made by."""
    objects = tuple(
        ShardObject(
            category=category,
            bbox=(round(box[0], 4), round(box[1], 4), round(box[2], 4), round(box[3], 4)),
            ignore=ignore,
            segmentation=None if outline is None else msgspec.json.decode(outline),
        )
        for category, box, ignore, outline in zip(
            placed.categories,
            placed.boxes.tolist(),
            placed.ignore.tolist(),
            placed.segmentations,
            strict=True,
        )
    )
    return ShardLabels(
        sample=without_extension(plan.name),
        width=plan.width,
        height=plan.height,
        split=work.images[plan.sample].split,
        objects=objects,
        parameters=row_of(plan),
    )


def _content(output: Output) -> bytes | str:
    return output.data if output.data is not None else output.error or "unknown"


def _write(
    spec: AugmentSpec,
    entries: list[Entry],
    store: ObjectStore,
    read: Callable[[Sequence[Entry]], Iterable[bytes | str]] | None,
    made_from: dict[str, Any],
    progress: Callable[[int], None] | None,
) -> WriteReport:
    form = "webdataset" if spec.shards.format == "none" else spec.shards.format
    return write_shards(
        entries,
        store,
        form=form,
        masks=spec.shards.masks and form == "webdataset",
        size_bytes=int(spec.shards.size_mb * _MEGABYTE),
        read=read,
        made_from=made_from,
        progress=progress or (lambda _count: None),
    )
