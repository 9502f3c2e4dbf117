"""``dropmill serve``: the service."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from dropmill.cli.lane import service_option
from dropmill.config import load_config
from dropmill.logs import set_up_logging
from dropmill.service import Service


@click.command("serve")
@service_option
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "plain"]),
    default="auto",
    show_default=True,
    help="auto: plain on a terminal, JSON lines elsewhere.",
)
def command(config_path: Path, log_format: str) -> int:
    """Watch the bucket of a configuration file and keep its lake up to date.

    SIGTERM or Ctrl-C finish the batch in hand and end with status 0; a second one ends at once, which loses
    nothing: the batch is run again at the next start.
    """
    set_up_logging(as_json=log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()))
    stop = threading.Event()

    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask_to_stop)

    listen()
    # Ray puts handlers of its own in place when it starts, so ours are put back each time.
    Service(load_config(config_path)).run(stop, on_ready=listen)
    return 0
