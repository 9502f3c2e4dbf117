"""``dropmill dataset augmentation``: more images from those that there are, labels with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropmill.cli import spec_options
from storage.errors import ConfigError

if TYPE_CHECKING:
    from transforms.augment.generate import Report
    from transforms.augment.spec import AugmentSpec


@click.group("augmentation")
def augmentation() -> None:
    """Augment a data set, its labels exactly with it; specs of TAO's data services load as they are."""


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    for decorator in (
        spec_options.overrides,
        spec_options.as_json,
        spec_options.spec_file,
    ):
        command = decorator(command)
    return command


@augmentation.command("generate")
@_shared
@click.option("--lake", help="Augment a data set of this lake, into shards of the lake.")
@click.option("--dataset", help="The data set of the lake.")
@click.option("--split", help="Only the images of this split (train, val, test), of the lake.")
def generate(
    spec_file: Path | None,
    overrides: tuple[str, ...],
    lake: str | None,
    dataset: str | None,
    split: str | None,
    *,
    as_json: bool,
) -> None:
    """Write augmented images, their labels, and the parameters of each.

    A run that was cut short goes on where it stopped. Exit status 1 where an image could not be read.

    \b
    dropmill dataset augmentation generate -e augment.yaml spatial_aug.rotation.angle=[-10,10]
    """  # noqa: D301
    from dropmill.augmentation import augment

    spec = _spec(spec_file, overrides)
    if lake:
        _generate_in_lake(spec, lake, dataset, split, as_json=as_json)
        return
    if not as_json:
        click.echo("Data augmentation started.")
    with _progress() as step:
        report, seconds = augment(spec, progress=step)
    if as_json:
        click.echo(json.dumps(_facts(report, seconds)))
    else:
        _print(report)
        click.echo(f"Data augmentation finished in {seconds:.2f}s.")
    if report.failed:
        sys.exit(1)


@augmentation.command("preview")
@_shared
@click.option(
    "--sheet", type=click.Path(path_type=Path, dir_okay=False), default=Path("preview.png"), show_default=True
)
@click.option(
    "--images", "count", default=12, show_default=True, type=click.IntRange(1, 100), help="How many."
)
@click.option(
    "--cell",
    default=480,
    show_default=True,
    type=click.IntRange(64, 4096),
    help="Pixels of the longer side of each.",
)
def preview(
    spec_file: Path | None, overrides: tuple[str, ...], sheet: Path, count: int, cell: int, *, as_json: bool
) -> None:
    """Draw what a spec makes of a few images, with boxes and masks, as one PNG."""
    from dropmill.augmentation import preview_sheet

    spec = _spec(spec_file, overrides)
    shown = preview_sheet(spec, sheet, count=count, cell=cell)
    click.echo(
        json.dumps({"sheet": str(sheet), "images": shown}) if as_json else f"{shown} images are in {sheet}"
    )


def _generate_in_lake(
    spec: AugmentSpec, lake: str, dataset: str | None, split: str | None, *, as_json: bool
) -> None:
    import dropmill
    from dropmill.augmented import augment_lake
    from transforms.augment.balance import imbalance

    if not dataset:
        raise ConfigError("--lake needs --dataset: the name of one of its data sets")
    with _progress() as step:
        found = augment_lake(dropmill.open(lake), dataset, spec, split=split, progress=step)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        for name, why in list(found.failed.items())[:20]:
            click.echo(f"not made: {name}: {why}", err=True)
        click.echo(
            f"{found.samples} samples in {found.shards} shards, {found.written} written now: {found.uri}"
        )
        before, after = imbalance(found.before), imbalance(found.after)
        click.echo(f"largest class to smallest: {before:.2f} before, {after:.2f} after")
        click.echo(f"run {found.run}; its rows are in the tables runs and shards")
    if found.failed:
        sys.exit(1)


def _spec(spec_file: Path | None, overrides: Sequence[str]) -> AugmentSpec:
    from transforms.augment.spec import load_augment_spec, meaningless

    spec = load_augment_spec(spec_file, overrides)
    names = meaningless(spec)
    if names:
        click.echo(f"without a meaning here, and passed over: {', '.join(names)}", err=True)
    return spec


def _print(report: Report) -> None:
    for note in report.notes:
        click.echo(note)
    for name, why in list(report.failed.items())[:20]:
        click.echo(f"not made: {name}: {why}", err=True)
    if len(report.failed) > 20:
        click.echo(f"and {len(report.failed) - 20} more that were not made", err=True)
    kept = f", {report.kept} of them from an earlier run" if report.kept else ""
    copied = f", {report.copied} copied as they were" if report.copied else ""
    click.echo(
        f"{report.outputs} images{kept}{copied}, {report.objects} objects ({report.dropped} out of view or "
        f"hidden), by {report.executor}, in {report.folder}"
    )
    before, after = report.imbalance
    click.echo(f"largest class to smallest: {before:.2f} before, {after:.2f} after")


def _facts(report: Report, seconds: float) -> dict[str, object]:
    before, after = report.imbalance
    return {
        "folder": str(report.folder),
        "executor": report.executor,
        "outputs": report.outputs,
        "written": report.written,
        "kept": report.kept,
        "copied": report.copied,
        "objects": report.objects,
        "dropped": report.dropped,
        "object_count": {"before": report.before, "after": report.after},
        "imbalance": {"before": round(before, 4), "after": round(after, 4)},
        "failed": report.failed,
        "notes": report.notes,
        "files": [str(file) for file in report.files[:100]],
        "seconds": round(seconds, 3),
    }


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; called with steps done and all steps."""
    if not sys.stderr.isatty():
        yield lambda _steps, _all: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("augmenting", total=None)
        yield lambda steps, every: bar.update(task, advance=steps, total=every)
