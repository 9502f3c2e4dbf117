"""The spec files of ``dataset analytics``: those of TAO data services 5.0 and later, unmodified."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import ConfigError, UnknownKeyError

_log = logging.getLogger(__name__)

# Read, and without a meaning here: no container, no account, no telemetry, and no other inputs.
_WITHOUT_MEANING = {"encryption_key", "telemetry", "num_gpus", "gpu_ids", "cuda_blocking", "verbose"}
FORMATS = (
    "auto", "kitti", "coco", "voc", "yolo", "odvg", "labelme", "cvat", "open_images", "tfrecord",
)  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataSection(_Section):
    """What to read."""

    input_format: str
    """KITTI, COCO, VOC, YOLO and what else is read, in any case; AUTO takes the labels as they are."""
    output_dir: str | None = None
    """Where results go; ``results_dir`` at the root means the same."""
    image_dir: str | None = None
    """Folder of images; may be absent: then labels alone are looked at."""
    ann_path: str
    """Label file, or folder of label files."""
    mapping: str | None = None
    """Of kpi_analyze; without a meaning here."""
    kpi_sources: list[dict[str, str]] = Field(default_factory=list)
    """Of kpi_analyze; without a meaning here."""


class ImageSection(_Section):
    """Drawn images."""

    generate_image_with_bounding_box: bool = False
    sample_size: int = Field(default=100, ge=0)
    """Number of random images drawn."""


class GraphSection(_Section):
    """Graphs."""

    height: float = Field(default=15.0, gt=0, le=100)
    """Inches."""
    width: float = Field(default=15.0, gt=0, le=100)
    """Inches."""
    show_all: bool = False
    """All classes; otherwise the 100 most frequent."""
    generate_summary_and_graph: bool = True


class WandbSection(_Section):
    """Weights & Biases."""

    visualize: bool = False
    """Charts, tables and drawn images go to W&B as well."""
    project: str | None = None
    entity: str | None = None
    save_code: bool = False
    name: str | None = None
    notes: str | None = None
    tags: list[str] | None = None


class AnalyticsSpec(_Section):
    """A spec of ``analyze`` or ``validate``."""

    data: DataSection
    results_dir: str | None = None
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Files that are read at once."""
    apply_correction: bool = False
    """validate: write the files whose boxes had to be corrected."""
    image: ImageSection = ImageSection()
    graph: GraphSection = GraphSection()
    wandb: WandbSection = WandbSection()
    limits: dict[str, float] = Field(default_factory=dict)
    """Limits of warnings, as in :class:`quality.limits.Limits`."""
    gate: dict[str, float | None] = Field(default_factory=dict)
    """Thresholds of the gate, as in :class:`quality.gate.Thresholds`."""

    @property
    def output(self) -> Path:
        """The folder for results. Raises ConfigError where the spec names none."""
        folder = self.results_dir or self.data.output_dir
        if not folder:
            raise ConfigError("the spec names no folder for results: set data.output_dir or results_dir")
        return Path(folder)

    @property
    def form(self) -> str | None:
        """The form of labels to read; None takes what is there. Raises UnknownKeyError."""
        name = self.data.input_format.lower().replace("-", "_")
        if name not in FORMATS:
            raise UnknownKeyError("data.input_format", self.data.input_format, FORMATS)
        return None if name == "auto" else name


def load_spec(path: Path | None, overrides: Sequence[str] = ()) -> AnalyticsSpec:
    """Read a YAML spec and put ``key.of.section=value`` over it; values are YAML as well.

    Raises ConfigError (UnknownKeyError for keys that nobody knows, with the nearest), naming file and key.
    """
    where = str(path) if path else "command line"
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected sections such as `data:`")
    for text in overrides:
        _put(values, text)
    for key in _WITHOUT_MEANING & values.keys():
        _log.warning("the key has no meaning here: key=%s file=%s", key, where)
        del values[key]
    _refuse_unknown(values, AnalyticsSpec, where, "")
    try:
        return AnalyticsSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f", found {first['input']!r}"
        raise ConfigError(f"{where}: {key}: {first['msg']}{found}", key=key) from error


def _put(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: found {text!r}, expected key=value such as wandb.visualize=True")
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"command line: {key}: {section} is no section")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"command line: {text}: {error}") from error


def _refuse_unknown(values: Mapping[str, Any], model: type[BaseModel], where: str, section: str) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            raise UnknownKeyError(
                where, f"{section}{key}", [f"{section}{name}" for name in model.model_fields]
            )
        kind = model.model_fields[key].annotation
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, _Section):
            _refuse_unknown(value, kind, where, f"{section}{key}.")
