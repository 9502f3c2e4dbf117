"""Images of other groups that look like those of a batch: across batches, at a few nanoseconds an image.

A finding about two images that show the same stands at one of them, and changes when the other comes, goes or
moves to another split. So the groups of a batch draw in the groups of images that look like theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from quality.limits import Limits
from quality.pictures import LOOK_COLUMNS
from quality.sets import alike, repeated_images
from storage.lake import LaneCommit

_COLUMNS = ["dataset", "sample", "stem", "key", "split", "phash", "deviation"]


class Gallery:
    """The looks of all images of some data sets, as the lake has them before a batch."""

    def __init__(self, commit: LaneCommit, datasets: Collection[str]) -> None:
        where = pc.field("dataset").isin(pa.array(sorted(datasets), pa.string()))
        self._commit = commit
        self._stored = _frame(
            commit.read("images", columns=_COLUMNS, where=where & pc.field("phash").is_valid())
        )

    def drawn_in(
        self, images: pl.DataFrame, stems: Mapping[str, set[str]], limits: Limits
    ) -> dict[str, set[str]]:
        """Groups beyond ``stems`` that have findings which ``images``, or what they replace, may change."""
        before, others = _parted(self._stored, stems)
        new = images.select(_COLUMNS)
        # A finding at the other image names one that it follows; an old look and an old split count as well.
        near = alike(others, pl.concat([before, new]), limits).filter("follows")
        found: dict[str, set[str]] = defaultdict(set)
        for dataset, stem in near.select("dataset", "stem").unique().iter_rows():
            found[dataset].add(stem)
        return found

    def findings(self, images: pl.DataFrame, stems: Mapping[str, set[str]], limits: Limits) -> pl.DataFrame:
        """Findings about ``images``, which are all of the groups ``stems``, beside all others."""
        _, others = _parted(self._stored, stems)
        near = alike(images, others, limits).select("dataset", "stem_right").unique()
        wanted: dict[str, set[str]] = defaultdict(set)
        for dataset, stem in near.iter_rows():
            wanted[dataset].add(stem)
        # Patterns are long, so they are read of the few images that need a second look.
        rows = self._commit.read("images", columns=[*_COLUMNS, "pattern"], among=[("stem", wanted)])
        columns = [*_COLUMNS, "pattern"]
        return repeated_images(
            images, limits, others=pl.concat([images.select(columns), _frame(rows).select(columns)])
        )


def _parted(images: pl.DataFrame, stems: Mapping[str, set[str]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Images of the groups ``stems``, and all others."""
    pairs = [(dataset, stem) for dataset, names in stems.items() for stem in names]
    keys = pl.DataFrame(pairs, schema={"dataset": pl.String, "stem": pl.String}, orient="row")
    on = ["dataset", "stem"]
    return images.join(keys, on=on, how="semi"), images.join(keys, on=on, how="anti")


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    types = {name: dtype for name, dtype in LOOK_COLUMNS.items() if name in frame.columns}
    return frame.cast(types)  # type: ignore[arg-type]
