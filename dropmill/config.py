"""``dropmill.yaml``: what the service watches, where it writes, and what sets off which run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dropmill.pipelines.config import PipelineConfig
from dropmill.pipelines.named_files import wrong_file
from dropmill.pipelines.runtime_env import checked_env
from dropmill.source_config import AccessConfig, HttpConfig, SourcesConfig
from dropmill.yaml_lines import line_of, said_twice
from ingest.derive import Settings
from ingest.events import DatasetRule
from ingest.parse import Limits
from ingest.set_findings import TableSuite
from ingest.triggers import Pipeline
from quality.gate import Thresholds
from quality.limits import Limits as RuleLimits
from quality.selection import Selection
from storage.errors import ConfigError, UnknownKeyError
from storage.object_store import ObjectStore
from transforms.conversion.mapping import read_mapping


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class IngestConfig(_Strict):
    """How objects become batches."""

    batch_objects: int = Field(default=2_000, ge=1, le=100_000)
    """A batch ends at this many objects."""
    batch_wait_s: float = Field(default=2.0, ge=0)
    """A batch waits for more no longer than this, nor than half of what the last one took."""
    settle_s: float = Field(default=0.5, ge=0)
    """A file that nobody was heard to close is complete when it has not changed for so long."""
    reconcile_s: float = Field(default=300.0, gt=0)
    """The bucket is listed and compared with the lake at this interval."""
    max_image_pixels: int = Field(default=Limits.max_image_pixels, ge=1)
    """Larger images are quarantined from their header."""
    max_label_bytes: int = Field(default=Limits.max_label_bytes, ge=1)
    """Larger label files are quarantined unread."""


class RayConfig(_Strict):
    """Where the work is done."""

    address: str | None = None
    """A cluster's address; none starts Ray on this machine."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs that the local Ray may use; none takes all."""
    task_cpus: float = Field(default=1.0, gt=0)
    """What a task that reads and parses objects asks for."""
    task_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory that such a task asks for; none asks for none."""
    tasks_in_flight: int | None = Field(default=None, ge=1)
    """Tasks that are under way at once; none makes it two for each CPU."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """What the jobs of pipelines get along, as Ray knows it: env_vars, working_dir, py_modules, pip, …"""

    @field_validator("runtime_env")
    @classmethod
    def _ray_takes_it(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return checked_env(value, (info.context or {}).get("folder"))


class GateConfig(_Strict):
    """The thresholds of the gate, see :class:`quality.gate.Thresholds`."""

    warn_invalid_share: float = Field(default=Thresholds.warn_invalid_share, ge=0, le=1)
    fail_invalid_share: float = Field(default=Thresholds.fail_invalid_share, ge=0, le=1)
    warn_doubtful_share: float = Field(default=Thresholds.warn_doubtful_share, ge=0, le=1)
    fail_quarantined_share: float = Field(default=Thresholds.fail_quarantined_share, ge=0, le=1)
    fail_boxes_below: int = Field(default=Thresholds.fail_boxes_below, ge=0)
    warn_imbalance: float = Field(default=Thresholds.warn_imbalance, ge=1)
    fail_imbalance: float | None = Field(default=Thresholds.fail_imbalance, ge=1)
    warn_entropy_below: float = Field(default=Thresholds.warn_entropy_below, ge=0, le=1)
    fail_entropy_below: float = Field(default=Thresholds.fail_entropy_below, ge=0, le=1)
    warn_effective_number: float = Field(default=Thresholds.warn_effective_number, ge=0)
    warn_js_divergence: float = Field(default=Thresholds.warn_js_divergence, ge=0, le=1)
    fail_js_divergence: float | None = Field(default=Thresholds.fail_js_divergence, ge=0, le=1)
    warn_psi: float = Field(default=Thresholds.warn_psi, ge=0)
    fail_psi: float | None = Field(default=Thresholds.fail_psi, ge=0)
    warn_leaked_images: int = Field(default=Thresholds.warn_leaked_images, ge=0)
    fail_leaked_images: int | None = Field(default=Thresholds.fail_leaked_images, ge=0)
    fail_expectations: int | None = Field(default=Thresholds.fail_expectations, ge=0)


class LimitsConfig(_Strict):
    """Where warnings begin, see :class:`quality.limits.Limits`."""

    min_side_px: float = Field(default=RuleLimits.min_side_px, ge=0)
    max_aspect: float = Field(default=RuleLimits.max_aspect, ge=1)
    duplicate_iou: float = Field(default=RuleLimits.duplicate_iou, ge=0.5, le=1)
    mask_outside_px: float = Field(default=RuleLimits.mask_outside_px, ge=0)
    min_image_deviation: float = Field(default=RuleLimits.min_image_deviation, ge=0)
    hash_distance: int = Field(default=RuleLimits.hash_distance, ge=0, le=20)
    min_likeness: float = Field(default=RuleLimits.min_likeness, ge=-1, le=1)
    max_js_divergence: float = Field(default=RuleLimits.max_js_divergence, ge=0, le=1)
    max_psi: float = Field(default=RuleLimits.max_psi, ge=0)
    min_drift_boxes: int = Field(default=RuleLimits.min_drift_boxes, ge=1)


class RulesConfig(_Strict):
    """The warnings that are looked for on every drop; boxes that are not valid always are."""

    skip: tuple[str, ...] = ()
    """Names of warnings that are not looked for."""
    masks: bool = False
    """Look into segmentations: masks outside their boxes, polygons that cross themselves, misused crowds."""
    pixels: bool = False
    """Decode images, for images of one colour and images that show the same, across splits above all."""
    limits: LimitsConfig = LimitsConfig()
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Data set to its list of classes (``*``: of all others); boxes of other classes are warned of."""

    def selection(self) -> Selection:
        """The rules as they are run."""
        return Selection(
            skip=frozenset(self.skip),
            masks=self.masks,
            pixels=self.pixels,
            limits=RuleLimits(**self.limits.model_dump()),
            classes=self.classes,
        )

    @model_validator(mode="after")
    def _rules_exist(self) -> RulesConfig:
        self.selection()
        return self


class ExpectationsConfig(_Strict):
    """A Great Expectations suite, and the table that it is about."""

    suite: Path
    """A JSON file."""
    table: str = "annotations"
    """A table or view of the lake; annotations come with width, height and split of their image."""

    @field_validator("suite")
    @classmethod
    def _is_json(cls, value: Path) -> Path:
        # A suite in Python is code, which a service does not run.
        if value.suffix.lower() != ".json":
            raise ValueError(f"{value} is no .json file")
        return value


class QualityConfig(_Strict):
    """Rules and corrections."""

    apply_correction: bool = True
    """Mend boxes that break a rule; leave out those that cannot be mended."""
    label_order: tuple[str, ...] = ()
    """Folders (below the data set) whose labels win where several speak of one image."""
    mappings: dict[str, Path] = Field(default_factory=dict)
    """Data set (``*``: all others) to a YAML file of ``target: [source, ...]``: the names that classes get in
    ``annotations``, while ``labels`` keep those that were delivered. Classes without a target keep theirs.
    """
    rules: RulesConfig = RulesConfig()
    expectations: tuple[ExpectationsConfig, ...] = ()
    """Great Expectations suites that are run when a batch is in the tables and nothing else waits."""
    gate: GateConfig = GateConfig()


class Config(_Strict):
    """The whole of ``dropmill.yaml``."""

    bucket: str
    """Where objects are dropped: a folder, or any fsspec URL."""
    lake: str
    """Where results go: a folder, or any fsspec URL."""
    dataset: str | None = None
    """The whole bucket is this one data set."""
    datasets: dict[str, str] = Field(default_factory=dict)
    """Data set to prefix; what none fits goes by its first-level folder."""
    bucket_access: AccessConfig = AccessConfig()
    """How the bucket is reached."""
    lake_access: AccessConfig = AccessConfig()
    """How the lake is reached; the two may be on different stores."""
    lane: str = Field(default="main", pattern=r"^[A-Za-z0-9_-]{1,60}$")
    """Services of one lake that watch different buckets take different lanes; two on one lane take turns."""
    sources: SourcesConfig = SourcesConfig()
    http: HttpConfig = HttpConfig()
    ingest: IngestConfig = IngestConfig()
    ray: RayConfig = RayConfig()
    quality: QualityConfig = QualityConfig()
    pipelines: tuple[PipelineConfig, ...] = ()

    @field_validator("pipelines")
    @classmethod
    def _names_differ(cls, value: tuple[PipelineConfig, ...]) -> tuple[PipelineConfig, ...]:
        names = [pipeline.name for pipeline in value]
        if len(set(names)) < len(names):
            raise ValueError("two pipelines have the same name")
        return value

    @model_validator(mode="after")
    def _lake_outside_bucket(self) -> Config:
        check_apart(ObjectStore.at(self.bucket), ObjectStore.at(self.lake))
        return self

    @model_validator(mode="after")
    def _jobs_reach_both(self) -> Config:
        bucket, lake = self.bucket_access.environment(), self.lake_access.environment()
        both_far = not (ObjectStore.at(self.bucket).is_directory or ObjectStore.at(self.lake).is_directory)
        if self.pipelines and both_far and bucket != lake:
            raise PydanticCustomError(
                "access",
                "lake_access: jobs of pipelines reach bucket and lake by one environment; found {lake}, in "
                "bucket_access {bucket}; give both the same endpoint_url, region and profile",
                {"lake": str(lake), "bucket": str(bucket), "at": ("lake_access",)},
            )
        return self

    @model_validator(mode="after")
    def _files_are_there(self, info: ValidationInfo) -> Config:
        folder = (info.context or {}).get("folder")
        # On a cluster the steps are done elsewhere, and find their files there.
        if folder is None or self.ray.address is not None:
            return self
        for place, pipeline in enumerate(self.pipelines):
            wrong = wrong_file(pipeline.steps, folder)
            if wrong is not None:
                at = ("pipelines", place, *wrong.at)
                raise PydanticCustomError("file", "{why}", {"why": wrong.why, "at": at})
        return self

    def bucket_store(self) -> ObjectStore:
        """The bucket."""
        return ObjectStore.at(self.bucket, self.bucket_access.options())

    def rule(self) -> DatasetRule:
        """Which data set a key belongs to."""
        return DatasetRule(bucket=ObjectStore.at(self.bucket).name, name=self.dataset, prefixes=self.datasets)

    def limits(self) -> Limits:
        """What is too much for one object."""
        return Limits(
            max_image_pixels=self.ingest.max_image_pixels,
            max_label_bytes=self.ingest.max_label_bytes,
            look_at_pixels=self.quality.rules.pixels,
        )

    def settings(self) -> Settings:
        """How samples are derived."""
        return Settings(
            apply_correction=self.quality.apply_correction,
            label_order=self.quality.label_order,
            mappings={name: read_mapping(file) for name, file in self.quality.mappings.items()},
            rules=self.quality.rules.selection(),
        )

    def thresholds(self) -> Thresholds:
        """Where the gate warns and fails."""
        return Thresholds(**self.quality.gate.model_dump())

    def suites(self) -> list[TableSuite]:
        """The suites of expectations."""
        return [TableSuite(source=str(one.suite), table=one.table) for one in self.quality.expectations]

    def runtime_env(self) -> dict[str, Any]:
        """What jobs get along; they reach lake and bucket as the service does, by their environment."""
        said = self.ray.runtime_env
        stores = {**self.bucket_access.environment(), **self.lake_access.environment()}
        return {**said, "env_vars": {**stores, **said.get("env_vars", {})}}

    def triggers(self) -> list[Pipeline]:
        """The pipelines, as triggers know them."""
        return [pipeline.pipeline() for pipeline in self.pipelines]


def load_config(path: Path) -> Config:
    """Read ``dropmill.yaml``; relative paths in it are relative to its folder.

    Raises ConfigError that names the line, UnknownKeyError that names the nearest key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys such as bucket and lake, found {type(content).__name__}")
    if twice := said_twice(tree):
        raise ConfigError(
            f"{path}, line {twice.second}: key {twice.key!r} is there twice, first on line {twice.first}; "
            "only one of them can count"
        )
    try:
        config = Config.model_validate(content, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise _readable(path, tree, error) from error
    config = _from_folder(config, path.resolve().parent)
    # What is wrong with the files that it names is better said now than with the first batch.
    config.settings()
    return config


def check_apart(bucket: ObjectStore, lake: ObjectStore) -> None:
    """Raise where one of the two lies inside the other: the service would take its own files for drops."""
    inner, outer = bucket.url.rstrip("/") + "/", lake.url.rstrip("/") + "/"
    if inner.startswith(outer) or outer.startswith(inner):
        raise ValueError(f"bucket ({bucket.url}) and lake ({lake.url}) must not lie inside each other")


def _from_folder(config: Config, folder: Path) -> Config:
    def absolute(where: str) -> str:
        return where if "://" in where else str((folder / Path(where).expanduser()).resolve())

    def absolute_path(where: Path | None) -> Path | None:
        return None if where is None else (folder / where.expanduser()).resolve()

    webhook = config.sources.webhook
    pipelines = tuple(pipeline.with_paths(absolute_path) for pipeline in config.pipelines)
    expectations = tuple(
        one.model_copy(update={"suite": absolute_path(one.suite)}) for one in config.quality.expectations
    )
    mappings = {name: absolute_path(file) for name, file in config.quality.mappings.items()}
    quality = config.quality.model_copy(update={"expectations": expectations, "mappings": mappings})
    return config.model_copy(
        update={
            "quality": quality,
            "bucket": absolute(config.bucket),
            "lake": absolute(config.lake),
            "pipelines": pipelines,
            "http": config.http.model_copy(update={"cache": absolute_path(config.http.cache)}),
            "sources": config.sources.model_copy(
                update={
                    "webhook": webhook and webhook.model_copy(update={"spool": absolute_path(webhook.spool)})
                }
            ),
        }
    )


def _readable(path: Path, tree: yaml.Node | None, error: ValidationError) -> ConfigError:
    """The first thing that is wrong, with its line."""
    first = error.errors()[0]
    location = (*first["loc"], *first.get("ctx", {}).get("at", ()))
    where = ".".join(str(part) for part in location)
    place = f"{path}, line {line_of(tree, location)}"
    if first["type"] == "extra_forbidden":
        return UnknownKeyError(place, where, _known(first["loc"]))
    return ConfigError(f"{place}: {where or 'the file'}: {first['msg']}")


def _known(location: tuple[int | str, ...]) -> list[str]:
    """The keys that would have been right at a location, each with the path that leads to it."""
    model: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = [a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")]
        model = inner[0] if inner else annotation
    prefix = "".join(f"{part}." for part in location[:-1])
    return [prefix + name for name in model.model_fields]
