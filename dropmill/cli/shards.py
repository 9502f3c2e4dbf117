"""``dropmill dataset shards``: files of many samples, ready to stream into training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from storage.object_store import ObjectStore


@click.group("shards")
def shards() -> None:
    """Write images with their labels into shards, and check them."""


@shards.command("write")
@click.option(
    "--type", "form", type=click.Choice(["kitti", "coco"]), default="coco", show_default=True, help="Labels."
)
@click.option(
    "--images",
    "image_dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of images.",
)
@click.option(
    "--labels",
    "ann_path",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder of KITTI labels, or COCO file.",
)
@click.option("--to", "target", required=True, help="Folder or URL of the shards.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["webdataset", "tfrecord"]),
    default="webdataset",
    show_default=True,
)
@click.option(
    "--size-mb", default=256.0, show_default=True, type=click.FloatRange(0.01), help="Megabytes of a shard."
)
@click.option(
    "--masks", is_flag=True, help="A mask.png with each sample: the pixels of its n-th object are n."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def write(
    form: str,
    image_dir: Path,
    ann_path: Path,
    target: str,
    layout: str,
    size_mb: float,
    *,
    masks: bool,
    as_json: bool,
) -> None:
    """Write a data set as shards; images keep their bytes. Done again, only what changed is written.

    \b
    dropmill dataset shards write --images images --labels instances.json --to shards
    """  # noqa: D301
    from dropmill.sharding import shard_folder

    report, missing = shard_folder(
        form, image_dir, ann_path, target, layout=layout, size_mb=size_mb, masks=masks
    )
    samples = sum(shard.samples for shard in report.index.shards)
    size = sum(shard.size_bytes for shard in report.index.shards)
    if as_json:
        facts = {
            "shards": len(report.index.shards),
            "written": report.written,
            "kept": report.kept,
            "samples": samples,
            "size_bytes": size,
            "failed": report.failed,
            "without_image": list(missing),
        }
        click.echo(json.dumps(facts))
    else:
        for name, why in report.failed.items():
            click.echo(f"left out: {name}: {why}", err=True)
        if missing:
            click.echo(f"labels without a readable image, left out: {', '.join(missing[:5])}", err=True)
        click.echo(
            f"{samples} samples in {len(report.index.shards)} shards ({size / 1e6:.1f} MB), "
            f"{report.written} written, {report.kept} there already: {target}"
        )
    if report.failed:
        sys.exit(1)


@shards.command("verify")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def verify(target: str, *, as_json: bool) -> None:
    """Read every byte of the shards in TARGET and compare it with their index. Exit status 1 for damage."""
    from transforms.shards.verify import verify_shards

    found = verify_shards(ObjectStore.at(target))
    if as_json:
        click.echo(json.dumps(vars(found)))
    else:
        for name, why in found.broken.items():
            click.echo(f"{name}: {why}", err=True)
        click.echo(
            f"{found.shards} shards with {found.samples} samples are sound, {len(found.broken)} are not"
        )
    if found.broken:
        sys.exit(1)
