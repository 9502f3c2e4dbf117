"""``dropmill scenes``: rendered, labelled aerial scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from transforms.scenes import CATEGORIES, SceneConfig, contact_sheet, write_scenes

_DEFAULT = SceneConfig()


@click.command("scenes")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["voc", "coco", "kitti", "yolo"]),
    default="voc",
    show_default=True,
)
@click.option(
    "--images", default=_DEFAULT.images, show_default=True, type=click.IntRange(1), help="Number of scenes."
)
@click.option("--width", default=_DEFAULT.width, show_default=True, type=int)
@click.option("--height", default=_DEFAULT.height, show_default=True, type=int)
@click.option("--seed", default=_DEFAULT.seed, show_default=True, type=int)
@click.option("--classes", default=",".join(CATEGORIES), show_default=True, help="Which aircraft occur.")
@click.option(
    "--max-objects", default=_DEFAULT.max_objects, show_default=True, type=int, help="Aircraft in one scene."
)
@click.option(
    "--negatives", default=_DEFAULT.negatives, show_default=True, type=float, help="Share of empty scenes."
)
@click.option(
    "--defects/--no-defects",
    default=True,
    show_default=True,
    help="Plant defects, and list them beside FOLDER.",
)
@click.option("--image-format", type=click.Choice(["jpeg", "png"]), default="jpeg", show_default=True)
@click.option("--masks", is_flag=True, help="VOC: write SegmentationObject as well.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the first 12 with their boxes here.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def command(
    folder: Path,
    *,
    layout: str,
    images: int,
    width: int,
    height: int,
    seed: int,
    classes: str,
    max_objects: int,
    negatives: float,
    defects: bool,
    image_format: str,
    masks: bool,
    workers: int,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Render aerial scenes with aircraft into FOLDER, with exact boxes and masks.

    The same seed gives the same pictures, and more images continue a set without changing it.
    """
    config = SceneConfig(
        images=images,
        width=width,
        height=height,
        seed=seed,
        classes=tuple(name.strip() for name in classes.split(",")),
        max_objects=max_objects,
        negatives=negatives,
    )
    with click.progressbar(length=images, label="scenes", file=sys.stderr) as bar:
        manifest = write_scenes(
            config,
            folder,
            format=layout,  # type: ignore[arg-type]
            defects=defects,
            image_format=image_format,  # type: ignore[arg-type]
            masks=masks,
            progress=lambda _done, _all: bar.update(1),
            workers=workers,
        )
    if sheet:
        contact_sheet(config, min(12, images), sheet)
    counts = {
        "images": manifest.images,
        "readable_images": manifest.readable_images,
        "labels": manifest.labels,
        "negatives": manifest.negatives,
        "classes": dict(manifest.per_class),
        "splits": dict(manifest.splits),
        "defects": dict(manifest.defects),
    }
    if as_json:
        click.echo(json.dumps(counts))
        return
    for name, value in counts.items():
        said = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        click.echo(f"{name}: {said}")
    if manifest.defects_path:
        click.echo(f"planted defects: {manifest.defects_path}")
