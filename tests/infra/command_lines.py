"""Whether a command line would be understood by the command as it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import click


def check_dropmill(words: Sequence[str]) -> None:
    """Raise ``click.UsageError`` where ``dropmill`` has no such command, option or argument."""
    from dropmill.cli import cli

    _check(cli, list(words))


def check_ray(words: Sequence[str]) -> None:
    """The same for ``ray``."""
    with warnings.catch_warnings():
        # Not ours to mend.
        warnings.simplefilter("ignore")
        from ray.scripts.scripts import cli

    _check(cli, list(words))


def _check(command: click.Command, words: list[str]) -> None:
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"no command {name!r}")
        command = found
    context = click.Context(command)
    _, left, _ = command.make_parser(context).parse_args(words)
    if left:
        raise click.UsageError(f"unexpected {left}")
