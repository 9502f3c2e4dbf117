"""Training samples from shards: labels from the indexes of a set, pixels by their place in a shard.

Indexes are read with msgspec, which is imported there: trainers import without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.errors import ConfigError, TrainingError, UnreadableError
from storage.object_store import ObjectStore
from training.samples import Sample
from transforms.shards.files import INDEX, ShardPart

if TYPE_CHECKING:
    from transforms.shards.index import LabelledShard
    from transforms.shards.sample import ShardLabels


def is_shard_set(location: str | Path) -> bool:
    """Whether ``location`` is a folder or URL with the index of a set of shards."""
    if "://" not in str(location) and not Path(location).is_dir():
        return False
    return ObjectStore.at(location).head(INDEX) is not None


def read_shard_samples(
    location: str | Path, *, options: Mapping[str, Any] | None = None, weight: float = 1.0
) -> list[Sample]:
    """The samples of a complete set of shards, in their order; no shard itself is read.

    ``location`` is a folder or URL, ``options`` what its object store needs to be opened here; where pixels
    are read it is opened as the environment says. Boxes are cut at the edge of their image; those without
    area are left out. Raises ``UnreadableError`` for a set that is not complete, ``ConfigError`` for shards
    of another format.
    """
    from transforms.shards.index import labelled_shards_of

    store = ObjectStore.at(location, options)
    samples: list[Sample] = []
    for shard in labelled_shards_of(store):
        if shard.format != "webdataset":
            raise ConfigError(
                f"{store.uri(shard.name)}: a shard in the format {shard.format}; expected webdataset: write "
                "the shards with `dropmill dataset shards write --format webdataset`"
            )
        samples += _samples(store, shard, weight)
    if not samples:
        raise TrainingError(f"{store.url}: shards without any sample; expected at least one")
    return samples


def _samples(store: ObjectStore, shard: LabelledShard, weight: float) -> Iterator[Sample]:
    import msgspec

    from transforms.shards.sample import read_labels

    url = store.uri(shard.name)
    for located, raw in zip(shard.samples, shard.labels, strict=True):
        try:
            labels = read_labels(bytes(raw))
            image = located.members[0]
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as error:
            raise UnreadableError(
                url, f"{located.key}: {error}", expected="an image and its labels"
            ) from None
        part = ShardPart(url, shard.sha256, image.offset, image.size, f"{labels.sample}.{image.suffix}")
        yield _sample(labels, part.address, weight)


def _sample(labels: ShardLabels, uri: str, weight: float) -> Sample:
    import msgspec

    limit = np.array([labels.width, labels.height] * 2, np.float64)
    boxes = np.array([one.bbox for one in labels.objects], np.float64).reshape(-1, 4).clip(0, limit)
    sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = [one for one, good in zip(labels.objects, sound, strict=True) if good]
    shapes = tuple(
        None if one.segmentation is None else msgspec.json.encode(one.segmentation).decode() for one in kept
    )
    return Sample(
        id=labels.sample,
        uri=uri,
        width=labels.width,
        height=labels.height,
        split=labels.split,
        boxes=boxes[sound],
        categories=tuple(one.category for one in kept),
        ignore=np.array([one.ignore for one in kept], bool),
        weight=weight,
        shapes=shapes if any(shapes) else (),
        made_from=_sources(labels),
    )


def _sources(labels: ShardLabels) -> tuple[str, ...]:
    """The images whose pixels an augmented one shows; none for an image as it is."""
    layers = (labels.parameters or {}).get("layers")
    if not isinstance(layers, list):
        return ()
    named = (layer.get("sample") for layer in layers if isinstance(layer, dict))
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))
