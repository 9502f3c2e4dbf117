"""A training on the terminal: a bar that moves, or plain lines where nobody looks."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dropmill.follow import epoch_text
from training.detectnet_v2.loop import EpochReport, StepReport

_EVERY_S = 30.0


class TrainingProgress:
    """``step`` and ``epoch`` are for ``fit``; lines of epochs go to standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("cost {task.fields[cost]:.4g}, {task.fields[speed]:.1f} images/s"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task("train", epoch="-", cost=0.0, speed=0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, report: StepReport) -> None:
        """Move the bar; on no terminal a line each half minute."""
        done = (report.epoch - 1) * report.steps + report.step
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=done,
                total=report.epochs * report.steps,
                epoch=f"{report.epoch}/{report.epochs}",
                cost=report.cost,
                speed=report.images_per_second,
            )
        elif time.monotonic() - self._said > _EVERY_S:
            self._said = time.monotonic()
            click.echo(
                f"epoch {report.epoch}/{report.epochs}, step {report.step}/{report.steps}, "
                f"cost {report.cost:.4g}, {report.images_per_second:.1f} images/s",
                err=True,
            )

    def epoch(self, report: EpochReport) -> None:
        """One line."""
        speed = f", {report.metrics['images_per_second']:.1f} images/s"
        wait = f", waited {report.metrics['data_wait_share']:.0%} for data"
        self._console.print(epoch_text(dict(report.metrics)) + speed + wait, highlight=False)
