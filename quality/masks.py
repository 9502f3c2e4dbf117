"""What segmentations say, in bulk: their kind, their extent, and whether their outlines cross themselves."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

_EDGES_AT_ONCE = 200_000
_MOST_POINTS = 20_000
_MOST_PIXELS = 200_000_000
_Floats = npt.NDArray[np.float64]
_POLYGONS = pl.List(pl.List(pl.Float64))


def measure_masks(segmentations: pl.Series) -> pl.DataFrame:
    """Measure segmentations as they stand in the table ``annotations`` (JSON as in COCO, absolute pixels).

    Returns one row each: ``mask_kind`` (polygon, rle, malformed, or null where there is none), ``mask_xmin,
    mask_ymin, mask_xmax, mask_ymax`` (pixels, outer edges), ``mask_crossings`` (polygons that cross
    themselves) and ``mask_crosses``.
    """
    texts = segmentations.alias("text").cast(pl.String)
    rows = pl.DataFrame({"row": np.arange(len(texts), dtype=np.uint32), "text": texts})
    rows = rows.filter(pl.col("text").is_not_null() & ~pl.col("text").is_in(["[]", "null", ""]))
    lists = rows.filter(pl.col("text").str.starts_with("["))
    others = rows.filter(~pl.col("text").str.starts_with("["))
    parts = pl.concat([_of_polygons(lists), _of_runs(others)])
    every = pl.DataFrame({"row": np.arange(len(texts), dtype=np.uint32)})
    return (
        every.join(parts, on="row", how="left", maintain_order="left")
        .with_columns((pl.col("mask_crossings") > 0).alias("mask_crosses"))
        .drop("row")
    )


_PARTS = {
    "row": pl.UInt32,
    "mask_kind": pl.String,
    "mask_xmin": pl.Float64,
    "mask_ymin": pl.Float64,
    "mask_xmax": pl.Float64,
    "mask_ymax": pl.Float64,
    "mask_crossings": pl.UInt32,
}


def _of_polygons(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.is_empty():
        return pl.DataFrame(schema=_PARTS)
    parts = (
        rows.select("row", _decoded(rows["text"]).alias("polygon"))
        .explode("polygon", keep_nulls=True, empty_as_null=True)
        .with_columns(pl.col("polygon").list.len().alias("numbers"))
    )
    points = pl.col("polygon").list
    parts = parts.with_columns(
        (
            pl.col("polygon").is_not_null()
            & (pl.col("numbers") >= 6)
            & (pl.col("numbers") % 2 == 0)
            & (points.drop_nulls().list.len() == pl.col("numbers"))
            & points.sum().is_finite()
        ).alias("sound")
    )
    sound = parts.filter("sound")
    crossing = pl.Series("crosses", crossing_polygons(sound["polygon"]), dtype=pl.Boolean)
    measured = sound.select(
        "row",
        points.gather_every(2).list.min().alias("x1"),
        points.gather_every(2, 1).list.min().alias("y1"),
        points.gather_every(2).list.max().alias("x2"),
        points.gather_every(2, 1).list.max().alias("y2"),
    ).with_columns(crossing)
    whole = parts.group_by("row").agg(pl.col("sound").all())
    extents = measured.group_by("row").agg(
        pl.col("x1").min(),
        pl.col("y1").min(),
        pl.col("x2").max(),
        pl.col("y2").max(),
        pl.col("crosses").sum(),
    )
    kind = pl.when("sound").then(pl.lit("polygon")).otherwise(pl.lit("malformed"))
    return whole.join(extents, on="row", how="left").select(
        "row",
        kind.alias("mask_kind"),
        pl.col("x1").alias("mask_xmin"),
        pl.col("y1").alias("mask_ymin"),
        pl.col("x2").alias("mask_xmax"),
        pl.col("y2").alias("mask_ymax"),
        pl.col("crosses").cast(pl.UInt32).alias("mask_crossings"),
    )


def _decoded(texts: pl.Series) -> pl.Series:
    """Lists of polygons; null where the text is none. Bulk first, one by one only where a text is broken."""
    decoder = msgspec.json.Decoder(list[list[float]])
    # In bulk true would be read as 1.
    if not texts.str.contains_any(["true", "false"]).any():
        try:
            every = texts.str.json_decode(_POLYGONS)
            # A text such as "[],[]" would be read as two.
            if len(every) == len(texts):
                return every
        except pl.exceptions.PolarsError:
            pass
    values: list[list[list[float]] | None] = []
    for text in texts:
        try:
            values.append(decoder.decode(text))
        except (msgspec.DecodeError, ValueError, RecursionError):
            values.append(None)
    return pl.Series(values, dtype=_POLYGONS)


def crossing_polygons(polygons: pl.Series) -> npt.NDArray[np.bool_]:
    """Which polygons (lists x1, y1, x2, y2, ... of three points or more) have two edges that cross.

    Edges that only touch, or share an end, do not cross. Polygons of one length are looked at together; those
    of more than 20,000 points are not looked at.
    """
    crosses = np.zeros(len(polygons), np.bool_)
    lengths = polygons.list.len().cast(pl.Int64).to_numpy()
    for length in np.unique(lengths):
        count = int(length) // 2
        if not 4 <= count <= _MOST_POINTS:
            continue
        rows = np.flatnonzero(lengths == length)
        flat = polygons.gather(rows).explode(empty_as_null=True, keep_nulls=True)
        points = flat.to_numpy().reshape(len(rows), count, 2)
        chunk = max(1, _EDGES_AT_ONCE // count)
        for start in range(0, len(rows), chunk):
            crosses[rows[start : start + chunk]] = _any_crossing(points[start : start + chunk])
    return crosses


def _any_crossing(points: _Floats) -> npt.NDArray[np.bool_]:
    """Whether two edges of each polygon of ``points[N, P, 2]`` properly cross.

    Two segments cross if the ends of each lie strictly on both sides of the other. Every edge is compared
    with the one 2, 3, ... P/2 further on.
    """
    found = np.zeros(len(points), np.bool_)
    ends = np.roll(points, -1, axis=1)
    doubtful = ~_seen_from_the_middle(points, ends)
    for step in range(2, points.shape[1] // 2 + 1):
        left = np.flatnonzero(doubtful & ~found)
        a, b = points[left], ends[left]
        c, d = np.roll(a, -step, axis=1), np.roll(b, -step, axis=1)
        sides = _turn(a, b, c) * _turn(a, b, d) < 0
        found[left] = (sides & (_turn(c, d, a) * _turn(c, d, b) < 0)).any(axis=1)
    return found


def _seen_from_the_middle(points: _Floats, ends: _Floats) -> npt.NDArray[np.bool_]:
    """Polygons that go once around the mean of their points, always the same way: those never cross.

    Most outlines are so, and are done with at the cost of one pass over their points.
    """
    middle = points.mean(axis=1, keepdims=True)
    turns = _turn(np.broadcast_to(middle, points.shape), points, ends)
    one_way = (turns > 0).all(axis=1) | (turns < 0).all(axis=1)
    below, below_next = points[..., 1] < middle[..., 1], ends[..., 1] < middle[..., 1]
    return np.asarray(one_way & ((below & ~below_next).sum(axis=1) == 1))


def _turn(a: _Floats, b: _Floats, c: _Floats) -> _Floats:
    """Sign of the turn at b on the way from a to c: twice the area of the triangle, exact 0 near a line."""
    left = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1])
    right = (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    turn = left - right
    rounding = 4 * np.finfo(np.float64).eps * (np.abs(left) + np.abs(right))
    return np.asarray(np.where(np.abs(turn) <= rounding, 0.0, np.sign(turn)))


def mask_of(segmentation: str) -> npt.NDArray[np.bool_] | None:
    """The pixels ``mask[height, width]`` of a run-length segmentation; None where it is none or malformed."""
    try:
        runs = msgspec.json.decode(segmentation, type=_Runs)
        counts = _counts_of(runs)
        height, width = runs.size
        if (counts < 0).any() or counts.sum() != height * width or height * width > _MOST_PIXELS:
            return None
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError):
        return None
    filled = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.asarray(filled.reshape(width, height).T)


class _Runs(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[int]


def _of_runs(rows: pl.DataFrame) -> pl.DataFrame:
    decoder = msgspec.json.Decoder(_Runs)
    found = []
    for row, text in rows.iter_rows():
        try:
            runs = decoder.decode(text)
            extent = run_extent(_counts_of(runs), *runs.size)
        except (msgspec.DecodeError, ValueError, RecursionError, OverflowError):
            found.append((row, "malformed", None, None, None, None, None))
            continue
        found.append((row, "rle", *(extent or (None,) * 4), 0))
    return pl.DataFrame(found, schema=_PARTS, orient="row")


def _counts_of(runs: _Runs) -> npt.NDArray[np.int64]:
    return _decompressed(runs.counts) if isinstance(runs.counts, str) else np.array(runs.counts, np.int64)


def run_extent(counts: npt.NDArray[np.int64], height: int, width: int) -> tuple[float, ...] | None:
    """Outer edges ``xmin, ymin, xmax, ymax`` of a run-length mask; None where it is empty.

    COCO's order: column after column, the first count being of background. Raises ValueError where the
    counts do not add up to ``height * width``.
    """
    if height <= 0 or width <= 0 or (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"runs of {counts.sum()} pixels in {height}x{width}")
    ends = np.cumsum(counts)
    first, past = ends[:-1:2], ends[1::2]
    first = first[: len(past)]
    filled = past > first
    first, last = first[filled], past[filled] - 1
    if not len(first):
        return None
    whole = (first // height != last // height).any()
    top = 0 if whole else int((first % height).min())
    bottom = height if whole else int((last % height).max()) + 1
    return float(first[0] // height), float(top), float(last[-1] // height + 1), float(bottom)


def _decompressed(text: str) -> npt.NDArray[np.int64]:
    """COCO's compressed counts: groups of 5 bits with a sign, from the third on as differences to the count
    two before.
    """
    code = np.frombuffer(text.encode("latin-1"), np.uint8).astype(np.int64) - 48
    if not len(code) or (code < 0).any() or (code > 63).any() or code[-1] & 0x20:
        raise ValueError("not a compressed run-length code")
    end = (code & 0x20) == 0
    number = np.concatenate([[0], np.cumsum(end)[:-1]])
    starts = np.concatenate([[0], np.flatnonzero(end)[:-1] + 1])
    place = np.arange(len(code)) - starts[number]
    if place.max() > 7:
        raise ValueError("a count of more than 40 bits")
    values = np.bincount(number, weights=((code & 0x1F) << (5 * place)).astype(np.float64)).astype(np.int64)
    last = np.flatnonzero(end)
    values -= np.where(code[last] & 0x10, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
