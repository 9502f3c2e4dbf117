"""``dropmill quarantine``: objects that cannot be read, tried again or taken out."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console

from dropmill.by_hand import LaneHeldError, committer_of
from dropmill.cli.lane import configuration, lake_of, lake_options, lane_options
from dropmill.cli.tables import print_rows
from dropmill.commands import Command, work_on_quarantine
from dropmill.config import Config
from dropmill.logs import set_up_logging
from storage.errors import DropmillError
from storage.lake import Lake

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("quarantine")
def command() -> None:
    """Objects that cannot be read: see them, try them again, or take them out."""


@command.command("list")
@lake_options
@click.option("--dataset", help="Only of this data set.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(config_path: Path | None, lake_url: str | None, *, dataset: str | None, as_json: bool) -> None:
    """Every object in quarantine, with the reason."""
    rows = lake_of(config_path, lake_url).sql(
        """SELECT dataset, key, error, batch, seen_at FROM quarantine
           WHERE coalesce(dataset = $1, true) ORDER BY key""",
        parameters=[dataset],
    )
    if as_json:
        for row in rows.to_pylist():
            click.echo(json.dumps(row, default=str, ensure_ascii=False))
    else:
        print_rows(rows, Console(width=None if sys.stdout.isatty() else 200), whole=True)


def _choice(command: _Command) -> _Command:
    """Add the options that name a lane, and which objects of its quarantine."""
    everything = click.option("--all", "everything", is_flag=True, help="All that are in quarantine.")
    return lane_options(click.argument("keys", nargs=-1)(everything(command)))


@command.command("retry")
@_choice
def retry(**choice: Any) -> int:
    """Read objects once more: after a limit was raised, a permission given, a decoder mended.

    A service that runs is asked over HTTP; else this command does it. Exit status 1 says that some are in
    quarantine still.
    """
    return _do("retry", **choice)


@command.command("drop")
@_choice
def drop(**choice: Any) -> int:
    """Take objects out of quarantine without reading them; they come back when their content changes.

    Nothing is deleted from the bucket.
    """
    return _do("drop", **choice)


def _do(
    action: Literal["retry", "drop"],
    *,
    config_path: Path | None,
    bucket: str | None,
    lake_url: str | None,
    keys: tuple[str, ...],
    everything: bool,
) -> int:
    if bool(keys) == everything:
        raise click.UsageError("give KEYS, or --all")
    set_up_logging(as_json=False)
    config = configuration(config_path, bucket, lake_url)
    lake = Lake.open(config.lake, config.lake_access.options())
    there = {row["key"] for row in lake.sql("SELECT key FROM quarantine").to_pylist()}
    if unknown := sorted(set(keys) - there):
        raise click.UsageError(f"not in quarantine: {', '.join(unknown[:5])}")
    try:
        with committer_of(config, reads=action == "retry") as committer:
            work_on_quarantine(
                Command(action=action, keys=keys),
                committer,
                config.bucket_store(),
                config.rule(),
            )
            left = [key for key in (keys or there) if key in dict(committer.ledger.quarantined())]
    except LaneHeldError:
        if config.http.port:
            _ask(config, action, keys)
            click.echo("the service was asked to; `dropmill quarantine list` tells how it went")
            return 0
        raise
    click.echo(f"{len(keys or there) - len(left)} out of quarantine, {len(left)} still in it")
    return 1 if left else 0


def _ask(config: Config, action: str, keys: tuple[str, ...]) -> None:
    token = os.environ.get(config.http.token_env, "")
    body = json.dumps({"keys": list(keys)} if keys else {"all": True}).encode()
    request = urllib.request.Request(
        f"http://{config.http.host}:{config.http.port}/quarantine/{action}",
        data=body,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        raise DropmillError(
            f"the service refuses ({error.code}): {said}; set {config.http.token_env}"
        ) from error
    except OSError as error:
        raise DropmillError(
            f"the service at {config.http.host}:{config.http.port} does not answer: {error}"
        ) from error
