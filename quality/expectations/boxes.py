"""Expectations for boxes in pandas frames: those of the rules, and some with limits of their own.

Boxes are corners ``xmin, ymin, xmax, ymax`` in pixels, with ``width`` and ``height`` of their image.
Importing this module makes the expectations known to Great Expectations, for suites of any project::

    import quality.expectations.boxes as boxes

    share = boxes.ExpectClassShareBetween(category="car", min_value=0.1, max_value=0.6)
    suite = gx.ExpectationSuite(name="mine", expectations=[boxes.ExpectBoxesWithinImage(), share])
"""

# No postponed annotations here: Great Expectations reads those of fields at run time.
from abc import abstractmethod
from html import escape
from typing import Any, ClassVar, Literal

import pandas as pd
import polars as pl
from great_expectations.compatibility import pydantic
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnAggregateExpectation, MulticolumnMapExpectation
from great_expectations.expectations.metrics.column_aggregate_metric_provider import (
    ColumnAggregateMetricProvider,
    column_aggregate_value,
)
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_condition_partial import (
    multicolumn_condition_partial,
)
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_map_metric_provider import (
    MulticolumnMapMetricProvider,
)
from great_expectations.render.components import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer

from quality.measures import MEASURES, find_twins, measure
from quality.rules import ADVISORY_RULES, CORNERS, RULES, Rule

CORNER_COLUMNS = list(CORNERS)
BOX_COLUMNS = [*CORNERS, "width", "height"]
TWIN_COLUMNS = ["sample", "category", *CORNERS]
_RULES = {rule.name: rule for rule in (*RULES, *ADVISORY_RULES)}


def columns_of(rule: Rule, available: list[str]) -> list[str]:
    """The columns of a frame that a rule looks at, or that its measures are made of."""
    wanted = [*BOX_COLUMNS, *rule.measures]
    if {"twin", "twin_iou"} & set(rule.measures):
        wanted += ["dataset", "sample", "category", "instance", "ignore"]
    if any(name.startswith("mask_") for name in rule.measures):
        wanted += ["segmentation"]
    if "listed" in rule.measures:
        wanted += ["category"]
    return [name for name in dict.fromkeys(wanted) if name in available]


class _BoxMetric(MulticolumnMapMetricProvider):
    condition_domain_keys = (
        "batch_id",
        "table",
        "column_list",
        "row_condition",
        "condition_parser",
        "ignore_row_if",
    )


class _RuleMetric(_BoxMetric):
    condition_metric_name = "boxes.rule"
    condition_value_keys = ("rule",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: pd.DataFrame, rule: str, **_: Any) -> pd.Series:  # noqa: N805
        found = _RULES[rule]
        frame = measure(_polars(column_list), found.measures)
        broken = frame.select(found.broken.fill_null(value=False)).to_series()
        return pd.Series(~broken.to_numpy(), index=column_list.index)


class _WithinMetric(_BoxMetric):
    condition_metric_name = "boxes.within_image"
    condition_value_keys = ("tolerance_px",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: pd.DataFrame, tolerance_px: float = 0.0, **_: Any) -> pd.Series:  # noqa: N805
        x1, y1, x2, y2, width, height = (column_list.iloc[:, i] for i in range(6))
        low = (x1 >= -tolerance_px) & (y1 >= -tolerance_px) & (x2 >= -tolerance_px) & (y2 >= -tolerance_px)
        wide, high = width + tolerance_px, height + tolerance_px
        return low & (x1 <= wide) & (x2 <= wide) & (y1 <= high) & (y2 <= high)


class _SideMetric(_BoxMetric):
    condition_metric_name = "boxes.side"
    condition_value_keys = ("min_side_px",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: pd.DataFrame, min_side_px: float = 0.0, **_: Any) -> pd.Series:  # noqa: N805
        x1, y1, x2, y2 = (column_list.iloc[:, i] for i in range(4))
        side = (x2 - x1).combine(y2 - y1, min)
        return (side > 0) & (side >= min_side_px)


class _AspectMetric(_BoxMetric):
    condition_metric_name = "boxes.aspect"
    condition_value_keys = ("max_aspect",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: pd.DataFrame, max_aspect: float = 20.0, **_: Any) -> pd.Series:  # noqa: N805
        x1, y1, x2, y2 = (column_list.iloc[:, i] for i in range(4))
        wide, high = (x2 - x1).abs(), (y2 - y1).abs()
        return (wide <= max_aspect * high) & (high <= max_aspect * wide)


class _TwinMetric(_BoxMetric):
    condition_metric_name = "boxes.unlike"
    condition_value_keys = ("max_iou",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls, column_list: pd.DataFrame, max_iou: float = 0.9, **_: Any) -> pd.Series:  # noqa: N805
        frame = _polars(column_list)
        frame = frame.rename(dict(zip(frame.columns, TWIN_COLUMNS, strict=True)))
        twins = find_twins(frame, min_iou=max_iou)
        unlike = pd.Series(data=True, index=column_list.index)
        unlike.iloc[twins.second[twins.iou > max_iou]] = False
        return unlike


class _ShareMetric(ColumnAggregateMetricProvider):
    metric_name = "column.class_share"
    value_keys = ("category",)

    @column_aggregate_value(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, category: str, **_: Any) -> float:  # noqa: N805
        return float((column == category).mean()) if len(column) else 0.0


class _Said:
    """How an expectation is put in words, in Data Docs and elsewhere."""

    @classmethod
    @abstractmethod
    def _words(cls, given: dict[str, Any]) -> str:
        """What is expected with the arguments ``given``."""

    @classmethod
    def _prescriptive_template(cls, renderer_configuration: Any) -> Any:
        renderer_configuration.template_str = _template(cls._words(renderer_configuration.kwargs))
        return renderer_configuration

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[Any]:
        del runtime_configuration
        config = configuration or (result.expectation_config if result else None)
        given = config.kwargs if config else {}
        template = {"template": _template(cls._words(given)), "params": {}}
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=template)]


class _BoxExpectation(_Said, MulticolumnMapExpectation):
    """What all expectations for boxes have in common."""

    said: ClassVar[str] = ""
    ignore_row_if: Literal["all_values_are_missing", "any_value_is_missing", "never"] = "never"

    @classmethod
    def _words(cls, given: dict[str, Any]) -> str:
        defaults = {name: field.default for name, field in cls.__fields__.items()}
        mostly = float(given.get("mostly", 1) or 1)
        share = f" This must hold for {mostly:.4g} of them." if mostly < 1 else ""
        return cls.said.format(**{**defaults, **given}) + share


class ExpectBoxesToPassRule(_BoxExpectation):
    """Boxes must not break a rule of :mod:`quality.rules`, named by ``rule``."""

    column_list: list[str] = BOX_COLUMNS
    rule: str
    map_metric = "boxes.rule"
    success_keys = ("mostly", "rule")
    args_keys = ("column_list", "rule")

    @pydantic.validator("rule")
    def _known(cls, value: str) -> str:  # noqa: N805
        if value not in _RULES:
            raise ValueError(f"no rule {value!r}; there are {', '.join(_RULES)}")
        return value

    @classmethod
    def _words(cls, given: dict[str, Any]) -> str:
        rule = _RULES.get(given.get("rule", ""))
        return (
            f"No box may break the rule {rule.name}: {rule.documentation}" if rule else "Boxes pass a rule."
        )


class ExpectBoxesWithinImage(_BoxExpectation):
    """No corner may lie outside the image by more than ``tolerance_px``.

    ``column_list`` has six columns: xmin, ymin, xmax, ymax, and the image's width and height.
    """

    column_list: list[str] = BOX_COLUMNS
    tolerance_px: float = 0.0
    map_metric = "boxes.within_image"
    success_keys = ("mostly", "tolerance_px")
    args_keys = ("column_list", "tolerance_px")
    said = "Boxes must lie within their image, give or take {tolerance_px:g} px."


class ExpectBoxSidesAtLeast(_BoxExpectation):
    """Width and height must be above 0, and ``min_side_px`` or more."""

    column_list: list[str] = CORNER_COLUMNS
    min_side_px: float = 0.0
    map_metric = "boxes.side"
    success_keys = ("mostly", "min_side_px")
    args_keys = ("column_list", "min_side_px")
    said = "Both sides of a box must be above 0, and {min_side_px:g} px or more."


class ExpectBoxAspectAtMost(_BoxExpectation):
    """The longer side must be at most ``max_aspect`` times the shorter."""

    column_list: list[str] = CORNER_COLUMNS
    max_aspect: float = 20.0
    map_metric = "boxes.aspect"
    success_keys = ("mostly", "max_aspect")
    args_keys = ("column_list", "max_aspect")
    said = "The longer side of a box must be at most {max_aspect:g} times the shorter."


class ExpectNoDuplicateBoxes(_BoxExpectation):
    """No two boxes of one image and class may have an IoU above ``max_iou`` (0.5 to 1).

    ``column_list`` has six columns: image, class, xmin, ymin, xmax, ymax. The later of a pair is unexpected.
    """

    column_list: list[str] = TWIN_COLUMNS
    max_iou: float = 0.9
    map_metric = "boxes.unlike"
    success_keys = ("mostly", "max_iou")
    args_keys = ("column_list", "max_iou")
    said = "No two boxes of one image and class may have an IoU above {max_iou:g}."


class ExpectClassShareBetween(_Said, ColumnAggregateExpectation):
    """The share of one class of all boxes (0 to 1) must lie between ``min_value`` and ``max_value``."""

    column: str = "category"
    category: str
    min_value: float | None = None
    max_value: float | None = None
    strict_min: bool = False
    strict_max: bool = False
    metric_dependencies = ("column.class_share",)
    success_keys = ("category", "min_value", "strict_min", "max_value", "strict_max")
    args_keys = ("column", "category", "min_value", "max_value", "strict_min", "strict_max")

    @classmethod
    def _words(cls, given: dict[str, Any]) -> str:
        low, high = given.get("min_value"), given.get("max_value")
        least, most = 0.0 if low is None else low, 1.0 if high is None else high
        return f"The share of the class {given.get('category')} must lie between {least:g} and {most:g}."

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: Any = None,
    ) -> Any:
        return self._validate_metric_value_between(
            metric_name="column.class_share",
            metrics=metrics,
            runtime_configuration=runtime_configuration,
            execution_engine=execution_engine,
        )


def _template(text: str) -> str:
    # Templates go into pages as they are, and a dollar sign would begin a parameter.
    return escape(text).replace("$", "$$")


def _polars(frame: pd.DataFrame) -> pl.DataFrame:
    """A pandas frame in polars: NaN of a missing number and NaN of a number that is none are one in pandas,
    and stay NaN.
    """
    columns = {}
    for name in frame.columns:
        values = frame[name]
        if name in MEASURES and values.isna().all():
            # Nothing is known, not even the type: it is measured anew, or takes its default.
            continue
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = pl.Series(values.to_numpy())
        else:
            texts = [None if pd.isna(value) else value for value in values.tolist()]
            known = any(text is not None for text in texts)
            columns[str(name)] = pl.Series(texts, dtype=None if known else pl.String)
    return pl.DataFrame(columns)
