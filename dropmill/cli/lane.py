"""Options that commands share: which lake, how it is reached, and which lane of it is worked on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import dropmill

if TYPE_CHECKING:
    from dropmill.config import Config
    from storage.lake import Lake

_Command = TypeVar("_Command", bound=Callable[..., Any])

_config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the service, such as dropmill.yaml.",
)


service_option = click.option(
    "-c",
    "--config",
    "config_path",
    default="dropmill.yaml",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the service.",
)
"""``-c`` of commands that cannot do without a configuration."""


def lake_options(command: _Command) -> _Command:
    """Add ``--lake`` and ``-c``, for :func:`lake_of`."""
    lake = click.option("--lake", "lake_url", help="Folder or URL of the lake; else the configuration's.")
    return lake(_config_option(command))


def lake_of(config_path: Path | None, lake_url: str | None) -> Lake:
    """The lake that the options name, reached as the configuration says (`lake_access`).

    Raises UsageError where they name none, LakeError where there is none.
    """
    config = config_of(config_path)
    url = lake_url or (config.lake if config else None)
    if url is None:
        raise click.UsageError("give --lake, or -c dropmill.yaml")
    return dropmill.open(url, config.lake_access.options() if config else None)


def config_of(config_path: Path | None) -> Config | None:
    """The configuration, where one is named."""
    if config_path is None:
        return None
    # Configurations know of Ray; who asks a lake by its name need not wait for that.
    from dropmill.config import load_config

    return load_config(config_path)


def lane_options(command: _Command) -> _Command:
    """Add ``-c``, ``--bucket`` and ``--lake``, for :func:`configuration`."""
    for option in (
        click.option("--lake", "lake_url", help="The lake, where there is no configuration."),
        click.option("--bucket", help="The bucket, where there is no configuration."),
        _config_option,
    ):
        command = option(command)
    return command


def configuration(config_path: Path | None, bucket: str | None, lake_url: str | None) -> Config:
    """The configuration that the options name. Raises UsageError where they name none, or two."""
    from dropmill.config import Config

    config = config_of(config_path)
    if config is not None:
        if bucket or lake_url:
            raise click.UsageError("give -c, or --bucket and --lake, not both")
        return config
    if not lake_url or not bucket:
        raise click.UsageError("give -c dropmill.yaml, or --bucket and --lake")
    return Config(bucket=bucket, lake=lake_url)
