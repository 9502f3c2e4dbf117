"""``dropmill dataset analytics``: graphs and checks of a data set, from the specs of TAO data services."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dropmill.analytics_spec import AnalyticsSpec, load_analytics_spec
from dropmill.cli import spec_options
from storage.errors import ConfigError, UnknownKeyError

_log = logging.getLogger(__name__)
_DRAWN_IN_REPORT = 12


@click.group("analytics")
def analytics() -> None:
    """Look at a data set, and check it."""


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    for decorator in (
        spec_options.overrides,
        spec_options.as_json,
        click.option("--dataset", help="The data set of the lake."),
        click.option("--lake", help="Look at a data set of this lake instead of the spec's folders."),
        spec_options.spec_file,
    ):
        command = decorator(command)
    return command


@analytics.command("analyze")
@_shared
def analyze(
    spec_file: Path | None,
    overrides: tuple[str, ...],
    lake: str | None,
    dataset: str | None,
    *,
    as_json: bool,
) -> None:
    """Draw graphs of a data set, its images with boxes and masks, and one HTML report.

    \b
    dropmill dataset analytics analyze -e analytics.yaml graph.show_all=True
    """  # noqa: D301
    spec = _spec(spec_file, overrides, lake)
    with _status(spec, lake, "analysis") as status:
        from quality.drawing import draw_sample
        from quality.graphs import save_graphs
        from quality.html_report import write_report
        from quality.pages import chapters
        from quality.summary import summarise

        job = _read(spec, lake, dataset, correct=False)
        summary, shown = summarise(job.review), chapters(job.review, show_all=spec.graph.show_all)
        _write_tables(job, spec.output)
        pictures: tuple[Path, ...] = ()
        if spec.image.generate_image_with_bounding_box:
            from dropmill.delivered import open_uri

            folder = spec.output / "image_with_bounding_boxes"
            images = job.review.material.images
            click.echo("Generating images with bounding boxes and labels.")
            click.echo(f"Total image files- {images.height}")
            with job.progress("drawing", min(spec.image.sample_size, images.height)) as step:
                drawn = draw_sample(
                    images,
                    job.review.boxes,
                    folder,
                    size=spec.image.sample_size,
                    read=open_uri,
                    progress=step,
                )
            pictures = drawn.files
            for reason in drawn.failed:
                click.echo(f"not drawn: {reason}", err=True)
            click.echo(f"Images with bounding boxes are available at {folder}")
        if spec.wandb.visualize:
            from quality.wandb_log import log_report

            click.echo("Initializing wandb.")
            log_report(
                shown,
                pictures,
                folder=spec.output,
                size=(spec.graph.width, spec.graph.height),
                **spec.wandb.model_dump(exclude={"visualize"}),
            )
        elif spec.graph.generate_summary_and_graph:
            with job.progress("graphs", len(shown)) as step:
                save_graphs(
                    shown,
                    spec.output / "graphs",
                    width=spec.graph.width,
                    height=spec.graph.height,
                    progress=lambda _name: step(1),
                )
            click.echo(f"Created Graphs inside {spec.output} folder")
        report = spec.output / "report.html"
        write_report(report, job.review, summary, shown, pictures=pictures[:_DRAWN_IN_REPORT])
        click.echo(f"The report is {report}")
        status.facts = _facts(job.review, summary)
    if as_json:
        click.echo(json.dumps(status.facts))


@analytics.command("validate")
@_shared
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="FILE|MODULE:NAME",
    help="A Great Expectations suite of your own (JSON file, or Python object) for the table of annotations.",
)
@click.option(
    "--data-docs", is_flag=True, help="Run the rules in Great Expectations too, and write Data Docs."
)
@click.option("--check", is_flag=True, help="Exit status 1 where the gate fails.")
def validate(
    spec_file: Path | None,
    overrides: tuple[str, ...],
    lake: str | None,
    dataset: str | None,
    suites: tuple[str, ...],
    *,
    as_json: bool,
    data_docs: bool,
    check: bool,
) -> None:
    """Count what is wrong with the boxes of a data set, and write corrected files if asked to.

    \b
    dropmill dataset analytics validate -e validate.yaml apply_correction=True
    """  # noqa: D301
    spec = _spec(spec_file, overrides, lake)
    with _status(spec, lake, "validation") as status:
        from quality.summary import summarise

        job = _read(spec, lake, dataset, correct=spec.apply_correction)
        summary = summarise(job.review)
        click.echo("\n".join(summary.lines()))
        _echo_further(job.review)
        findings = spec.output / "findings.csv"
        findings.parent.mkdir(parents=True, exist_ok=True)
        job.review.findings.write_csv(findings)
        click.echo(f"All findings are in {findings}")
        if spec.apply_correction:
            _echo_corrected(job, spec.output, None if lake else Path(spec.data.ann_path))
        if suites or data_docs:
            _run_suites(job.review, spec.output, suites)
        click.echo(f"Gate: {job.review.gate.verdict.value}")
        for reason in job.review.gate.reasons:
            click.echo(f"  {reason}")
        status.facts = _facts(job.review, summary)
    if as_json:
        click.echo(json.dumps(status.facts))
    if check and job.review.gate.verdict.value == "fail":
        sys.exit(1)


@dataclass
class _Job:
    delivered: Any
    review: Any
    progress: Callable[[str, int], Any]


def _spec(spec_file: Path | None, overrides: Sequence[str], lake: str | None) -> AnalyticsSpec:
    # With a lake, the labels' place and form are known.
    known = ("data.input_format=auto", f"data.ann_path={lake}") if lake else ()
    return load_analytics_spec(spec_file, (*known, *overrides))


def _read(spec: AnalyticsSpec, lake: str | None, dataset: str | None, *, correct: bool) -> _Job:
    from dropmill.delivered import look_at_images, read_folder, read_lake
    from quality.gate import Thresholds
    from quality.limits import Limits
    from quality.review import review

    limits = Limits(**_known("limits", spec.limits, Limits))
    thresholds = Thresholds(**_known("gate", spec.gate, Thresholds))
    if lake:
        if not dataset:
            raise ConfigError("--lake needs --dataset: the name of one of its data sets")
        from storage.lake import Lake

        delivered = read_lake(Lake.open(lake), dataset)
    else:
        images = Path(spec.data.image_dir) if spec.data.image_dir else None
        with _progress("reading", None) as step:
            delivered = read_folder(
                Path(spec.data.ann_path),
                images,
                form=spec.form,
                workers=spec.workers,
                progress=lambda _what, steps: step(steps),
            )
    looks = None
    if delivered.material.pixels:
        with _progress("looking at images", delivered.material.images.height) as step:
            looks = look_at_images(
                delivered.material.images,
                workers=spec.workers,
                progress=lambda _what, steps: step(steps),
            )
    found = review(delivered.material, correct=correct, looks=looks, limits=limits, thresholds=thresholds)
    return _Job(delivered=delivered, review=found, progress=_progress)


def _known(section: str, values: Mapping[str, Any], settings: type) -> dict[str, Any]:
    names = [field.name for field in fields(settings)]
    for key in values:
        if key not in names:
            raise UnknownKeyError(section, key, names)
    return dict(values)


def _write_tables(job: _Job, folder: Path) -> None:
    """``valid_data.csv`` and ``invalid_data.csv``: boxes as delivered, with what is wrong with them."""
    import polars as pl

    names = {
        "category": "type",
        "truncation": "truncated",
        "occlusion": "occluded",
        "xmin": "bbox_xmin",
        "ymin": "bbox_ymin",
        "xmax": "bbox_xmax",
        "ymax": "bbox_ymax",
        "width": "img_width",
        "height": "img_height",
        "source": "path",
        "line": "line",
        "sample": "image_name",
    }
    boxes = job.review.boxes
    table = boxes.select(
        *(pl.col(old).alias(new) for old, new in names.items()),
        (pl.col("broke_negative_coordinate") | pl.col("broke_beyond_image")).alias("out_of_box_coordinates"),
        pl.col("broke_zero_area").alias("zero_area_bounding_box"),
        pl.col("broke_inverted_box").alias("inverted_coordinates"),
    )
    (folder / "csv").mkdir(parents=True, exist_ok=True)
    table.filter(~job.review.invalid).write_csv(folder / "csv" / "valid_data.csv")
    table.filter(job.review.invalid).write_csv(folder / "csv" / "invalid_data.csv")
    job.review.findings.write_csv(folder / "csv" / "findings.csv")


def _echo_further(review: Any) -> None:
    """What is wrong beyond corners: rules and how often they were broken."""
    import polars as pl

    from quality.rules import RULES

    corners = [rule.name for rule in RULES]
    more = (
        review.findings.filter(~pl.col("rule").is_in(corners))
        .group_by("rule", "severity", maintain_order=True)
        .len()
    )
    if more.height:
        click.echo("Further findings")
    for rule, severity, count in more.iter_rows():
        click.echo(f"  {count} {rule} ({severity})")


def _echo_corrected(job: _Job, folder: Path, annotations: Path | None) -> None:
    from dropmill.corrected import write_corrected

    origin = annotations.parent if annotations and annotations.is_file() else annotations
    written = write_corrected(job.delivered, job.review, folder, origin=origin)
    for form, files in (written or {job.delivered.material.format: ()}).items():
        click.echo(f"Total {form} files to be corrected - {len(files)}")
        if form in {"coco", "odvg"} and files:
            click.echo(f"Corrected {form} file is available at {', '.join(map(str, files))}")
        elif files:
            click.echo(f"Corrected {form} files are available at {folder / f'corrected_{form}_files'}")


def _run_suites(review: Any, folder: Path, suites: Sequence[str]) -> None:
    from quality.expectations.run import run_suites

    result = run_suites(review, folder / "great_expectations", suites)
    for name, success, failed in result.outcomes:
        said = "passed" if success else f"failed: {', '.join(failed)}"
        click.echo(f"Suite {name}: {said}")
    click.echo(f"Data Docs are at {result.docs}")


def _facts(review: Any, summary: Any) -> dict[str, Any]:
    return {
        "dataset": review.material.dataset,
        "format": review.material.format,
        "images": review.material.images.height,
        **{name: value for name, value in asdict(summary).items() if name != "tags"},
        "object_count": review.balance.counts,
        "class_weights": {name: round(w, 4) for name, w in review.balance.class_weights().items()},
        "entropy": round(review.balance.entropy, 4),
        "findings": {
            str(rule): count
            for rule, count in review.findings.group_by("rule").len().sort("rule").iter_rows()
        },
        "gate": review.gate.verdict.value,
        "reasons": list(review.gate.reasons),
    }


@dataclass
class _Status:
    facts: dict[str, Any]


@contextmanager
def _status(spec: AnalyticsSpec, lake: str | None, mode: str) -> Iterator[_Status]:
    """The lines at start and end, and the lines of ``status.json``."""
    form = "Lake" if lake else spec.data.input_format
    path = spec.output / "status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        click.echo(f"Log file already exists at {path}")
    click.echo(f"Starting Data-services {form.upper() if not lake else form} {mode}.")
    _append(path, "STARTED", f"Starting {form} {mode}.")
    status = _Status(facts={})
    try:
        yield status
    except BaseException as error:
        _append(path, "FAILURE", str(error) or type(error).__name__)
        click.echo("Execution status: FAIL")
        raise
    said = f"{form.capitalize()} {mode} finished successfully."
    _append(path, "SUCCESS", said, status.facts)
    click.echo(said)
    click.echo("Execution status: PASS")


def _append(path: Path, state: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
    now = datetime.now(UTC).astimezone()
    line = {"date": f"{now:%m/%d/%Y}", "time": f"{now:%H:%M:%S}", "status": state, "message": message}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, **({"kpi": facts} if facts else {})}) + "\n")


@contextmanager
def _progress(what: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if length is None or not sys.stderr.isatty():
        yield lambda _steps: None
        return
    with click.progressbar(length=length, label=what, file=sys.stderr) as bar:
        yield bar.update
