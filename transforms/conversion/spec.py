"""The specs of convert, merge and slice: the keys of TAO's data services, 5.0 and later, and our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import ConfigError, UnknownKeyError
from transforms.spec_file import read_mapping

_Spec = TypeVar("_Spec", bound="_Strict")

# Accepted for the sake of specs that have them; they steer nothing here.
WITHOUT_MEANING = ("encryption_key", "wandb", "gpu_ids", "num_gpus", "num_nodes", "model_name")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _Root(_Strict):
    results_dir: str = ""
    """Folder of the results."""
    verbose: bool = False
    """Print the classes and their numbers."""
    encryption_key: Any = None
    wandb: Any = None
    gpu_ids: Any = None
    num_gpus: Any = None
    num_nodes: Any = None
    model_name: Any = None


class ConvertData(_Strict):
    """What is converted to what."""

    input_format: str = "KITTI"
    output_format: str = "COCO"
    output_dir: str = ""
    """Folder of the results in specs of version 5.0."""


class KittiSpec(_Strict):
    """KITTI folders."""

    image_dir: str = ""
    label_dir: str = ""
    project: str | None = None
    """Base name of the output; else the name of the folder above ``image_dir``."""
    mapping: str | None = None
    """Class mapping (YAML); classes that it does not name are left out."""
    no_skip: bool = True
    """Keep images without boxes. The reference left them out; false asks for that."""
    preserve_hierarchy: bool = False
    """Name images with the last two folders of ``image_dir`` before them."""


class CocoSpec(_Strict):
    """A COCO file."""

    ann_file: str = ""
    refine_box: bool = False
    """Boxes become the extent of their masks: polygons, run lengths and encoded run lengths."""
    use_all_categories: bool = False
    """Keep classes without an annotation."""
    add_background: bool = False
    """ODVG to COCO: class 0 is ``background``."""
    image_dir: str = ""
    """Only where sizes are missing."""


class OdvgSpec(_Strict):
    """An ODVG file and its label map."""

    ann_file: str = ""
    labelmap_file: str | None = None


class FolderSpec(_Strict):
    """Labels in a folder, or in one file, and the folder of their images."""

    label_dir: str = ""
    image_dir: str = ""
    polygons: bool = True
    """YOLO: write outlines where there are some."""
    layout: Literal["ultralytics", "darknet"] = "ultralytics"
    """YOLO: which lists are written beside the labels."""


class ConvertSpec(_Root):
    """``dropmill dataset annotations convert``."""

    data: ConvertData = Field(default_factory=ConvertData)
    kitti: KittiSpec = Field(default_factory=KittiSpec)
    coco: CocoSpec = Field(default_factory=CocoSpec)
    odvg: OdvgSpec = Field(default_factory=OdvgSpec)
    voc: FolderSpec = Field(default_factory=FolderSpec)
    yolo: FolderSpec = Field(default_factory=FolderSpec)
    labelme: FolderSpec = Field(default_factory=FolderSpec)
    cvat: FolderSpec = Field(default_factory=FolderSpec)
    open_images: FolderSpec = Field(default_factory=FolderSpec)
    tfrecord: FolderSpec = Field(default_factory=FolderSpec)
    aicity: Any = None


class MergeData(_Strict):
    """What is merged."""

    format: str = "COCO"
    annotations: list[str] = Field(default_factory=list)
    same_categories: bool = True
    """The class tables must be the same; else they are united by name."""
    output_dir: str = ""


class MergeSpec(_Root):
    """``dropmill dataset annotations merge``."""

    data: MergeData = Field(default_factory=MergeData)


class SliceData(_Strict):
    """What is sliced."""

    format: str = "COCO"
    annotation_file: str = ""
    output_dir: str = ""


class FilterSpec(_Strict):
    """Which images or boxes are kept."""

    mode: Literal["random", "number", "category", "filename"] = "random"
    split: float | int = 0.25
    """random: a part below 1 that is kept, or a number of equal parts."""
    num_samples: int = Field(default=100, ge=1)
    included_categories: list[str] = Field(default_factory=list)
    excluded_categories: list[str] = Field(default_factory=list)
    re_patterns: list[str] = Field(default_factory=list)
    """filename: regular expressions from the start of the file name; one that fits is enough."""
    reuse_categories: bool = True
    """Keep the class table as it is; else it has the classes that remain, numbered from 1."""
    dump_remainder: bool = False
    seed: int = 42


class SliceSpec(_Root):
    """``dropmill dataset annotations slice``."""

    data: SliceData = Field(default_factory=SliceData)
    filter: FilterSpec = Field(default_factory=FilterSpec)


def load_spec(kind: type[_Spec], path: Path | None, overrides: Sequence[str] = ()) -> _Spec:
    """Read a YAML spec and put ``key=value`` overrides (dotted keys, YAML values) over it.

    Raises :class:`ConfigError`, for an unknown key :class:`UnknownKeyError` with the nearest one.
    """
    where = str(path) if path is not None else "command line"
    content = read_mapping(path, overrides)
    try:
        return kind.model_validate(_without_null(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            raise UnknownKeyError(where, ".".join(place), _keys(kind, place[:-1])) from error
        raise ConfigError(f"{where}: {'.'.join(place)}: {first['msg']}, found {first['input']!r}") from error


def meaningless(spec: _Root) -> list[str]:
    """Keys of the spec that are accepted and steer nothing."""
    return [name for name in WITHOUT_MEANING if getattr(spec, name) is not None]


def _without_null(content: dict[str, Any]) -> dict[str, Any]:
    """A key without a value, and Hydra's ``???``, are the default."""
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None and value != "???"
    }


def _keys(kind: type[BaseModel], groups: Sequence[str]) -> list[str]:
    model: type[BaseModel] = kind
    for group in groups:
        found = model.model_fields[group].annotation if group in model.model_fields else None
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            break
        model = found
    prefix = "".join(f"{group}." for group in groups)
    return [prefix + name for name in model.model_fields]
