"""Masks: kind, extent and crossings, against definitions and against pycocotools."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.masks import mask_of, measure_masks

_MASK_BOX = ("mask_xmin", "mask_ymin", "mask_xmax", "mask_ymax")


def measured(*texts: str | None) -> list[dict]:
    return measure_masks(pl.Series(list(texts), dtype=pl.String)).to_dicts()


def crosses(points: list[tuple[int, int]]) -> bool:
    """Whether two edges properly cross, in whole numbers and thus exactly."""

    def turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    edges = list(zip(points, points[1:] + points[:1], strict=True))
    for i, (a, b) in enumerate(edges):
        for j, (c, d) in enumerate(edges):
            if abs(i - j) in {0, 1, len(edges) - 1}:
                continue
            if turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0:
                return True
    return False


_point = st.tuples(st.integers(0, 8), st.integers(0, 8))


@settings(deadline=None)
@given(st.lists(st.lists(_point, min_size=3, max_size=9), min_size=1, max_size=8))
def test_crossings_are_those_that_exact_arithmetic_finds(polygons: list[list[tuple[int, int]]]) -> None:
    texts = [json.dumps([[value for point in polygon for value in point]]) for polygon in polygons]
    assert [row["mask_crosses"] for row in measured(*texts)] == [crosses(polygon) for polygon in polygons]


@settings(deadline=None)
@given(
    st.lists(st.floats(0.5, 100, width=32), min_size=3, max_size=60),
    st.floats(-500, 500),
    st.floats(-500, 500),
)
def test_stars_around_a_point_never_cross(radii: list[float], x: float, y: float) -> None:
    angles = np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    assert measured(json.dumps([points.ravel().tolist()]))[0]["mask_crosses"] is False


def test_the_extent_is_of_all_parts() -> None:
    (row,) = measured("[[1,2,5,2,5,6],[10,0,12,0,12.5,3]]")
    assert [row[name] for name in _MASK_BOX] == [1, 0, 12.5, 6]
    assert row["mask_kind"] == "polygon"


@pytest.mark.parametrize(
    "text",
    [
        "[[1,2,3,4]]",
        "[[1,2,3,4,5,6,7]]",
        "[[1,2,3,4,5,null]]",
        '[[1,2,3,4,5,"6"]]',
        "[1,2,3,4,5,6]",
        "[[1,2,3,4,5,6],[]]",
        "[[1,2,3,4,5,6]",
        "[[[[[[]]]]]]",
        "[[1e999,2,3,4,5,6]]",
        '{"size":[2,2],"counts":[1,2]}',
        '{"size":[2,2],"counts":[-1,5]}',
        '{"size":[2,2],"counts":"\\u0001"}',
        '{"size":[2],"counts":[4]}',
        '{"size":[0,0],"counts":[]}',
        '{"counts":[4]}',
        "{",
        "true",
        "[[1,2,3,4,5,6]],[[1,2,3,4,5,6]]",
        "[" * 5000,
    ],
)
def test_what_is_no_mask_is_malformed_and_leaves_its_neighbours_alone(text: str) -> None:
    good = "[[1,2,5,2,5,6]]"
    kinds = [row["mask_kind"] for row in measured(good, text, None, good, "[]")]
    assert kinds == ["polygon", "malformed", None, "polygon", None]


_bits = st.integers(1, 7).flatmap(
    lambda high: st.integers(1, 7).flatmap(
        lambda wide: st.lists(st.booleans(), min_size=high * wide, max_size=high * wide).map(
            lambda flat: np.array(flat).reshape(high, wide)
        )
    )
)


def _extent(mask: np.ndarray) -> list[float | None]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [None] * 4
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@settings(deadline=None)
@given(_bits)
def test_run_lengths_have_the_extent_and_the_pixels_of_their_mask(mask: np.ndarray) -> None:
    flat = mask.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    text = json.dumps({"size": list(mask.shape), "counts": counts})
    assert [measured(text)[0][name] for name in _MASK_BOX] == _extent(mask)
    assert np.array_equal(mask_of(text), mask)


@settings(deadline=None)
@given(_bits)
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(mask: np.ndarray) -> None:
    coder = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    runs = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = json.dumps({"size": runs["size"], "counts": runs["counts"].decode()})
    (row,) = measured(text)
    assert row["mask_kind"] == "rle"
    assert [row[name] for name in _MASK_BOX] == _extent(mask)
    assert np.array_equal(mask_of(text), mask)


def test_compressed_run_lengths_of_a_large_mask_are_read() -> None:
    coder = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.zeros((1080, 1920), np.uint8)
    mask[100:900, 300:1700] = 1
    mask[400:450, 10:1900] = 1
    runs = coder.encode(np.asfortranarray(mask))
    text = json.dumps({"size": runs["size"], "counts": runs["counts"].decode()})
    assert [measured(text)[0][name] for name in _MASK_BOX] == [10, 100, 1900, 900]
    assert np.array_equal(mask_of(text), mask.astype(bool))
