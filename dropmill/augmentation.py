"""Augmentation of a folder: what the commands do, with the class balance of the images behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl

from quality.balance import class_balance
from transforms.augment.executor import chosen_executor
from transforms.augment.generate import Report, generate, prepare
from transforms.augment.into_shards import folder_into_shards
from transforms.augment.preview import draw_sheet
from transforms.augment.sample import LabelledImage
from transforms.augment.spec import AugmentSpec

Progress = Callable[[int, int], None]
"""Called with the outputs that have been done since the last call, and the number of all."""


def augment(spec: AugmentSpec, *, progress: Progress = lambda _done, _all: None) -> tuple[Report, float]:
    """Carry out a spec; what was done, and the seconds it took.

    With ``actors`` the work is spread over Ray actors, each with threads or a GPU of its own.
    """
    start = time.monotonic()
    work = prepare(spec, repeat_factors_of)
    every = len(work.plans)
    actors = actors_of(spec)
    spread = None
    if actors:
        from dropmill.augmentation_actors import spread_over

        spread = spread_over(actors)
    report = generate(spec, work, carry_out_all=spread, progress=lambda done: progress(done, every))
    if spec.shards.format != "none":
        names = (plan.name for plan in work.plans if plan.name not in report.failed)
        shards = folder_into_shards(spec, work, report.folder / "images", names)
        report.notes.append(f"{len(shards.index.shards)} shards are in {report.folder / 'shards'}")
    return report, time.monotonic() - start


def actors_of(spec: AugmentSpec) -> int:
    """Ray actors that a spec asks for: by number, or one for each of several GPUs; 0 is none."""
    if spec.actors or spec.gpus < 2:
        return spec.actors
    executor, device = chosen_executor(spec.executor)
    return spec.gpus if executor == "dali" and device is not None else 0


def preview_sheet(spec: AugmentSpec, sheet: Path, *, count: int, cell: int) -> int:
    """Draw the first outputs of a spec as one PNG; returns how many were drawn."""
    return draw_sheet(prepare(spec, repeat_factors_of), sheet, count=count, cell=cell)


def repeat_factors_of(images: Sequence[LabelledImage]) -> Mapping[str, float]:
    """The repeat factor of each category, by the images that show it."""
    rows = [
        (image.sample, category, bool(ignore))
        for image in images
        for category, ignore in zip(image.objects.categories, image.objects.ignore, strict=True)
    ]
    schema = {"sample": pl.String, "category": pl.String, "ignore": pl.Boolean}
    return class_balance(pl.DataFrame(rows, schema=schema, orient="row")).repeat_factors()
