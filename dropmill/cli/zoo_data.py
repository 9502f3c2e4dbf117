"""Where the samples of a detector come from, and ``dropmill dataset middle``, which writes them down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropmill.cli.detectnet_v2 import options
from storage.errors import ConfigError

if TYPE_CHECKING:
    from training.samples import Sample


@dataclass(frozen=True)
class Source:
    """Where samples come from: a lake, shards, a folder, or a file in the middle format."""

    lake_url: str | None = None
    dataset: str | None = None
    shards: str | None = None
    data: Path | None = None
    images: Path | None = None
    middle: Path | None = None
    split: str | None = None


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where samples come from; the command gets them as one ``source``."""
    names = [one.name for one in fields(Source)]

    @wraps(function)
    def with_source(*args: Any, **given: Any) -> Any:
        return function(*args, source=Source(**{name: given.pop(name) for name in names}), **given)

    for option in (
        click.option("--split", help="Take this split alone, such as test."),
        click.option("--middle", type=options.FILE, help="A file in MMDetection's middle format (JSON)."),
        click.option(
            "--images", type=options.PATH, help="With --data or --middle: the folder of the images."
        ),
        click.option("--shards", help="Folder or URL of shards in the format webdataset."),
        click.option("--data", type=options.PATH, help="A folder of images and labels, or a label file."),
        options.dataset,
        click.option("--lake", "lake_url", help="Folder or URL of a lake."),
    ):
        with_source = option(with_source)
    return with_source


@click.command("middle")
@data_options
@click.option("-o", "--output_file", "out", type=options.PATH, required=True, help="The JSON file to write.")
@click.option("--class", "classes", multiple=True, help="In this order; without, all that have objects.")
@click.option("--first", is_flag=True, help="The first format: a list, with labels from 1.")
@options.as_json
def middle(
    source: Source,
    out: Path,
    classes: tuple[str, ...],
    *,
    first: bool,
    as_json: bool,
) -> None:
    """Labels in MMDetection's middle format: boxes, masks, and what is to be ignored."""
    from dropmill.extras import require

    require("train")
    from training.zoo.data import classes_of
    from training.zoo.middle import first_middle_format, middle_format

    options.quiet_logging()
    samples = read_samples(source, classes)
    names = classes_of(samples, classes)
    content: Any = first_middle_format(samples, names) if first else middle_format(samples, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"file": str(out), "images": len(samples), "classes": list(names)}))
        return
    click.echo(f"{out}: {len(samples)} images; classes, in the order of their numbers: {', '.join(names)}")


def read_samples(source: Source, classes: Sequence[str] = ()) -> list[Sample]:
    """What ``source`` names; ``classes`` are those of a file in the middle format that names none."""
    given = sum(one is not None for one in (source.lake_url, source.shards, source.data, source.middle))
    if given != 1:
        raise click.UsageError("give one of --lake (with --dataset), --shards, --data and --middle")
    samples: Sequence[Sample]
    if source.shards is not None:
        from training.shard_samples import read_shard_samples

        samples = read_shard_samples(source.shards)
    elif source.data is not None:
        from dropmill.folder_samples import read_folder_samples

        samples = read_folder_samples(source.data, source.images)
    elif source.middle is not None:
        from training.zoo.middle import read_middle

        samples = read_middle(source.middle, source.images or "", classes)
    else:
        samples = options.lake_samples(source.lake_url, source.dataset)
    return of_split(samples, source.split)


def of_split(samples: Sequence[Sample], split: str | None) -> list[Sample]:
    """Those of a split, or all. Raises ``ConfigError`` where there are none."""
    if split is None:
        return list(samples)
    found = [replace(one, split=None) for one in samples if one.split == split]
    if not found:
        raise ConfigError(f"no sample of the split {split!r}")
    return found
