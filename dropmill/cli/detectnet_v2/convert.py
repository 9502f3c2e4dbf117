"""``dataset_convert``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dropmill.cli.detectnet_v2 import options


@click.command("dataset_convert")
@click.option("-d", "--dataset_export_spec", "spec_file", type=options.FILE, help="The spec (protobuf text).")
@click.option(
    "-o", "--output_filename", "out", type=options.PATH, required=True, help="Prefix of the TFRecords."
)
@click.option("-f", "--validation_fold", type=click.IntRange(0), help="The partition that is not modified.")
@click.option("--seed", default=42, show_default=True, help="Of the random partition.")
@options.lake
@options.dataset
@click.option("--val_split", default=20.0, show_default=True, type=click.FloatRange(0, 99.9),
              help="With --lake, where the data set has no val split: per cent for validation.")  # fmt: skip
@click.option("--num_shards", default=10, show_default=True, type=click.IntRange(1), help="With --lake.")
@options.without_meaning
@options.as_json
def dataset_convert(
    spec_file: Path | None,
    out: Path,
    validation_fold: int | None,
    seed: int,
    lake_url: str | None,
    dataset: str | None,
    val_split: float,
    num_shards: int,
    *,
    as_json: bool,
) -> None:
    """Labels of KITTI or COCO, or of a lake, to TFRecords in partitions and shards."""
    from training.detectnet_v2.convert import convert, write_partitions
    from training.detectnet_v2.spec_jobs import load_dataset_convert_spec

    if (spec_file is None) == (lake_url is None):
        raise click.UsageError("give either -d or --lake with --dataset")
    options.quiet_logging()
    if spec_file is not None:
        report = convert(
            load_dataset_convert_spec(spec_file), out, validation_fold=validation_fold, seed=seed
        )
    else:
        from training.detectnet_v2.frames import frame_of
        from training.samples import split_samples

        samples = options.lake_samples(lake_url, dataset)
        train, val = split_samples(samples, val_share=val_split / 100, seed=seed)
        parts = [[frame_of(sample) for sample in part] for part in (val, train)]
        report = write_partitions(parts, [num_shards, num_shards], out)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "files": [str(file) for file in report.files],
                    "images": report.frames,
                    "classes": [dict(counts) for counts in report.classes],
                    "dropped": len(report.dropped),
                }
            )
        )
        return
    for line in report.lines():
        click.echo(line)
    click.echo(f"{len(report.files)} files: {report.files[0]} …")
