"""The part of ``dropmill.yaml`` that says what a change in the lake sets going."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dropmill.masks_config import MasksConfig
from dropmill.pipelines.steps_config import (
    PATHS,
    AugmentConfig,
    Detector,
    EvaluateConfig,
    ExportConfig,
    PromoteConfig,
    PruneConfig,
    QuantiseConfig,
    RetrainConfig,
    TrainConfig,
)
from ingest.dueness import When
from ingest.plans import Resources, Step, inputs_of
from ingest.triggers import Pipeline
from quality.gate import Verdict
from storage.errors import ConfigError

_SETTINGS = ("resources", "retries", "retry_wait_s")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class WhenConfig(_Strict):
    """What has to be true before a pipeline runs: the gate, and any one of the others that are set.

    Without any of the others, 100 new labelled images begin it.
    """

    gate: Literal["pass", "warn"] = "warn"
    """The worst verdict of the gate that is still good enough."""
    new_images: int | None = Field(default=None, ge=1)
    """Labelled images that the last execution had not."""
    changed_images: int | None = Field(default=None, ge=1)
    """Labelled images that are new, gone, or have other pixels or boxes."""
    every_h: float | None = Field(default=None, gt=0)
    """Hours since the last execution, where anything has changed since."""
    drift: float | None = Field(default=None, gt=0, le=1)
    """Jensen-Shannon divergence of the classes since the last execution from those that it had."""
    imbalance: float | None = Field(default=None, ge=1)
    """Boxes of the largest class to those of the smallest, and fewer at the last execution."""
    manual: bool = False
    """Only `dropmill jobs start` begins it."""
    settle_s: float = Field(default=10.0, ge=0)
    """Nothing has arrived for so long."""

    @model_validator(mode="after")
    def _by_hand_or_not(self) -> WhenConfig:
        others = [name for name in _CONDITIONS if getattr(self, name) is not None]
        if self.manual and others:
            raise ValueError(f"manual stands alone; {', '.join(others)} would begin it without a hand")
        return self

    def condition(self) -> When:
        """As triggers know it."""
        said = self.model_dump(exclude={"gate"})
        if not self.manual and all(said[name] is None for name in _CONDITIONS):
            said["new_images"] = _NEW_IMAGES
        return When(gate=Verdict(self.gate), **said)


_CONDITIONS = ("new_images", "changed_images", "every_h", "drift", "imbalance")
_NEW_IMAGES = 100


class ResourcesConfig(_Strict):
    """What a step's own process asks the cluster for; workers and actors ask for theirs beside it."""

    cpus: float | None = Field(default=None, gt=0)
    """Cores."""
    gpus: float | None = Field(default=None, gt=0)
    """GPUs, or parts of one."""
    memory_bytes: int | None = Field(default=None, ge=1)
    """Memory that is kept for it."""


class StepConfig(_Strict):
    """One step: exactly one of the kinds, with its parameters, and how its job is run."""

    masks: MasksConfig | None = None
    augment: AugmentConfig | None = None
    train: TrainConfig | None = None
    prune: PruneConfig | None = None
    retrain: RetrainConfig | None = None
    quantise: QuantiseConfig | None = None
    export: ExportConfig | None = None
    evaluate: EvaluateConfig | None = None
    promote: PromoteConfig | None = None
    resources: ResourcesConfig = ResourcesConfig()
    retries: int = Field(default=1, ge=0, le=20)
    """Further attempts after one that failed; bad input is not tried again."""
    retry_wait_s: float = Field(default=30.0, ge=0)
    """Before the second attempt; doubles with each."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, said: Any) -> Any:
        """``- masks`` and ``- masks:`` are a step with the defaults."""
        if isinstance(said, str):
            return {said: {}}
        if isinstance(said, dict):
            return {
                key: {} if value is None and key not in _SETTINGS else value for key, value in said.items()
            }
        return said

    @model_validator(mode="after")
    def _one_kind(self) -> StepConfig:
        kinds = self.kinds()
        if len(kinds) != 1:
            known = ", ".join(name for name in type(self).model_fields if name not in _SETTINGS)
            found = " and ".join(kinds) if kinds else "none"
            raise ValueError(f"expected exactly one of {known} in a step; found {found}")
        return self

    def kinds(self) -> list[str]:
        """The kinds that are set: one."""
        return [
            name
            for name in type(self).model_fields
            if name not in _SETTINGS and getattr(self, name) is not None
        ]

    @property
    def name(self) -> str:
        """Which kind it is."""
        return self.kinds()[0]

    def step(self) -> Step:
        """As plans know it."""
        parameters = getattr(self, self.name).model_dump(
            mode="json", exclude_none=True, exclude_defaults=True
        )
        return Step(
            name=self.name,
            parameters=parameters,
            resources=Resources(**self.resources.model_dump()),
            retries=self.retries,
            retry_wait_s=self.retry_wait_s,
        )


def _why_not(step: StepConfig, detector: Detector) -> str | None:
    """Why a step cannot be done with a detector; None where it can."""
    if detector == "detectnet_v2":
        return None
    if step.export is not None and detector in _NOT_EXPORTED:
        return "it has no export to ONNX here; leave the step out"
    if step.export is not None and step.export.precision != "fp32":
        return f"it is exported as fp32 only, found {step.export.precision}"
    return _OF_DETECTNET_V2.get(step.name)


_NOT_EXPORTED = ("rtdetr", "dfine")
_OF_DETECTNET_V2 = {
    "prune": "its network is built from its spec, which has no place for the widths of single layers; train "
    "one with a smaller backbone instead (options: {model: {backbone: …}})",
    "retrain": "it trains again what was pruned, and this cannot be; give `train` more epochs instead",
    "quantise": "int8 is made for detectnet_v2 only; leave the step out",
}


def _wrong_step(place: int, why: str) -> PydanticCustomError:
    """An error of the pipeline that says in ``at`` which of its steps it is about."""
    return PydanticCustomError("step", "{why}", {"why": why, "at": ("steps", place)})


class PipelineConfig(_Strict):
    """What a change in the lake sets going."""

    name: str = Field(min_length=1, max_length=60)
    dataset: str | None = None
    """None: every data set of the lake, each for itself."""
    when: WhenConfig = WhenConfig()
    steps: tuple[StepConfig, ...] = Field(min_length=1)
    """One after the other; each takes what the nearest step before it made."""

    @model_validator(mode="after")
    def _steps_follow(self) -> PipelineConfig:
        names = [step.name for step in self.steps]
        detector: Detector = "detectnet_v2"
        for place, step in enumerate(self.steps):
            try:
                inputs_of(names[: place + 1])
            except ConfigError as error:
                raise _wrong_step(place, str(error)) from error
            detector = step.train.detector if step.train is not None else detector
            if (why := _why_not(step, detector)) is not None:
                raise _wrong_step(place, f"step {place + 1}, {step.name}: not for a {detector}: {why}")
        return self

    def pipeline(self) -> Pipeline:
        """As triggers know it."""
        return Pipeline(
            name=self.name,
            steps=tuple(step.step() for step in self.steps),
            when=self.when.condition(),
            dataset=self.dataset,
        )

    def with_paths(self, absolute: Callable[[Path | None], Path | None]) -> PipelineConfig:
        """The same with paths made absolute."""
        steps = []
        for step in self.steps:
            part: BaseModel = getattr(step, step.name)
            paths = {name: absolute(getattr(part, name)) for name in PATHS if name in type(part).model_fields}
            steps.append(step.model_copy(update={step.name: part.model_copy(update=paths)}))
        return self.model_copy(update={"steps": tuple(steps)})
