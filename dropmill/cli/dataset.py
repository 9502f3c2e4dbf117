"""``dropmill dataset``: work on label files, without a lake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dropmill.cli import spec_options
from dropmill.cli.analytics import analytics
from dropmill.cli.augmentation import augmentation
from dropmill.cli.auto_label import auto_label
from dropmill.cli.expectations import expectations
from dropmill.cli.masks import masks
from dropmill.cli.shards import shards
from dropmill.cli.zoo_data import middle
from transforms.conversion.convert import Report, convert
from transforms.conversion.merge import merge
from transforms.conversion.slicing import slice_annotations
from transforms.conversion.spec import ConvertSpec, MergeSpec, SliceSpec, load_spec, meaningless


@click.group("dataset")
def command() -> None:
    """Convert, merge, slice, check and augment; specs of TAO's data services load as they are."""


command.add_command(analytics)
command.add_command(auto_label)
command.add_command(augmentation)
command.add_command(expectations)
command.add_command(masks)
command.add_command(middle)
command.add_command(shards)


@command.group("annotations")
def annotations_group() -> None:
    """Label files to label files."""


@annotations_group.command("convert")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def convert_command(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Convert labels: from KITTI, COCO, VOC, YOLO, ODVG, LabelMe, CVAT, Open Images or TFRecord, to the first
    five.
    """
    spec = load_spec(ConvertSpec, spec_file, overrides)
    _notice(meaningless(spec))
    report = convert(spec)
    _print("Annotation conversion", report, as_json=as_json, verbose=spec.verbose)


@annotations_group.command("merge")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def merge_command(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Merge files of COCO, or of ODVG, into one."""
    spec = load_spec(MergeSpec, spec_file, overrides)
    _notice(meaningless(spec))
    _print("Annotation merge", merge(spec), as_json=as_json, verbose=spec.verbose)


@annotations_group.command("slice")
@spec_options.spec_file
@spec_options.as_json
@spec_options.overrides
def slice_command(spec_file: Path | None, *, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Cut a COCO file: by chance, by number, by class or by file name."""
    spec = load_spec(SliceSpec, spec_file, overrides)
    _notice(meaningless(spec))
    _print("Annotation slice", slice_annotations(spec), as_json=as_json, verbose=spec.verbose)


def _notice(names: list[str]) -> None:
    if names:
        click.echo(f"without a meaning here, and passed over: {', '.join(names)}", err=True)


def _print(mode: str, report: Report, *, as_json: bool, verbose: bool) -> None:
    if as_json:
        result: dict[str, Any] = {
            "images": report.images,
            "boxes": report.boxes,
            "files": [str(file) for file in report.files],
            "classes": {name: number for number, name in report.classes.items()},
            "unsaid": report.unsaid,
            "notes": report.notes,
        }
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    for note in report.notes:
        click.echo(note)
    if report.unsaid:
        click.echo("what the target cannot say, with counts:")
        for what, count in report.unsaid.items():
            click.echo(f"  {what}: {count}")
    if verbose:
        click.echo(f"classes: { {name: number for number, name in report.classes.items()} }")
    shown = ", ".join(str(file) for file in report.files[:3]) + (" …" if len(report.files) > 3 else "")
    click.echo(f"{report.images} images, {report.boxes} boxes, {len(report.files)} files: {shown}")
    click.echo(f"{mode} finished successfully.")
