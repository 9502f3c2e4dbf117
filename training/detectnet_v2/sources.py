"""The samples that ``dataset_config`` names: TFRecords of ``data_sources`` and their images, or shards."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.frames import Frame, read_frames
from training.detectnet_v2.spec import DatasetConfig, DataSource, SamplingMode
from training.samples import Sample
from training.shard_samples import is_shard_set, read_shard_samples

_FOLD = re.compile(r"-fold-(\d{3})-of-\d{3}")
_EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "JPG", "JPEG", "PNG", "tif", "tiff")


@dataclass(frozen=True)
class Sources:
    """Samples for training and for validation."""

    train: list[Sample]
    val: list[Sample]


def read_sources(config: DatasetConfig, path: str) -> Sources:
    """Read the TFRecords of a spec; ``path`` (the spec's) is only used in errors.

    With ``sampling_mode`` UNIFORM every source gives as many training samples as the largest, its own again
    and again; else every sample comes once. Files of the partition ``validation_fold`` are for validation,
    or those of ``validation_data_source``. A source whose ``tfrecords_path`` is a folder or URL of webdataset
    shards has its images there: those of the split val are for validation where the spec names none, those of
    the split test are left out. Raises ``ConfigError`` where patterns match no file,
    ``TrainingError`` where images are missing or there is nothing to train on.
    """
    if not config.data_sources:
        raise ConfigError(
            f"{path}: dataset_config.data_sources is absent; expected a block with tfrecords_path and "
            "image_directory_path (or train with --shards, or with --lake and --dataset)",
            key="data_sources",
        )
    if config.validation_fold is not None and config.validation_data_source is not None:
        raise ConfigError(f"{path}: dataset_config has validation_fold and validation_data_source; keep one")
    parts: list[list[Sample]] = []
    val: list[Sample] = []
    several = len(config.data_sources) > 1
    for number, source in enumerate(config.data_sources):
        prefix = f"{number}:" if several else ""
        part: list[Sample] = []
        if is_shard_set(source.tfrecords_path):
            said = config.validation_data_source is not None or config.validation_fold is not None
            for sample in _shards(source, prefix):
                if sample.split not in {"val", "test"}:
                    part.append(sample)
                elif sample.split == "val" and not said:
                    val.append(sample)
            parts.append(part)
            continue
        for file in _files(source, path):
            held = config.validation_fold is not None and _fold(file) == config.validation_fold
            (val if held else part).extend(_samples(file, source, config.image_extension, prefix))
        parts.append(part)
    if (apart := config.validation_data_source) is not None:
        if is_shard_set(apart.tfrecords_path):
            val += _shards(apart, "val:")
        else:
            for file in _files(apart, path):
                val += _samples(file, apart, config.image_extension, "val:")
    train = _mixed(parts, config.sampling_mode)
    if not train:
        raise TrainingError(
            f"{path}: no training image in {', '.join(s.tfrecords_path for s in config.data_sources)}"
            + ("" if config.validation_fold is None else f" outside of fold {config.validation_fold}")
        )
    if config.validation_fold is not None and not val:
        raise TrainingError(
            f"{path}: dataset_config.validation_fold is {config.validation_fold}, and no TFRecord file is "
            f"named …-fold-{config.validation_fold:03d}-of-…"
        )
    return Sources(_distinct(train), _distinct(val))


def _mixed(parts: list[list[Sample]], mode: SamplingMode) -> list[Sample]:
    if mode is not SamplingMode.UNIFORM:
        return [sample for part in parts for sample in part]
    most = max(map(len, parts))
    return [part[number % len(part)] for part in parts if part for number in range(most)]


def _files(source: DataSource, path: str) -> list[Path]:
    # A path that names a file is no pattern, whatever characters it holds.
    pattern = source.tfrecords_path
    found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))  # noqa: PTH207
    files = [Path(name) for name in found if Path(name).is_file() and not name.endswith("_warning.json")]
    if not files:
        raise ConfigError(
            f"{path}: tfrecords_path {pattern!r} matches no file; expected files of "
            "dataset_convert, or a folder of shards",
            key="tfrecords_path",
            found=pattern,
        )
    return files


def _fold(file: Path) -> int | None:
    found = _FOLD.search(file.name)
    return int(found.group(1)) if found else None


def _samples(file: Path, source: DataSource, extension: str, prefix: str) -> Iterable[Sample]:
    for frame in read_frames(file):
        sample = frame.sample(_image(frame, source, extension, file), weight=source.source_weight or 1.0)
        yield sample if not prefix else _renamed(sample, prefix + sample.id)


def _shards(source: DataSource, prefix: str) -> list[Sample]:
    samples = read_shard_samples(source.tfrecords_path, weight=source.source_weight or 1.0)
    return [_renamed(sample, prefix + sample.id) if prefix else sample for sample in samples]


def _image(frame: Frame, source: DataSource, extension: str, file: Path) -> str:
    if frame.uri:
        return frame.uri
    folder = Path(source.image_directory_path)
    if Path(frame.id).is_absolute() or ".." in Path(frame.id).parts:
        raise TrainingError(f"{file}: frame {frame.id!r} lies outside of its image folder")
    for ending in [extension.lstrip(".")] if extension else _EXTENSIONS:
        path = folder / f"{frame.id}.{ending}"
        if path.is_file():
            return str(path)
    raise TrainingError(
        f"{file}: no image {folder / frame.id}.{extension.lstrip('.') or '(' + '|'.join(_EXTENSIONS) + ')'}; "
        "look at image_directory_path and image_extension"
    )


def _distinct(samples: list[Sample]) -> list[Sample]:
    """A frame that comes again (duplicates are meant to be seen more often) gets a name of its own."""
    seen: dict[str, int] = {}
    found = []
    for sample in samples:
        count = seen[sample.id] = seen.get(sample.id, 0) + 1
        found.append(sample if count == 1 else _renamed(sample, f"{sample.id}#{count}"))
    return found


def _renamed(sample: Sample, name: str) -> Sample:
    return Sample(**{**vars(sample), "id": name})
