"""Class mappings: a YAML list of ``target: [source, …]``, or one mapping of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import yaml

from storage.errors import ConfigError

Others = Literal["keep", "drop"]


@dataclass(frozen=True)
class ClassMapping:
    """Sources to targets. ``targets`` are in the order of the file, which numbers the classes."""

    targets: tuple[str, ...]
    of_source: dict[str, str]

    def apply(self, boxes: pl.DataFrame, *, others: Others) -> pl.DataFrame:
        """Rows of labels or annotations with ``category`` renamed; classes without a target stay or go."""
        known = pl.col("category").is_in(list(self.of_source))
        renamed = pl.col("category").replace(self.of_source)
        # A number that named the old class does not name the new one.
        changed = renamed.ne_missing(pl.col("category"))
        columns = [renamed.alias("category")]
        if "category_id" in boxes.columns:
            columns.append(pl.when(changed).then(None).otherwise(pl.col("category_id")).alias("category_id"))
        kept = boxes if others == "keep" else boxes.filter(known.fill_null(value=False))
        return kept.with_columns(columns)


def map_classes(boxes: pl.DataFrame, mappings: Mapping[str, ClassMapping]) -> pl.DataFrame:
    """Rename ``category``, data set by data set; ``*`` stands for those that have no mapping of their own.

    Classes without a target keep their names.
    """
    if not mappings or boxes.is_empty():
        return boxes
    category = pl.col("category")
    for dataset in boxes["dataset"].unique():
        mapping = mappings.get(dataset, mappings.get("*"))
        if mapping is not None:
            renamed = pl.col("category").replace(mapping.of_source)
            category = pl.when(pl.col("dataset") == dataset).then(renamed).otherwise(category)
    return boxes.with_columns(category.alias("category"))


def read_mapping(path: Path) -> ClassMapping:
    """Read a mapping file. Raises :class:`ConfigError` for another form, or a source with two targets."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: the class mapping cannot be read: {error}") from error
    entries = content if isinstance(content, list) else [content]
    of_source: dict[str, str] = {}
    targets: list[str] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: {entry!r}; expected a list of `target: [source, …]`")
        for target, sources in entry.items():
            names = sources if isinstance(sources, list) else [sources]
            if not isinstance(target, str) or not all(isinstance(name, str) for name in names) or not names:
                raise ConfigError(
                    f"{path}: {target!r}: {sources!r}; expected names (quote a yes, no or number)"
                )
            if target not in targets:
                targets.append(target)
            for name in names:
                if of_source.setdefault(name, target) != target:
                    raise ConfigError(
                        f"{path}: the class {name!r} has the targets {of_source[name]!r} and {target!r}"
                    )
    return ClassMapping(tuple(targets), of_source)
