"""``dropmill model``: detectors."""

from __future__ import annotations

import click

from dropmill.cli.detectnet_v2 import detectnet_v2
from dropmill.cli.mal import mal
from dropmill.cli.zoo import zoo_commands


@click.group("model")
def command() -> None:
    """Train, evaluate, use and export detectors."""


command.add_command(detectnet_v2)
command.add_command(mal)
for _detector in zoo_commands():
    command.add_command(_detector)
