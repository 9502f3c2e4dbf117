"""A folder of images and labels to shards, as it is."""

from __future__ import annotations

from pathlib import Path

import msgspec

from storage.object_store import ObjectStore
from transforms.augment.dataset import read_set
from transforms.augment.sample import LabelledImage
from transforms.shards.sample import ShardLabels, ShardObject, entry_of
from transforms.shards.write import WriteReport, write_shards


def shard_folder(
    form: str, image_dir: Path, ann_path: Path, target: str, *, layout: str, size_mb: float, masks: bool
) -> tuple[WriteReport, tuple[str, ...]]:
    """Write shards of a KITTI folder or a COCO file; the report, and labels that have no readable image."""
    read = read_set(form, image_dir, ann_path)
    entries = [
        entry_of(image.name, image.uri, image.version, Path(image.uri).stat().st_size, labels_of_image(image))
        for image in read.images
    ]
    report = write_shards(
        entries,
        ObjectStore.at(target),
        form=layout,
        masks=masks,
        size_bytes=int(size_mb * 1_000_000),
        made_from={"image_dir": str(image_dir), "ann_path": str(ann_path)},
    )
    return report, read.without_image


def labels_of_image(image: LabelledImage) -> ShardLabels:
    """What a shard says of an image as it is."""
    objects = image.objects
    return ShardLabels(
        sample=image.sample,
        width=image.width,
        height=image.height,
        split=image.split,
        objects=tuple(
            ShardObject(
                category=category,
                bbox=(box[0], box[1], box[2], box[3]),
                ignore=ignore,
                segmentation=None if outline is None else msgspec.json.decode(outline),
            )
            for category, box, ignore, outline in zip(
                objects.categories,
                objects.boxes.tolist(),
                objects.ignore.tolist(),
                objects.segmentations,
                strict=True,
            )
        ),
    )
