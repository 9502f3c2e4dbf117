"""``dropmill demo``: the whole way, from a drop to an engine."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dropmill.demo import Demo, count_images, cpu_count, dataset_name, make_room, run_demo
from dropmill.extras import require
from dropmill.report import make_report, print_report
from storage.errors import ConfigError, JobError
from storage.lake import Lake

# To the network in all, in each step that trains: what takes a few minutes on two cores.
_IMAGES_SHOWN = {"train": 3_600, "retrain": 1_500, "quantise": 600}


@click.command("demo")
@click.argument("data", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything goes; an earlier demo there is removed.",
)
@click.option(
    "--images", default=240, show_default=True, type=click.IntRange(20), help="Scenes, without DATA."
)
@click.option(
    "--epochs", default=None, type=click.IntRange(1), help="Training epochs (else as measured to fit)."
)
def command(data: Path | None, *, out: Path, images: int, epochs: int | None) -> None:
    """Drop a set into a watched folder and see what becomes of it: tables, findings, a detector, an engine.

    Without DATA aerial scenes are rendered, with defects planted in them. With DATA (a folder of images and
    labels) the same is done on a copy of it.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    began = time.monotonic()

    def tell(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    require("train", "export")
    out = out.resolve()
    if data is not None and (out == data.resolve() or data.resolve().is_relative_to(out)):
        raise ConfigError(f"--out {out} would remove {data}")
    make_room(out)
    if data is None:
        source, dataset = out / "source" / "aircraft", "aircraft"
    else:
        source, dataset = data.resolve(), dataset_name(data)
    demo = Demo(out=out, source=source, dataset=dataset, steps=[])
    if data is None:
        with demo.stage("render scenes"):
            _render(source, images, tell)
    demo.steps = _steps(epochs, count_images(source))
    try:
        lake = run_demo(demo, tell)
    except JobError:
        # What has landed is worth seeing, all the more where it is why no run succeeded.
        if (demo.lake_folder / "tables").is_dir():
            print_report(make_report(Lake.open(demo.lake_folder)), console)
        raise
    console.print()
    print_report(make_report(lake), console)
    if data is None:
        _compare_defects(source, lake, console)
    table = Table(title="seconds of the demo", title_justify="left", header_style="bold")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for name, seconds in demo.stages.items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("all", f"{time.monotonic() - began:.1f}")
    console.print(table)
    for name, place in (
        ("bucket", demo.bucket),
        ("lake", demo.lake_folder),
        ("configuration", demo.config),
        ("service log", demo.log),
    ):
        console.print(f"{name}: {place}", highlight=False, soft_wrap=True)
    console.print(
        f"again at any time: dropmill status --lake {demo.lake_folder}", highlight=False, soft_wrap=True
    )


def _steps(epochs: int | None, images: int) -> list[dict[str, object]]:
    """A pipeline for some minutes on two cores: small inputs, and epochs that keep the work the same."""

    def epochs_of(step: str) -> int:
        share = _IMAGES_SHOWN[step] / _IMAGES_SHOWN["train"]
        wanted = epochs * share if epochs else _IMAGES_SHOWN[step] / images
        return max(1, min(60, round(wanted)))

    return [
        {"masks": {}},
        {
            "augment": {
                "options": {
                    "balance": {"mode": "full", "max_growth": 1.5},
                    "spatial_aug": {"flip": {"flip_horizontal": 0.5}},
                    "data": {"output_image_width": 256, "output_image_height": 192},
                    "shards": {"format": "webdataset"},
                }
            }
        },
        {
            "train": {
                "epochs": epochs_of("train"),
                "batch_size": 4,
                "input_width": 256,
                "input_height": 192,
                "max_learning_rate": 1e-3,
                "foreground_weight": 0.5,
            }
        },
        # Weights that have hardly moved differ little from each other.
        {"prune": {"threshold": 0.96}},
        {"retrain": {"epochs": epochs_of("retrain"), "batch_size": 4}},
        {
            "quantise": {
                "method": "qat",
                "epochs": epochs_of("quantise"),
                "batch_size": 4,
                "max_learning_rate": 1e-4,
            }
        },
        {"export": {"precision": "int8"}},
        {"evaluate": {}},
        {"promote": {}},
    ]


def _render(folder: Path, images: int, tell: Callable[[str], None]) -> None:
    from transforms.scenes import SceneConfig, write_scenes

    tell(f"rendering {images} scenes into {folder}")
    # Large aircraft of four kinds: what a detector can learn from nothing in the minutes of a demo.
    config = SceneConfig(
        images=images,
        seed=7,
        classes=("airliner", "propeller", "helicopter", "business jet"),
        min_size=64,
        max_size=200,
        max_objects=5,
    )
    manifest = write_scenes(config, folder, format="voc", workers=cpu_count())
    tell(f"{manifest.images} images, {manifest.labels} boxes, planted: {json.dumps(dict(manifest.defects))}")


def _compare_defects(folder: Path, lake: Lake, console: Console) -> None:
    """What was planted beside what was found: a rule that misses something shows here."""
    listing = folder.with_name(folder.name + "-planted-defects.json")
    planted = Counter(row["rule"] for row in json.loads(listing.read_text(encoding="utf-8")) if row["rule"])
    found = {
        row["rule"]: row["n"]
        for row in lake.sql("SELECT rule, count(*) AS n FROM findings GROUP BY rule").to_pylist()
    }
    table = Table(title="planted defects, and those found", title_justify="left", header_style="bold")
    for column in ("rule", "planted", "found"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule in sorted({*planted, *found}):
        table.add_row(rule, str(planted[rule]), str(found.get(rule, 0)))
    console.print(table)
    console.print(f"their list: {listing}", highlight=False, soft_wrap=True)
