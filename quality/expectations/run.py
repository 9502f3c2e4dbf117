"""Suites run as checkpoints: Data Docs on disk, and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
import polars as pl
from great_expectations.checkpoint.actions import UpdateDataDocsAction
from great_expectations.data_context.types.base import ProgressBarsConfig

from quality.expectations.docs import make_self_contained
from quality.expectations.suite import load_suite, rules_suite
from quality.review import Review
from quality.sets import findings_of

_SEVERITIES = {"critical": "error", "warning": "warning", "info": "info"}
_WHO = ["sample", "source", "instance", "key"]
_MOST_FINDINGS = 1_000


@dataclass(frozen=True, kw_only=True)
class SuiteResults:
    """``outcomes``: suite, success, names of what failed; ``findings``: rows of the table, of the users'
    suites; ``docs``: the first page of the Data Docs.
    """

    outcomes: tuple[tuple[str, bool, tuple[str, ...]], ...]
    findings: pl.DataFrame
    docs: Path


def run_suites(review: Review, folder: Path, sources: Sequence[str] = ()) -> SuiteResults:
    """Run the rules and the users' suites over the boxes of a review, as delivered.

    ``folder`` becomes a Great Expectations project, with its Data Docs in it. ``sources`` as in
    :func:`quality.expectations.suite.load_suite`.
    """
    boxes = review.material.boxes
    listed = list(review.material.categories)
    frame = boxes.with_columns(pl.col("category").is_in(listed).alias("listed")) if listed else boxes
    own = rules_suite(frame.columns, review.rules)
    return run_on_frame(
        pandas_of(frame),
        [own, *map(load_suite, sources)],
        folder,
        dataset=review.material.dataset,
        own=own.name,
    )


def run_on_frame(
    frame: pd.DataFrame,
    suites: Sequence[gx.ExpectationSuite],
    folder: Path,
    *,
    dataset: str,
    own: str | None = None,
    table: str = "annotations",
) -> SuiteResults:
    """Run suites as one checkpoint over any pandas frame; the suite named ``own`` gives no findings.

    An expectation gives up to 1,000 findings, one per unexpected row, and one that says how many more there
    are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=folder)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_or_update_pandas(table)
    name = dataset or table
    known = {asset.name for asset in source.assets}
    asset = source.get_asset(name) if name in known else source.add_dataframe_asset(name)
    batches = {batch.name for batch in asset.batch_definitions}
    batch = (
        asset.get_batch_definition("all")
        if "all" in batches
        else asset.add_batch_definition_whole_dataframe("all")
    )
    definitions = []
    for suite in suites:
        kept = context.suites.add_or_update(suite)
        definitions.append(
            context.validation_definitions.add_or_update(
                gx.ValidationDefinition(name=kept.name, data=batch, suite=kept)
            )
        )
    who = [column for column in _WHO if column in frame.columns]
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name="dropmill",
            validation_definitions=definitions,
            actions=[UpdateDataDocsAction(name="docs")],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": who}
            if who
            else "COMPLETE",
        )
    )
    result = checkpoint.run(batch_parameters={"dataframe": frame})
    outcomes, rows = [], []
    for validation in result.run_results.values():
        failed = [outcome for outcome in validation.results if not outcome.success]
        names = tuple(_name(outcome) for outcome in failed)
        outcomes.append((validation.suite_name, bool(validation.success), names))
        if validation.suite_name != own:
            rows += [row for outcome in failed for row in _findings(outcome, validation.suite_name, dataset)]
    site = folder / "gx" / "uncommitted" / "data_docs" / "local_site"
    make_self_contained(site)
    return SuiteResults(outcomes=tuple(outcomes), findings=findings_of(rows), docs=site / "index.html")


def pandas_of(boxes: pl.DataFrame) -> pd.DataFrame:
    """Boxes for Great Expectations: plain numpy columns, objects for texts."""
    flat = boxes.select(name for name, dtype in boxes.schema.items() if not dtype.is_nested())
    return pd.DataFrame(
        {
            name: flat[name].to_numpy() if flat[name].dtype.is_numeric() else flat[name].to_list()
            for name in flat.columns
        }
    )


def _name(outcome: Any) -> str:
    kwargs = outcome.expectation_config.kwargs
    return str(kwargs.get("rule") or outcome.expectation_config.type)


def _findings(outcome: Any, suite: str, dataset: str) -> list[dict[str, Any]]:
    """One row per unexpected box, or one for the whole table where an expectation is about that."""
    config, result = outcome.expectation_config, outcome.result
    shared = {
        "dataset": dataset,
        "rule": config.type,
        "severity": _SEVERITIES.get(
            str(getattr(config, "severity", None) or "critical").split(".")[-1].lower(), "error"
        ),
    }
    unexpected = result.get("unexpected_index_list") or []
    found = []
    for row in unexpected[:_MOST_FINDINGS]:
        fields = row if isinstance(row, dict) else {"row": row}
        values = {name: value for name, value in fields.items() if name not in _WHO}
        who = {name: fields[name] for name in _WHO if name in fields}
        if "key" in who:
            who = {"source": who["key"], **who}
        said = ", ".join(f"{name} {value}" for name, value in values.items()) or _name(outcome)
        found.append({**shared, **who, "observed": f"{suite}: {said}"})
    if len(unexpected) > _MOST_FINDINGS:
        found.append({**shared, "observed": f"{suite}: {len(unexpected) - _MOST_FINDINGS} more rows"})
    if not found:
        reason = result.get("observed_value")
        if reason is None:
            reason = (outcome.exception_info or {}).get("exception_message") or "not met"
        found.append({**shared, "observed": f"{suite}: observed {reason}"})
    return found
