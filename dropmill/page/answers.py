"""What the interface answers, field by field; the documentation of ``/api/v1`` is made of this."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Root of all answers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="null")


class Refusal(Answer):
    """Why something was not done."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "Asked in a way that cannot be answered"},
    503: {"model": Refusal, "description": "The lake is not there, or busy; later it may be"},
}


class Now(Answer):
    """What may have changed since the last look."""

    lake: str
    """Its address."""
    versions: dict[str, int]
    """Table to newest version."""
    service: dict[str, Any] | None
    """How the service is; null where only the page runs."""
    may_change: bool
    """Whether requests with the token can change something here."""


class ClassCount(Answer):
    """One class of a data set."""

    category: str
    boxes: int
    images: int
    share: float
    """Of all boxes, 0 to 1."""
    weight: float
    """For a loss, by effective number (Cui et al. 2019); the mean is 1."""


class MixOfDrop(Answer):
    """The classes that one batch brought, and how far they are from all before."""

    batch: int
    done_at: datetime | None
    boxes: int
    counts: dict[str, int]
    """Class to boxes."""
    js_divergence: float | None
    """0 (the same) to 1; null with too few boxes to say."""


class RuleCount(Answer):
    """How often a rule was broken."""

    rule: str
    severity: str
    findings: int
    samples: int


class Dataset(Answer):
    """One data set: its size, its gate and its classes."""

    dataset: str
    images: int
    labelled_images: int
    delivered: int
    """Instances as delivered."""
    boxes: int
    gate: Literal["pass", "warn", "fail"]
    reasons: list[str]
    imbalance: float | None
    """Boxes of the largest class for each of the smallest."""
    entropy: float
    """Of the class mix, 0 to 1; 1 is even."""
    classes: list[ClassCount]
    splits: dict[str, dict[str, int]]
    """Split to class to boxes."""
    images_by_split: dict[str, int]
    """Split to images; those without one stand under the empty name."""
    rules: list[RuleCount]
    drops: list[MixOfDrop]
    """The newest drops, oldest first."""
    quarantined: int


class Datasets(Answer):
    """All data sets, as they were counted last."""

    state: Literal["current", "counting"]
    """counting: newer commits are being counted; what is here is what was counted before them."""
    counted_at: datetime | None
    seconds: float | None
    """How long counting took."""
    versions: dict[str, int]
    """The table versions that were counted."""
    datasets: list[Dataset]


class RunLengths(Answer):
    """A mask as run lengths down the columns, beginning with background, on a grid over the whole image."""

    width: int
    height: int
    counts: list[int]


class Shape(Answer):
    """The outline of an object, in pixels of the image: polygons or runs."""

    polygons: list[list[float]] | None = None
    runs: RunLengths | None = None


class Box(Answer):
    """One object of an image: corners in pixels of the image as it is shown."""

    category: str | None
    xmin: float | None
    ymin: float | None
    xmax: float | None
    ymax: float | None
    source: str
    instance: int
    ignore: bool
    iscrowd: bool
    corrected: bool
    score: float | None
    changes: str | None
    """JSON: the corners as delivered, where they were changed."""
    shape: Shape | None
    """As delivered; null where there is none, or shapes were not asked for."""
    mask: Shape | None
    """The pseudo mask, likewise."""


class Finding(Answer):
    """A rule that was broken."""

    rule: str
    severity: str
    source: str | None
    instance: int | None
    line: int | None
    category: str | None
    observed: str | None
    correction: str | None


class Sample(Answer):
    """An image and what is said of it."""

    dataset: str
    sample: str
    stem: str
    key: str
    version: str
    width: int
    height: int
    size_bytes: int | None
    format: str | None
    split: str | None
    labelled: bool
    batch: int | None
    boxes: list[Box]
    more_boxes: int
    """Boxes that are left out here, because there are very many."""
    findings: list[Finding]


class Samples(Answer):
    """A page of the gallery, in the order of (dataset, stem, sample)."""

    samples: list[Sample]
    next: str | None
    """The cursor of what follows; null at the end."""
    looked_through: float
    """Share of the files that there were to look at, 0 to 1. A page may be short where a rare thing is looked
    for, and goes on with ``next``."""


class Query(BaseModel):
    """One SELECT over the lake."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    query: str = Field(min_length=1, max_length=20_000)
    max_rows: int = Field(default=1_000, ge=1, le=10_000)
    """More rows are cut off."""


class Column(Answer):
    """A column of an answer."""

    name: str
    type: str


class Found(Answer):
    """The answer of a query."""

    columns: list[Column]
    rows: list[list[Any]]
    """Whole numbers beyond 2^53 are texts, NaN and infinite numbers null."""
    more: bool
    """Whether there were more rows than asked for."""
    seconds: float


class TableDoc(Answer):
    """A table or view that can be asked."""

    name: str
    about: str
    columns: list[Column]


class Tables(Answer):
    """All of them."""

    tables: list[TableDoc]
