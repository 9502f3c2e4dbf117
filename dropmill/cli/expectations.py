"""``dropmill dataset expectations``: the rules as a Great Expectations suite, and suites of users' own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from dropmill.extras import require


@click.group("expectations")
def expectations() -> None:
    """Great Expectations: the rules as a suite, and suites of your own over any table."""


@expectations.command("export")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of the output.")
def export(out: Path | None) -> None:
    """Print the rules as an ExpectationSuite (JSON).

    A project that has done `import quality.expectations.boxes` can load it; its columns are those of the
    table annotations, with width and height of the image.
    """
    require("quality")
    from quality.expectations.suite import rules_suite
    from storage.schemas import ANNOTATIONS

    suite = rules_suite([*ANNOTATIONS.names, "width", "height", "listed"])
    text = json.dumps(suite.to_json_dict(), indent=2)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{len(suite.expectations)} expectations in {out}")


@expectations.command("run")
@click.option("--lake", "lake_url", required=True, help="Folder or URL of the lake.")
@click.option("--dataset", required=True, help="One of its data sets.")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    required=True,
    metavar="FILE|MODULE:NAME",
    help="A suite: a JSON file, or a Python object, whose module is run (may be repeated).",
)
@click.option("--table", default="annotations", show_default=True, help="A table or view of the lake.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False), help="Folder for the Data Docs.")
@click.option("--note/--no-note", default=True, show_default=True, help="Write what fails to `findings`.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def run(
    lake_url: str,
    dataset: str,
    suites: tuple[str, ...],
    table: str,
    docs: Path | None,
    *,
    note: bool,
    as_json: bool,
) -> int:
    """Run suites over a table as a checkpoint with Data Docs; exit status 1 where one fails.

    Rows that fail become rows of `findings`, in place of those of the suite's last run.
    """
    require("quality")
    from ingest.set_findings import note_run, run_suites_on_table
    from storage.lake import Lake

    # Python finds the user's own modules where the command is run.
    sys.path.insert(0, "")
    lake = Lake.open(lake_url)
    done = run_suites_on_table(lake, dataset, suites, table=table, docs=docs)
    if note:
        note_run(lake, done)
    if as_json:
        outcomes = [
            {"suite": name, "success": good, "failed": list(bad)} for name, good, bad in done.outcomes
        ]
        click.echo(json.dumps({"suites": outcomes, "findings": done.findings.height, "docs": done.docs}))
    else:
        for name, good, bad in done.outcomes:
            click.echo(f"{name}: {'passed' if good else 'failed: ' + ', '.join(bad)}")
        click.echo(
            f"{done.findings.height} findings{'' if note else ' (not written)'}; Data Docs: {done.docs}"
        )
    return 0 if all(good for _, good, _ in done.outcomes) else 1
