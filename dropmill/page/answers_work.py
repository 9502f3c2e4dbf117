"""What the interface answers about what was done: quarantine, batches, runs, models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dropmill.page.answers import Answer


class Quarantined(Answer):
    """An object that cannot be read."""

    dataset: str
    key: str
    version: str | None
    error: str | None
    batch: int | None
    seen_at: datetime | None


class Quarantine(Answer):
    """Objects in quarantine, in the order of their keys."""

    state: Literal["current", "looking"]
    """looking: newer commits are being looked at; what is here is what was found before them."""
    total: int
    objects: list[Quarantined]
    next: str | None


class Accepted(Answer):
    """Something that the service will do."""

    accepted: str
    keys: int | None
    """How many keys were named; null for all."""


class WhichKeys(BaseModel):
    """Which objects of the quarantine: some, or all by saying so."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    keys: list[str] = Field(default_factory=list, max_length=10_000)
    all: bool = False


class Batch(Answer):
    """One batch."""

    lane: str
    number: int
    state: str
    planned_at: datetime | None
    done_at: datetime | None
    images: int | None
    labels: int | None
    annotations: int | None
    findings: int | None
    quarantined: int | None
    removed: int | None


class Batches(Answer):
    """The newest batches, newest first."""

    batches: list[Batch]
    next: str | None


class Run(Answer):
    """One execution of a job."""

    run: str
    pipeline: str | None
    step: str | None
    dataset: str | None
    state: str
    labelled_images: int | None
    error: str | None
    submitted_at: datetime | None
    ended_at: datetime | None
    snapshot: dict[str, Any]
    """Table to the version that it read."""
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    outputs: dict[str, Any]


class Runs(Answer):
    """All runs, newest first."""

    runs: list[Run]


class Card(Answer):
    """What a model is, made from what, and how good: the Markdown file beside it."""

    run: str
    """The run that made the model."""
    written_at: datetime | None
    text: str


class Curves(Answer):
    """What a training measured, epoch by epoch."""

    run: str
    epochs: list[float]
    curves: dict[str, list[float | None]]
    """Measure to a value for each epoch; null where it was not measured."""


class Model(Answer):
    """A file that a run made, and what it was made from."""

    model: str
    run: str
    dataset: str | None
    architecture: str | None
    categories: list[str]
    kind: str
    uri: str
    size_bytes: int | None
    sha256: str | None
    metrics: dict[str, Any]
    snapshot: dict[str, Any]
    made_at: datetime | None
    state: str | None
    """current, rejected or retired; null where none was promoted"""
    labelled_images: int | None
    """That its run could learn from."""
    run_state: str | None


class RestsOn(Answer):
    """A run that a model rests on."""

    run: str
    step: str | None
    dataset: str | None
    state: str | None
    shards: int
    """Files of samples that it wrote."""


class ObjectsBehind(Answer):
    """Objects of the bucket that a model was made from."""

    kind: str | None
    """image or label"""
    now: str
    """current, replaced or removed since"""
    objects: int


class Lineage(Answer):
    """What a model rests on; ``dropmill lineage`` names every object."""

    model: str
    runs: list[RestsOn]
    """The newest step first."""
    objects: list[ObjectsBehind]


class Models(Answer):
    """All models, newest first."""

    models: list[Model]
