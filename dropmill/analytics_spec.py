"""The spec files of ``dataset analytics``: those of TAO data services 5.0 and later, unmodified."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import ConfigError, UnknownKeyError
from transforms.conversion.spec import load_spec

_log = logging.getLogger(__name__)

# Read, and without a meaning here: no container, no account, no telemetry.
WITHOUT_MEANING = ("encryption_key", "telemetry", "num_gpus", "gpu_ids", "cuda_blocking", "verbose")
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
    """Charts, tables and drawn images go to W&B, the charts instead of to ``graphs``."""
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

    encryption_key: Any = None
    telemetry: Any = None
    num_gpus: Any = None
    gpu_ids: Any = None
    cuda_blocking: Any = None
    verbose: Any = None

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
            raise UnknownKeyError("data.input_format", name, FORMATS)
        return None if name == "auto" else name


def load_analytics_spec(path: Path | None, overrides: Sequence[str] = ()) -> AnalyticsSpec:
    """Read a YAML spec and put ``key.of.section=value`` over it.

    Raises ConfigError (UnknownKeyError for keys that nobody knows, with the nearest), naming file and key.
    """
    kind: Any = AnalyticsSpec
    spec: AnalyticsSpec = load_spec(kind, path, overrides)
    passed_over = [name for name in WITHOUT_MEANING if getattr(spec, name) is not None]
    if passed_over:
        _log.warning("keys without a meaning here: keys=%s file=%s", ",".join(passed_over), path)
    return spec
