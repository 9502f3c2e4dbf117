"""Which rules run on every drop, and with what limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from quality.limits import Limits
from quality.rules import FILE_RULES, MASK_RULES, PIXEL_RULES, RULES, Rule, advisory_rules
from storage.errors import ConfigError, UnknownKeyError

ALWAYS = frozenset(
    {"unreadable_file", "unknown_image", "ambiguous_image", "competing_labels", "unknown_category"}
)
"""Rules that cannot be left out: they say why rows are missing or wait."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rules of a service. Those that mend boxes always run; warnings can be left out by name.

    Raises UnknownKeyError for a name that is no rule, ConfigError for a rule that always runs.
    """

    skip: frozenset[str] = frozenset()
    """Warnings that are not looked for."""
    masks: bool = False
    """Look into segmentations: 17 CPU seconds for a million polygons, so only where asked for."""
    pixels: bool = False
    """Decode images in the read tasks, for repeated and uniform ones: some milliseconds an image."""
    limits: Limits = field(default_factory=Limits)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Data set to its list of classes; ``*`` is the list of all others."""

    def __post_init__(self) -> None:
        known = {rule.name for rule in advisory_rules()} | FILE_RULES.keys()
        for name in sorted(self.skip):
            if name in ALWAYS or any(rule.name == name for rule in RULES):
                raise ConfigError(f"the rule {name} cannot be left out; warnings alone can")
            if name not in known:
                raise UnknownKeyError("quality.rules.skip", name, sorted(known - ALWAYS))

    def runs(self, rule: str) -> bool:
        """Whether a rule is looked for."""
        if rule in self.skip:
            return False
        return not (rule in MASK_RULES and not self.masks) and not (rule in PIXEL_RULES and not self.pixels)

    def box_rules(self) -> tuple[Rule, ...]:
        """The rules for boxes, those that correct first."""
        more = [rule for rule in advisory_rules(self.limits) if self.runs(rule.name)]
        return (*RULES, *more)

    def with_lists(self, boxes: pl.DataFrame) -> pl.DataFrame:
        """Boxes with ``listed``: is their class in the list of their data set; null without a list."""
        listed = pl.lit(None, pl.Boolean)
        if "*" in self.classes:
            listed = pl.col("category").is_in(list(self.classes["*"]))
        for dataset, names in self.classes.items():
            if dataset != "*":
                own = pl.col("category").is_in(list(names))
                listed = pl.when(pl.col("dataset") == dataset).then(own).otherwise(listed)
        return boxes.with_columns(listed.alias("listed"))
