"""The options of commands that work on a lane by hand: a configuration, or bucket and lake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dropmill.config import Config, load_config

_Command = TypeVar("_Command", bound=Callable[..., Any])


def lane_options(command: _Command) -> _Command:
    """Add ``-c``, ``--bucket`` and ``--lake``."""
    for option in (
        click.option("--lake", "lake_url", help="The lake, where there is no configuration."),
        click.option("--bucket", help="The bucket, where there is no configuration."),
        click.option(
            "-c",
            "--config",
            "config_path",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The configuration of the service, such as dropmill.yaml.",
        ),
    ):
        command = option(command)
    return command


def configuration(config_path: Path | None, bucket: str | None, lake_url: str | None) -> Config:
    """The configuration that the options name. Raises UsageError where they name none, or two."""
    if config_path is not None:
        if bucket or lake_url:
            raise click.UsageError("give -c, or --bucket and --lake, not both")
        return load_config(config_path)
    if not lake_url or not bucket:
        raise click.UsageError("give -c dropmill.yaml, or --bucket and --lake")
    return Config(bucket=bucket, lake=lake_url)
