"""Pictures of a lake's images with their masks, to look at."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO

from quality.drawing import draw_sample
from storage.lake import Lake
from storage.object_store import ObjectStore


def draw_masks(
    lake: Lake, dataset: str, model: str, version: str, run: str, *, size: int, seed: int = 0
) -> int:
    """Draw up to ``size`` images, chosen by ``seed``, with the masks of one model; returns how many.

    They lie in ``artifacts/runs/<run>/pictures`` of the lake.
    """
    boxes = lake.sql(
        """SELECT a.sample, a.category, a.ignore, a.xmin, a.ymin, a.xmax, a.ymax, m.rle AS segmentation
           FROM masks m JOIN annotations a USING (dataset, sample, source, instance)
           WHERE m.dataset = $1 AND m.model = $2 AND m.model_version = $3""",
        parameters=[dataset, model, version],
    ).polars()
    images = lake.sql("SELECT sample, uri FROM images WHERE dataset = $1", parameters=[dataset]).polars()
    images = images.filter(images["sample"].is_in(boxes["sample"].unique().to_list()))
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_sample(images, boxes, Path(folder), size=size, read=_read, seed=seed)
        for path in drawn.files:
            lake.artifacts.upload(f"runs/{run}/pictures/{path.name}", path)
    return len(drawn.files)


def _read(uri: str) -> BinaryIO:
    import io

    folder, _, name = uri.rpartition("/")
    store = ObjectStore(folder)
    with store.open(name) as file:
        return io.BytesIO(file.read())
