"""Charts and tables as data that anything can draw, and how they are made of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

_STATISTICS = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars, one group per label; ``series`` has one list of values for each colour."""

    title: str
    labels: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    unit: str
    decimals: int = 0


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Upright bars over bins; ``edges`` has one number more than ``values``."""

    title: str
    edges: tuple[float, ...]
    values: tuple[float, ...]
    axis: str
    unit: str
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Points:
    """A point per label with the range from ``low`` to ``high``, on a logarithmic axis."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: str


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A field of counts: ``values[row, column]``, the first row on top."""

    title: str
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    axes: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; numbers are shown as they are given."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Page = Bars | Histogram | Points | Heat | Table


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Pages on one matter; ``name`` is that of its files."""

    name: str
    title: str
    pages: tuple[Page, ...]


def described(title: str, columns: Sequence[tuple[str, pl.Series]]) -> Table:
    """Count, mean, standard deviation and quartiles of each column."""
    rows = []
    for name, values in columns:
        given = values.cast(pl.Float64).drop_nulls()
        numbers = [given.mean(), given.std(), given.min()]
        numbers += [given.quantile(q, "linear") for q in (0.25, 0.5, 0.75)] + [given.max()]
        said = ["" if n is None else f"{n:,.2f}" for n in numbers]  # type: ignore[str-bytes-safe]
        rows.append((name, f"{len(given):,}", *said))
    return Table(title=title, header=("", *_STATISTICS), rows=tuple(rows))


def histogram(
    title: str, values: pl.Series, axis: str, unit: str, *, log: bool = False, share: bool = False
) -> Histogram:
    """A histogram of the finite values; ``log`` bins are of equal ratio, ``share`` gives percent of all."""
    given = values.drop_nulls().to_numpy()
    given = given[np.isfinite(given) & ((given > 0) | (not log))]
    low, high = (float(given.min()), float(given.max())) if len(given) else (1.0, 2.0)
    if high <= low:
        high = low * 1.01 + 0.01
    edges = np.geomspace(low, high, 41) if log else np.linspace(low, high, 31)
    counts, _ = np.histogram(given, bins=edges)
    heights = 100 * counts / max(len(given), 1) if share else counts
    return Histogram(
        title=title,
        edges=tuple(map(float, edges)),
        values=tuple(map(float, heights)),
        axis=axis,
        unit=unit,
        log=log,
    )


def row_of(values: pl.Series) -> tuple[float, ...]:
    """The values of one colour of bars."""
    return tuple(float(value) for value in values)


def class_counts(boxes: pl.DataFrame) -> pl.DataFrame:
    """Boxes ``n`` of each ``category``, the most first."""
    return boxes.group_by("category").len("n").sort(["n", "category"], descending=[True, False])
