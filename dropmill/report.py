"""What a lake holds, what is wrong in it, what was trained on it: one report for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dropmill.cli.tables import print_rows
from ingest.gates import DatasetState, judge_dataset
from quality.balance import Balance, ClassShare
from quality.gate import Thresholds
from quality.limits import Limits
from storage.lake import Lake
from storage.schemas import TABLES
from storage.sql import Rows

QUESTIONS = {
    "Which classes are there, and how large are they?": """
        SELECT dataset, category, count(*) AS boxes, count(DISTINCT sample) AS images,
               round(avg(width), 1) AS mean_width, round(avg(height), 1) AS mean_height
        FROM boxes WHERE NOT ignore GROUP BY ALL ORDER BY boxes DESC LIMIT 12""",
    "How are images and boxes spread over the splits?": """
        SELECT i.dataset, coalesce(i.split, '(none)') AS split, count(DISTINCT i.sample) AS images,
               count(a.instance) AS boxes, round(count(a.instance) / count(DISTINCT i.sample), 2) AS per_image
        FROM images i LEFT JOIN annotations a USING (dataset, sample)
        GROUP BY ALL ORDER BY 1, 3 DESC LIMIT 12""",
    "Which images are the most crowded?": """
        SELECT dataset, sample, count(*) AS boxes, count(DISTINCT category) AS classes,
               round(sum(area) / any_value(i.width * i.height), 3) AS covered
        FROM boxes JOIN (SELECT dataset, sample, width, height FROM images) i USING (dataset, sample)
        GROUP BY dataset, sample ORDER BY boxes DESC, sample LIMIT 5""",
}
_FINDINGS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that ``dropmill status`` tells of one lake."""

    lake: str
    rows: Mapping[str, int]
    datasets: tuple[DatasetState, ...]
    rules: Rows
    """Findings by data set, rule and correction."""
    findings: Rows
    """Some findings, those about boxes first."""
    answers: Mapping[str, tuple[str, Rows]]
    """Question to query and answer."""
    runs: tuple[dict[str, Any], ...]
    models: tuple[dict[str, Any], ...]
    stages: Mapping[str, float]
    """Seconds of each stage, from the tables."""

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "lake": self.lake,
            "rows": dict(self.rows),
            "datasets": [
                {
                    "dataset": state.dataset,
                    "images": state.images,
                    "labelled_images": state.labelled_images,
                    "labels": state.delivered,
                    "gate": state.gate.verdict.value,
                    "reasons": list(state.gate.reasons),
                    "imbalance": state.balance.imbalance if state.balance.classes else None,
                    "entropy": state.balance.entropy,
                    "classes": [_class(state.balance, share) for share in state.balance.classes],
                    "splits": {name: balance.counts for name, balance in state.by_split.items()},
                    "drift": [asdict(d) for d in (*state.split_drift, state.drop_drift) if d is not None],
                }
                for state in self.datasets
            ],
            "rules": json.loads(self.rules.json()),
            "findings": json.loads(self.findings.json()),
            "answers": {
                question: {"sql": " ".join(sql.split()), "rows": json.loads(rows.json())}
                for question, (sql, rows) in self.answers.items()
            },
            "runs": [_plain(run) for run in self.runs],
            "models": [_plain(model) for model in self.models],
            "stages": {name: round(seconds, 2) for name, seconds in self.stages.items()},
        }


def make_report(lake: Lake, thresholds: Thresholds | None = None, limits: Limits | None = None) -> Report:
    """Read the report from the tables; the gate judges by ``thresholds``."""
    names = [
        row["dataset"]
        for row in lake.sql(
            "SELECT dataset FROM objects WHERE state <> 'removed' GROUP BY dataset ORDER BY dataset"
        ).to_pylist()
    ]
    runs = tuple(lake.sql("SELECT * FROM runs ORDER BY submitted_at").to_pylist())
    return Report(
        lake=lake.url,
        rows={name: lake.table(name).to_pyarrow_dataset().count_rows() for name in TABLES},
        datasets=tuple(judge_dataset(lake, name, thresholds, limits=limits) for name in names),
        rules=lake.sql(
            """SELECT dataset, rule, any_value(severity) AS severity, count(*) AS findings,
                      coalesce(any_value(split_part(correction, ' ', 1)), 'reported') AS done
               FROM findings GROUP BY dataset, rule, split_part(correction, ' ', 1) ORDER BY findings DESC"""
        ),
        findings=lake.sql(
            """SELECT rule, sample, category, observed, correction FROM findings
               ORDER BY instance IS NULL, rule, dataset, sample LIMIT $1""",
            parameters=[_FINDINGS_SHOWN],
        ),
        answers={question: (sql, lake.sql(sql)) for question, sql in QUESTIONS.items()},
        runs=runs,
        models=tuple(lake.sql("SELECT * FROM models ORDER BY made_at, kind").to_pylist()),
        stages=_stages(lake, runs),
    )


def print_report(report: Report, console: Console) -> None:
    """Print the report for people."""
    table = _table("rows", "table", "rows", "where")
    for name, count in report.rows.items():
        table.add_row(name, str(count), f"{report.lake}/tables/{name}")
    console.print(table)
    for state in report.datasets:
        _print_dataset(state, console)
    if len(report.rules):
        print_rows(report.rules, console, title="findings by rule")
        print_rows(report.findings, console, title=f"the first {_FINDINGS_SHOWN} findings")
    for question, (sql, rows) in report.answers.items():
        console.print()
        console.print(f"[bold]{escape(question)}[/bold]")
        console.print(f"[dim]{escape(' '.join(sql.split()))}[/dim]", highlight=False)
        print_rows(rows, console, title="")
    _print_runs(report, console)
    if report.stages:
        table = _table("seconds of each stage", "stage", "seconds")
        for name, seconds in report.stages.items():
            table.add_row(escape(name), f"{seconds:.1f}")
        console.print(table)


def _print_dataset(state: DatasetState, console: Console) -> None:
    console.print()
    console.print(
        f"[bold]{escape(state.dataset)}[/bold]: {state.images} images, {state.labelled_images} labelled, "
        f"{state.delivered} label rows, gate [bold]{state.gate.verdict.value}[/bold]",
        highlight=False,
    )
    for reason in state.gate.reasons:
        console.print(f"  {escape(reason)}", highlight=False)
    weights = state.balance.class_weights()
    table = _table("class shares", "class", "boxes", "images", "share", "weight", *state.by_split, "")
    largest = max((share.share for share in state.balance.classes), default=1)
    for share in state.balance.classes:
        bar = "█" * max(1, round(30 * share.share / largest))
        splits = [_part(balance, share.category) for balance in state.by_split.values()]
        table.add_row(
            escape(share.category),
            str(share.boxes),
            str(share.images),
            f"{share.share:.1%}",
            f"{weights[share.category]:.2f}",
            *splits,
            bar,
        )
    console.print(table)
    for drift in (*state.split_drift, state.drop_drift):
        if drift is not None:
            console.print(f"  {escape(str(drift))}", highlight=False)


def _part(balance: Balance, category: str) -> str:
    """The share of a class in a split."""
    return f"{balance.counts.get(category, 0) / balance.boxes:.1%}" if balance.boxes else ""


def _class(balance: Balance, share: ClassShare) -> dict[str, Any]:
    return asdict(share) | {
        "effective_number": round(share.effective_number(), 1),
        "weight": round(balance.class_weights()[share.category], 4),
    }


def _print_runs(report: Report, console: Console) -> None:
    if not report.runs:
        return
    table = _table(
        "runs", "run", "state", "mAP50", "exported", "test split", "images", "epochs", "AP50 by class"
    )
    for run in report.runs:
        metrics = json.loads(run["metrics"] or "{}")
        classes = {
            name.removeprefix(_CLASS_METRIC): value
            for name, value in metrics.items()
            if name.startswith(_CLASS_METRIC)
        }
        table.add_row(
            escape(run["run"]),
            run["state"],
            *(_number(metrics.get(name), ".3f") for name in ("mAP50", "exported_mAP50", "test_mAP50")),
            str(run["labelled_images"]),
            _number(metrics.get("epochs"), ".0f"),
            escape(", ".join(f"{name} {value:.2f}" for name, value in classes.items())),
        )
    console.print(table)
    for run in report.runs:
        if run["error"]:
            console.print(f"[red]{escape(run['run'])}[/red]: {escape(run['error'])}", highlight=False)
    table = _table("files", "kind", "size", "made with", "where")
    for model in report.models:
        details = json.loads(model["metrics"] or "{}")
        made_with = (
            f"{details['backend']} {details['version']}" if "backend" in details else model["architecture"]
        )
        table.add_row(model["kind"], _size(model["size_bytes"]), escape(made_with), escape(model["uri"]))
    console.print(table)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _stages(lake: Lake, runs: tuple[dict[str, Any], ...]) -> dict[str, float]:
    batches = lake.sql(
        "SELECT count(*) AS n, sum(epoch(done_at) - epoch(planned_at)) AS s FROM batches WHERE state = 'done'"
    ).to_pylist()[0]
    stages = {}
    if batches["n"]:
        stages[f"parse, check and commit ({batches['n']} batches)"] = float(batches["s"])
    for run in runs:
        metrics = json.loads(run["metrics"] or "{}")
        for name, value in metrics.items():
            if name.endswith("_s"):
                stages[f"{run['run']}: {name.removesuffix('_s').replace('_', ' ')}"] = float(value)
    return stages


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        right = column in {
            "rows",
            "boxes",
            "images",
            "share",
            "weight",
            "seconds",
            "size",
            "mAP50",
            "exported",
            "epochs",
        }
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of runs or models with its JSON columns opened."""
    opened = {
        name: json.loads(value)
        if name in {"snapshot", "parameters", "metrics", "outputs"} and value
        else value
        for name, value in row.items()
    }
    return {name: value if isinstance(value, _JSON) else str(value) for name, value in opened.items()}


_CLASS_METRIC = "val_ap50/"
_JSON = (str, int, float, bool, dict, list, type(None))
