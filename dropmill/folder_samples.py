"""Training samples straight from a folder of images and labels, in any form that is read."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from dropmill.delivered import read_folder
from dropmill.lake_samples import sample_of
from storage.errors import TrainingError
from training.samples import Sample


def read_folder_samples(
    annotations: Path, images: Path | None = None, *, form: str | None = None
) -> list[Sample]:
    """The labelled images of a folder (or of one label file with the folder ``images``), in their order.

    Boxes are as delivered, cut at the edge of their image; boxes without area are left out, and files that
    cannot be read. Splits are those of split files and of folders named train, val, test. ``form`` takes the
    labels of one form only. Raises ``ConfigError`` for a place that is not there, ``TrainingError`` where no
    image has labels.
    """
    base = annotations if annotations.is_dir() else annotations.parent
    material = read_folder(annotations, images or base, form=form).material
    labelled = material.images.filter(pl.col("labelled") & pl.col("uri").is_not_null()).sort("sample")
    width, height = pl.col("width"), pl.col("height")
    boxes = material.boxes.with_columns(
        pl.col("xmin").clip(0, width),
        pl.col("xmax").clip(0, width),
        pl.col("ymin").clip(0, height),
        pl.col("ymax").clip(0, height),
    )
    by_sample = {str(key[0]): frame for key, frame in boxes.partition_by("sample", as_dict=True).items()}
    samples = [sample_of(row, by_sample.get(row["sample"], boxes.clear())) for row in labelled.to_dicts()]
    if not samples:
        raise TrainingError(
            f"{annotations}: no image with labels among {material.images.height}; expected labels in one of "
            "the forms that `dropmill ingest` reads, and the folder of their images"
        )
    return samples
