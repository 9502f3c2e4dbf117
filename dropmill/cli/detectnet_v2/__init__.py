"""``dropmill model detectnet_v2``: one module a command; torch is imported when one is called."""

from __future__ import annotations

import click

from dropmill.cli.detectnet_v2.calibrate import calibration_tensorfile
from dropmill.cli.detectnet_v2.convert import dataset_convert
from dropmill.cli.detectnet_v2.evaluate import evaluate
from dropmill.cli.detectnet_v2.export import export
from dropmill.cli.detectnet_v2.inference import inference
from dropmill.cli.detectnet_v2.prune import prune
from dropmill.cli.detectnet_v2.train import train


@click.group("detectnet_v2")
def detectnet_v2() -> None:
    """DetectNet_v2: a grid of coverage and boxes. Spec files of TAO load as they are; keys are not needed."""


for _command in (dataset_convert, train, evaluate, inference, prune, calibration_tensorfile, export):
    detectnet_v2.add_command(_command)
