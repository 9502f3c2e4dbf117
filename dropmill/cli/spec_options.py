"""The options of commands that take a spec in YAML, under the names that TAO's commands have for them."""

from __future__ import annotations

from pathlib import Path

import click

spec_file = click.option(
    "-e",
    "--experiment_spec_file",
    "--experiment_spec",
    "spec_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Spec file (YAML); KEY=VALUE wins over it.",
)
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
as_json = click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
