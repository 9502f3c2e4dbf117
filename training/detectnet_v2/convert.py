"""``dataset_convert``: labels of KITTI or COCO, or of a lake, to TFRecords in partitions and shards.

1. Read every image's objects. 2. Deal the frames to partitions: by chance from a seed, by sequence, or as the
source has them. 3. ``sample_modifier_config`` leaves out and repeats training frames. 4. Write shards named
``<out>-fold-000-of-002-shard-00000-of-00010``, and count classes.

Partition 0 is what ``validation_fold: 0`` means, the others are for training.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.frames import Frame, write_frames
from training.detectnet_v2.label_files import coco_frames, kitti_frames
from training.detectnet_v2.spec_jobs import DatasetConvertSpec, KittiConfig, SampleModifierConfig

logger = logging.getLogger(__name__)

_SEED = 42


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What was written. ``classes`` counts objects by partition; ``dropped`` are boxes without area."""

    files: tuple[Path, ...]
    frames: tuple[int, ...]
    classes: tuple[Counter[str], ...]
    dropped: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: frames and objects of each partition and of all."""
        lines = []
        for number, (frames, counts) in enumerate(zip(self.frames, self.classes, strict=True)):
            lines.append(f"partition {number}: {frames} images, {counts.total()} objects")
            lines += [f"  {name}: {count}" for name, count in counts.most_common()]
        total = sum(self.classes, Counter())
        lines.append(f"together: {sum(self.frames)} images, {total.total()} objects")
        lines += [f"  {name}: {count}" for name, count in total.most_common()]
        if self.mapping:
            lines.append("class map (labels: in the records):")
            lines += [f"  {source}: {target}" for source, target in sorted(self.mapping.items())]
        if self.dropped:
            lines.append(
                f"{len(self.dropped)} boxes without area were left out, the first: {self.dropped[0]}"
            )
        return lines


def convert(
    spec: DatasetConvertSpec, out: Path, *, validation_fold: int | None = None, seed: int = _SEED
) -> ConvertReport:
    """Convert as ``spec`` says and write below the prefix ``out``.

    ``validation_fold`` limits ``sample_modifier_config`` to the other partitions (default 0). Raises
    ``ConfigError`` for paths and settings that do not fit, ``UnreadableError`` with file and line for labels
    that cannot be read, and ``TrainingError`` where there is nothing to write.
    """
    if spec.kitti_config is not None:
        frames, dropped = kitti_frames(spec.kitti_config)
        parts = _partitions(frames, spec.kitti_config, seed)
        shards = [spec.kitti_config.num_shards] * len(parts)
    else:
        assert spec.coco_config is not None
        parts, dropped = coco_frames(spec.coco_config)
        shards = _per_partition(spec.coco_config.num_shards, len(parts))
    if spec.sample_modifier_config is not None:
        fold = validation_fold or 0
        parts = [
            part if number == fold and len(parts) > 1 else modify(part, spec.sample_modifier_config)
            for number, part in enumerate(parts)
        ]
    return write_partitions(parts, shards, out, dropped=dropped, mapping=dict(spec.target_class_mapping))


def write_partitions(
    parts: Sequence[Sequence[Frame]],
    shards: Sequence[int],
    out: Path,
    *,
    dropped: Sequence[str] = (),
    mapping: dict[str, str] | None = None,
) -> ConvertReport:
    """Write each partition in as many shards as asked (0 means 1; never an empty one)."""
    if not any(parts):
        raise TrainingError(f"{out}: no image with labels to convert")
    files = []
    for number, (part, wanted) in enumerate(zip(parts, shards, strict=True)):
        count = min(max(wanted, 1), len(part))
        for shard in range(count):
            name = f"{out.name}-fold-{number:03d}-of-{len(parts):03d}-shard-{shard:05d}-of-{count:05d}"
            write_frames(
                out.with_name(name), part[shard * len(part) // count : (shard + 1) * len(part) // count]
            )
            files.append(out.with_name(name))
    if dropped:
        listing = out.with_name(f"{out.name}_warning.json")
        listing.write_text(json.dumps(list(dropped), indent=1) + "\n", encoding="utf-8")
    report = ConvertReport(
        files=tuple(files),
        frames=tuple(map(len, parts)),
        classes=tuple(Counter(name for frame in part for name in frame.categories) for part in parts),
        dropped=tuple(dropped),
        mapping=mapping or {},
    )
    logger.info("converted frames=%s files=%d dropped=%d", report.frames, len(files), len(dropped))
    return report


def modify(frames: Sequence[Frame], config: SampleModifierConfig) -> list[Frame]:
    """Leave out frames that hold nothing but filtered classes, repeat those with rare ones, and cut off.

    A frame is repeated ``num_duplicates`` times where it holds more objects of a class of
    ``minimum_target_class_imbalance`` than that number times its objects of the dominant classes.
    """
    names = {source.casefold(): target for source, target in config.source_to_target_class_mapping.items()}
    filtered = {name.casefold() for name in config.filter_samples_containing_only}
    dominant = {name.casefold() for name in config.dominant_target_classes}
    found = []
    for frame in frames:
        counts = Counter(names.get(name.casefold(), name).casefold() for name in frame.categories)
        if counts and filtered and counts.keys() <= filtered:
            continue
        found.append(frame)
        common = sum(counts[name] for name in dominant)
        rare = any(
            counts[name.casefold()] > least * common
            for name, least in config.minimum_target_class_imbalance.items()
        )
        if rare:
            found += [frame] * config.num_duplicates
    return found[: config.max_training_samples or None]


def by_chance(frames: Sequence[Frame], share: float, seed: int) -> list[list[Frame]]:
    """Two partitions: ``share`` (0 to below 1) of the frames, drawn from ``seed``, and the rest."""
    ranked = sorted(frames, key=lambda frame: _draw(frame.id, seed))
    count = round(len(ranked) * share)
    return [ranked[:count], ranked[count:]]


def _partitions(frames: list[Frame], config: KittiConfig, seed: int) -> list[list[Frame]]:
    if config.partition_mode == "random":
        if config.num_partitions != 2:
            raise ConfigError(
                f"kitti_config.num_partitions is {config.num_partitions}; "
                "expected 2 with partition_mode random"
            )
        return by_chance(frames, config.val_split / 100, seed)
    sequences = _sequences(config)
    by_name = {frame.id.rsplit("/", 1)[-1]: frame for frame in frames}
    parts: list[list[Frame]] = [[] for _ in range(config.num_partitions)]
    for _, names in sorted(sequences.items(), key=lambda item: (-len(item[1]), item[0])):
        if missing := [name for name in names if name not in by_name]:
            raise ConfigError(
                f"{config.kitti_sequence_to_frames_file}: frame {missing[0]!r} has no label file"
                f" (as {len(missing)} of its sequence)"
            )
        min(parts, key=len).extend(by_name.pop(name) for name in names)
    if by_name:
        raise ConfigError(
            f"{config.kitti_sequence_to_frames_file}: {len(by_name)} images are in no sequence, "
            f"the first {min(by_name)!r}"
        )
    # The shortest is for validation.
    return sorted(parts, key=len)


def _sequences(config: KittiConfig) -> dict[str, list[str]]:
    name = config.kitti_sequence_to_frames_file
    path = Path(config.root_directory_path, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if name else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; expected JSON of sequences with their frames") from None
    if not isinstance(content, dict) or not all(
        isinstance(frames, list) and all(isinstance(frame, str) for frame in frames)
        for frames in content.values()
    ):
        raise ConfigError(
            f"kitti_config.kitti_sequence_to_frames_file is {name!r}; expected a JSON file of sequences, "
            "each with the list of its frames, for partition_mode sequence"
        )
    return content


def _per_partition(shards: Sequence[int], parts: int) -> list[int]:
    if len(shards) > 1 and len(shards) != parts:
        raise ConfigError(f"coco_config.num_shards has {len(shards)} numbers; expected {parts}, or one")
    return list(shards) * (parts if len(shards) == 1 else 1) or [1] * parts


def _draw(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
