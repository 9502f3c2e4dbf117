"""The command line: every command in a module of its own, imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from dropmill import __version__
from dropmill.extras import lack
from storage.errors import ConfigError, DropmillError, QueryError, UnreadableError

_COMMANDS = {
    "dataset": ("dropmill.cli.dataset", "Convert, merge and slice labels, file to file."),
    "demo": ("dropmill.cli.demo", "The whole way on rendered scenes, or on a folder of yours."),
    "ingest": ("dropmill.cli.ingest", "Bring a lake up to date with a bucket, once."),
    "jobs": ("dropmill.cli.jobs", "Runs, their logs, and how to end them."),
    "lake": ("dropmill.cli.lake", "Compact a lake, look at its versions, delete what nobody needs."),
    "lineage": ("dropmill.cli.lineage", "From a model to the objects it was made from, and back."),
    "model": ("dropmill.cli.model", "Train and export detectors."),
    "page": ("dropmill.cli.page", "The page of a lake, to look at, with nothing else running."),
    "quarantine": ("dropmill.cli.quarantine", "Objects that cannot be read: see them, try again, take out."),
    "replay": ("dropmill.cli.replay", "Derive annotations again from labels, without reading the bucket."),
    "scenes": ("dropmill.cli.scenes", "Render labelled aerial scenes."),
    "serve": ("dropmill.cli.serve", "Watch a bucket and keep a lake up to date with it."),
    "sql": ("dropmill.cli.sql", "Ask a lake with SQL."),
    "step": ("dropmill.cli.step", "One step of a pipeline, as the service's jobs do it."),
    "status": ("dropmill.cli.status", "What a lake holds, what is wrong in it, what was trained."),
}


class _Lazy(click.Group):
    """Commands are imported when they are called: ``dropmill sql`` need not wait for Ray or torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dropmill")
def cli() -> None:
    """Drop images and labels into a bucket; get tables, checked boxes, trained detectors and engines."""


def main() -> None:
    """Run the command line: exit status 0, 1 (failed, or something was quarantined), 2 (bad input)."""
    try:
        status = cli.main(standalone_mode=False, prog_name="dropmill")
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code if isinstance(error, click.UsageError) else 2)
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        reason = lack(error)
        if reason is None:
            raise
        click.echo(f"dropmill: {reason}", err=True)
        sys.exit(2)
    except (ConfigError, QueryError, UnreadableError) as error:
        click.echo(f"dropmill: {error}", err=True)
        sys.exit(2)
    except DropmillError as error:
        click.echo(f"dropmill: {error}", err=True)
        sys.exit(1)
